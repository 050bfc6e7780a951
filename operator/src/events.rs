//! Events on objects, on transitions only. Putting one never waits: they go through a bounded queue that one part writes
//! out, and what does not fit is dropped, because conditions say the same.

use tokio::sync::mpsc;
use tollgate_snapshot::ObjectRef;

/// What is said about an object of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub object: ObjectRef,
    pub uid: String,
    /// Something is wrong.
    pub warning: bool,
    /// CamelCase, of a closed set.
    pub reason: String,
    /// What was done or tried, CamelCase. Example: `Publish`.
    pub action: &'static str,
    /// One line. Holds no secret.
    pub note: String,
}

/// A handle on the queue, cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Event>,
}

/// Events that wait to be written.
pub type Queue = mpsc::Receiver<Event>;

/// A storm of events (a Secret that a thousand objects name) is cut here.
const WAITING: usize = 1_024;

impl Events {
    pub fn new() -> (Events, Queue) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Events { queue: sender }, receiver)
    }

    /// Puts one; drops it where too many wait.
    pub fn put(&self, event: Event) {
        if let Err(error) = self.queue.try_send(event) {
            tracing::debug!(%error, "event dropped");
        }
    }
}
