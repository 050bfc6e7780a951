//! I/O: asks one proxy, again and again, what its budgets need, and brings it the answers. One question is always open,
//! so a call that waits for allowance is heard at once.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tollgate_allocator::{Answers, Batch, Exchange, ReplicaId};

use super::desk::Ask;
use crate::backoff::Backoff;
use crate::facts::Named;
use crate::proxies::{Asker, Fleet};

/// How long a proxy may keep a question open when it needs nothing.
const WAIT: Duration = Duration::from_millis(1_000);

/// Between two questions, so that a proxy whose calls all wait does not keep the operator busy.
const PACE: Duration = Duration::from_millis(10);

/// The way to one proxy.
pub struct Caller {
    pub asker: Asker,
    pub fleet: Fleet,
    pub gateway: Named,
    pub pod: String,
    pub uid: String,
    pub address: SocketAddr,
    pub desk: mpsc::Sender<Ask>,
    /// Its gateway counts elsewhere: a proxy that does so too is not asked any more.
    pub until_elsewhere: bool,
}

impl Caller {
    /// Until the pod is gone, or another of its name is there, or it has nothing to do with the operator.
    pub async fn run(self) {
        let mut answers: Vec<Answers> = Vec::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        while let Some(token) = self.fleet.token_of(&self.gateway, &self.pod, &self.uid, self.address) {
            let exchange = Exchange { answers: std::mem::take(&mut answers), wait_ms: WAIT.as_millis() as u64 };
            match self.asker.allowance(self.address, &token, &exchange).await {
                Ok(exchanged) => {
                    backoff.reset();
                    // One that counts here tells at least that it is there.
                    if self.until_elsewhere && exchanged.batches.is_empty() {
                        return;
                    }
                    answers = self.ask(exchanged.batches).await;
                    tokio::time::sleep(PACE).await;
                }
                Err(error) => {
                    tracing::debug!(pod = %self.pod, %error, "proxy `{}` does not say what its budgets need: {error}", self.pod);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Has the desk decide. Nothing comes back where it cannot: the proxy tells the same again.
    async fn ask(&self, batches: Vec<Batch>) -> Vec<Answers> {
        let mut answers = Vec::new();
        for Batch { replica, reports } in batches {
            let (tell, told) = oneshot::channel();
            // Replicas of one name in two pods are two.
            let ask = Ask { replica: full_name(&self.pod, &replica), reports, tell };
            if self.desk.send(ask).await.is_err() {
                break;
            }
            if let Ok(told) = told.await {
                answers.push(Answers { replica, answers: told });
            }
        }
        answers
    }
}

/// Of a replica, over all pods.
pub fn full_name(pod: &str, ReplicaId(replica): &ReplicaId) -> ReplicaId {
    ReplicaId(format!("{pod}/{replica}"))
}

/// Of a replica whose pod is not known yet. No pod has an empty name.
pub fn stranger(ReplicaId(replica): &ReplicaId) -> ReplicaId {
    ReplicaId(format!("/{replica}"))
}

/// As the replica calls itself.
pub fn own_name(ReplicaId(name): &ReplicaId) -> ReplicaId {
    ReplicaId(name.split_once('/').map_or(name.as_str(), |(_, own)| own).to_owned())
}

/// The pod of a replica.
pub fn pod_of(ReplicaId(name): &ReplicaId) -> &str {
    name.split_once('/').map_or("", |(pod, _)| pod)
}

/// The data folder of a replica, over all pods, and which of its processes it is: they follow one another, each with a
/// larger number.
pub fn process_of(ReplicaId(name): &ReplicaId) -> Option<(&str, u64)> {
    let folder = name.find('/')? + 1;
    let end = folder + name[folder..].find('.')?;
    let number = name[end + 1..].split('.').next()?;
    Some((&name[..end], number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_a_folder_are_known_by_their_order() {
        let replica = |name: &str| full_name("gateway-5.x", &ReplicaId(name.to_owned()));
        assert_eq!(process_of(&replica("folder.3")), Some(("gateway-5.x/folder", 3)));
        assert_eq!(
            process_of(&replica("folder.12.1")),
            Some(("gateway-5.x/folder", 12)),
            "one that was taken for gone"
        );
        assert_eq!(process_of(&replica("folder")), None);
        assert_eq!(pod_of(&replica("folder.3")), "gateway-5.x");
        assert_eq!(own_name(&replica("folder.3")).0, "folder.3");
        let stranger = stranger(&own_name(&replica("folder.3")));
        assert_eq!((pod_of(&stranger), own_name(&stranger).0.as_str()), ("", "folder.3"));
    }
}
