//! Events on objects, on transitions only. Putting one never waits: they go through a bounded queue that one part writes
//! out, and what does not fit is dropped, because conditions say the same.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event as Published, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tollgate_snapshot::ObjectRef;

use crate::Context;
use crate::error::{Ended, Error};
use crate::metrics::Metrics;
use crate::names::MANAGER;

/// What is said about an object of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub object: ObjectRef,
    pub uid: String,
    /// Something is wrong.
    pub warning: bool,
    /// CamelCase, of a closed set.
    pub reason: String,
    /// What was done or tried, CamelCase. Example: `Publish`. Events that differ in their note only are one with a count.
    pub action: String,
    /// One line. Holds no secret.
    pub note: String,
}

/// A handle on the queue, cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    metrics: Metrics,
}

/// Events that wait to be written.
pub type Queue = mpsc::Receiver<Event>;

/// A storm of events (a Secret that a thousand objects name) is cut here.
const WAITING: usize = 1_024;

/// Longest note that API servers take, in bytes.
const LONGEST_NOTE: usize = 1_000;

impl Events {
    pub fn new(metrics: Metrics) -> (Events, Queue) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Events { queue: sender, metrics }, receiver)
    }

    /// Puts one; drops it where too many wait.
    pub fn put(&self, event: Event) {
        if let Err(error) = self.queue.try_send(event) {
            self.metrics.event_dropped();
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// Writes them out, the same ones within minutes as one with a count. Ends only when the operator does.
pub async fn run(context: Context, mut queue: Queue) -> Ended {
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(context.settings.identity.clone()) };
    let recorder = Recorder::new(context.client.clone(), reporter);
    while let Some(event) = queue.recv().await {
        let Event { object, uid, warning, reason, action, mut note } = event;
        if note.len() > LONGEST_NOTE {
            let end = (0..=LONGEST_NOTE).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
            note.truncate(end);
        }
        let regarding = ObjectReference {
            api_version: Some(tollgate_crds::API_VERSION.to_owned()),
            kind: Some(object.kind.to_owned()),
            namespace: Some(object.namespace.clone()),
            name: Some(object.name.clone()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let event = Published {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason,
            note: Some(note),
            action,
            secondary: None,
        };
        let written = recorder.publish(&event, &regarding).await;
        context.metrics.wrote("Event", &written);
        // Nobody waits for an Event, and the conditions say the same.
        if let Err(error) = written {
            tracing::debug!(%error, "cannot write an Event on {object}: {error}");
        }
    }
    Err(Error::PartEnded("events"))
}
