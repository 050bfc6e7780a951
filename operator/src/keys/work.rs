//! I/O: looks at one key and brings its Secret and what is remembered of it together.

use std::time::Duration;

use kube::Client;
use tollgate_snapshot::KeyHash;

use super::plan::{Step, Wish};
use super::secret::{Failed, Place};
use super::text::{new_key, prefix};
use crate::facts::{Facts, KeyFact, Problem};

/// How long a new key may take to get into the status. Then it is tried again, with another key.
const REMEMBERED_WITHIN: Duration = Duration::from_secs(15);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What an object's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InStatus {
    /// The hash of its key.
    Key(Option<KeyHash>),
    /// The object is not there any more, or another one has its name.
    Gone,
}

/// A key to look at.
#[derive(Clone, Debug)]
pub struct Work {
    pub place: Place,
    pub wish: Wish,
    pub known: KeyFact,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be.
    Settled,
    /// Something was done; look again to see that it is right.
    Again,
    /// It waits for somebody.
    Blocked,
    /// It passes.
    Failed,
}

impl Work {
    /// `in_status`: what the resource's status says now.
    pub async fn run(self, client: &Client, facts: &Facts, in_status: impl Fn() -> InStatus, now: i64) -> Outcome {
        let Place { namespace, name, .. } = &self.place;
        let tell = |fact: KeyFact| facts.set_key(namespace, name, KeyFact { uid: self.place.uid.clone(), ..fact });
        match self.try_run(client, facts, in_status, now).await {
            Ok(outcome) => outcome,
            Err(Failed::Problem(problem)) => {
                tell(KeyFact { problem: Some(problem), ..self.known.clone() });
                Outcome::Blocked
            }
            Err(Failed::Raced) => Outcome::Again,
            Err(Failed::Server(error)) => {
                tracing::warn!(namespace, name, %error, "cannot look after the key of VirtualKey `{namespace}/{name}`");
                Outcome::Failed
            }
        }
    }

    async fn try_run(
        &self,
        client: &Client,
        facts: &Facts,
        in_status: impl Fn() -> InStatus,
        now: i64,
    ) -> Result<Outcome, Failed> {
        let Work { place, wish, known } = self;
        let tell = |fact: KeyFact| {
            facts.set_key(&place.namespace, &place.name, KeyFact { uid: place.uid.clone(), ..fact });
        };
        let read = place.read(client).await?;
        match wish.step(known, read.found, now) {
            Step::Nothing => {
                tell(KeyFact { problem: None, ..known.clone() });
                Ok(Outcome::Settled)
            }
            Step::Refuse => Err(Failed::Problem(Problem {
                reason: "SecretNotOurs",
                message: format!(
                    "Secret `{}` exists and was not made for this key; write policy: Adopt to use what it holds, or name \
                     another Secret",
                    place.secret
                ),
            })),
            Step::Create => {
                let key = made()?;
                place.write(client, &read, &key).await?;
                tracing::info!(
                    namespace = place.namespace,
                    name = place.name,
                    "made a key in Secret `{}`",
                    place.secret
                );
                tell(self.fresh(KeyHash::of(key.as_bytes()), Some(prefix(&key)), None, now));
                Ok(Outcome::Settled)
            }
            Step::Adopt(hash) => {
                tell(self.fresh(hash, read.prefix, None, now));
                Ok(Outcome::Settled)
            }
            Step::ForgetPrevious => {
                tell(KeyFact { previous: None, problem: None, ..known.clone() });
                Ok(Outcome::Settled)
            }
            Step::Replace(previous) => {
                let key = made()?;
                let hash = KeyHash::of(key.as_bytes());
                tell(self.fresh(hash, Some(prefix(&key)), previous, now));
                match when_remembered(&in_status, hash).await {
                    Some(InStatus::Key(_)) => {}
                    Some(InStatus::Gone) => return Ok(Outcome::Again),
                    None => {
                        tell(known.clone());
                        return Ok(Outcome::Failed);
                    }
                }
                place.write(client, &read, &key).await?;
                tracing::info!(
                    namespace = place.namespace,
                    name = place.name,
                    "replaced the key in Secret `{}`",
                    place.secret
                );
                Ok(Outcome::Settled)
            }
        }
    }

    fn fresh(&self, hash: KeyHash, prefix: Option<String>, previous: Option<(KeyHash, i64)>, now: i64) -> KeyFact {
        KeyFact {
            uid: self.place.uid.clone(),
            hash: Some(hash),
            previous,
            prefix,
            made_at: Some(now),
            secret: Some(self.place.secret.clone()),
            request: self.wish.request.clone(),
            problem: None,
        }
    }
}

fn made() -> Result<String, Failed> {
    new_key().map_err(|error| {
        let message = format!("the system gives no randomness for a key: {error}");
        Failed::Problem(Problem { reason: "NoRandomness", message })
    })
}

/// When the status has this key, or nobody will write it any more. `None`: it took too long.
async fn when_remembered(in_status: &impl Fn() -> InStatus, hash: KeyHash) -> Option<InStatus> {
    let mut again = tokio::time::interval(LOOK_EVERY);
    let seen = async {
        loop {
            let says = in_status();
            if matches!(says, InStatus::Gone) || says == InStatus::Key(Some(hash)) {
                return says;
            }
            again.tick().await;
        }
    };
    tokio::time::timeout(REMEMBERED_WITHIN, seen).await.ok()
}
