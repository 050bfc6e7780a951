//! I/O: shares of rate limits over the proxies of a gateway. A question is always open at each proxy; it is answered when
//! a limit is near, and cut short when there is something to say to the proxy. What is decided is in
//! `tollgate_allocator::rates`; nothing of it is kept, for a minute later all is counted anew.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tollgate_allocator::ReplicaId;
use tollgate_allocator::rates::Sharing;

use crate::Context;
use crate::backoff::Backoff;
use crate::error::Ended;
use crate::facts::Named;
use crate::proxies::{AskError, Asker, Fleet};

/// How often the proxies that are there are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long a proxy may keep a question open when no limit is near.
const WAIT: Duration = Duration::from_millis(1_000);

/// Between two questions, so that a proxy whose clients are refused all the time does not keep the operator busy.
const PACE: Duration = Duration::from_millis(20);

/// Before a proxy of a version that shares nothing is asked again.
const UNKNOWN: Duration = Duration::from_secs(60);

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        // What was known may be old when this process leads again.
        if let Some(never) = context.leadership.while_leading(lead(&context.fleet)).await {
            match never {}
        }
    }
}

async fn lead(fleet: &Fleet) -> Infallible {
    let asker = Asker::default();
    let began = Instant::now();
    let mut tables: HashMap<Named, Table> = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let there = fleet.callable();
        tables.retain(|gateway, _| there.contains_key(gateway));
        for (gateway, proxies) in there {
            let table = tables.entry(gateway.clone()).or_insert_with(|| Table::new(began));
            table.ended();
            let ids = proxies.iter().map(|(_, uid, _)| ReplicaId(uid.clone()));
            table.shared.look(ids);
            for (pod, uid, address) in proxies {
                if !table.asked.contains(&uid) {
                    table.asked.push(uid.clone());
                    let proxy = OfFleet { fleet: fleet.clone(), gateway: gateway.clone(), pod, address };
                    table.tasks.spawn(table.shared.clone().talk(asker.clone(), proxy, uid));
                }
            }
        }
    }
}

/// One gateway. Its tasks end with it.
struct Table {
    shared: Arc<Shared>,
    /// Each ends when its proxy does, and says which it was.
    tasks: JoinSet<String>,
    /// Uids of the proxies that are talked to.
    asked: Vec<String>,
}

impl Table {
    fn new(began: Instant) -> Table {
        let leader = format!("{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
        let shared = Shared { sharing: Sharing::new(leader, 0).into(), began, moved: watch::Sender::new(()) };
        Table { shared: Arc::new(shared), tasks: JoinSet::new(), asked: Vec::new() }
    }

    fn ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(uid) => self.asked.retain(|asked| *asked != uid),
                Err(error) => tracing::error!(%error, "a part of the sharing of rates failed"),
            }
        }
    }
}

/// What those who talk to the proxies of one gateway have in common.
struct Shared {
    sharing: Mutex<Sharing>,
    began: Instant,
    /// Shares may have moved.
    moved: watch::Sender<()>,
}

/// The way to a proxy, as long as it is there.
struct OfFleet {
    fleet: Fleet,
    gateway: Named,
    pod: String,
    address: SocketAddr,
}

impl OfFleet {
    fn token(&self, uid: &str) -> Option<Arc<str>> {
        self.fleet.token_of(&self.gateway, &self.pod, uid, self.address)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sharing> {
        self.sharing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&self, there: impl Iterator<Item = ReplicaId>) {
        let now_ms = self.now_ms();
        let mut sharing = self.lock();
        sharing.present(there, now_ms);
        sharing.look(now_ms);
        drop(sharing);
        self.changed();
    }

    fn changed(&self) {
        self.moved.send_replace(());
    }

    /// Until there is something to say to a proxy.
    async fn news(&self, replica: &ReplicaId) {
        let mut moved = self.moved.subscribe();
        while !self.lock().has_news(replica) {
            moved.changed().await.expect("the sender is in self");
        }
    }

    /// Until the pod is gone, or another of its name is there. Answers with the uid.
    async fn talk(self: Arc<Self>, asker: Asker, proxy: OfFleet, uid: String) -> String {
        let replica = ReplicaId(uid.clone());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        while let Some(token) = proxy.token(&uid) {
            let told = self.lock().tell(&replica, WAIT.as_millis() as u64);
            let answered = tokio::select! {
                answered = asker.rates(proxy.address, &token, &told) => answered,
                // Shares that are told again and again change nothing, so the question may be given up anywhere.
                () = self.news(&replica) => continue,
            };
            match answered {
                Ok(telling) => {
                    backoff.reset();
                    self.lock().hear(&replica, &telling, self.now_ms());
                    self.changed();
                    tokio::time::sleep(PACE).await;
                }
                Err(AskError::Status(StatusCode::NOT_FOUND)) => tokio::time::sleep(UNKNOWN).await,
                Err(error) => {
                    tracing::debug!(pod = %proxy.pod, %error, "proxy `{}` does not say how rates are used: {error}", proxy.pod);
                    backoff.wait().await;
                }
            }
        }
        uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxies::Published;
    use crate::proxies::tests::{FakeProxy, fleet, named, until};
    use tollgate_allocator::rates::{Report, Told};

    fn says(proxy: &FakeProxy, reports: &[Report]) {
        let body = serde_json::json!({"reports": reports}).to_string();
        proxy.says("/operator/rates", 200, &body);
    }

    /// The share that a proxy was told last.
    fn share(proxy: &FakeProxy) -> Option<u64> {
        let told = |asked: &String| {
            let body = asked.strip_prefix("/operator/rates Bearer secret ")?;
            serde_json::from_str::<Told>(body).ok()?.shares.first()?.share
        };
        proxy.asked().iter().rev().find_map(told)
    }

    #[tokio::test]
    async fn what_one_proxy_needs_is_taken_from_the_other_first() {
        let mut tasks = JoinSet::new();
        let (busy, idle) = (FakeProxy::default(), FakeProxy::default());
        let addresses = [busy.start(&mut tasks).await, idle.start(&mut tasks).await];
        let report = |share, is_usual, used| Report {
            limit: "key a/b requests".to_owned(),
            most: 100,
            share,
            is_usual,
            used,
            resets_in_ms: 60_000,
            ..Report::default()
        };
        says(&busy, &[report(50, true, 40)]);
        says(&idle, &[]);
        let fleet = fleet(&addresses);
        let named = named();
        fleet.publish(&named.0, &named.1, Published { generation: 1, token: "secret".into() });
        tasks.spawn(async move { match lead(&fleet).await {} });
        until(|| share(&idle).is_some()).await;
        let left = share(&idle).expect("it was told");
        assert!(left < 50, "{left}");
        assert_eq!(share(&busy), None, "the other one did not say yet that it has given up its part");
        says(&idle, &[report(left, false, 0)]);
        until(|| share(&busy) == Some(100 - left)).await;
        // Not again as long as nothing changes.
        says(&busy, &[report(100 - left, false, 41)]);
        until(|| busy.asked().last().is_some_and(|asked| !asked.contains("shares"))).await;
    }
}
