//! The objects of the cluster as they were seen last: what compile is given, and what the API server needs to hear to
//! write to them. Watches hand changes in; they are taken over between two compilations, so that each sees one state.

mod changes;
mod read;
mod seen;
pub mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use tokio::sync::{Notify, watch as signal};
use tollgate_crds::{
    BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, ProviderAccountSpec, RouteGroupSpec, TeamSpec, VirtualKeySpec,
};
use tollgate_snapshot::compile::{Document, Labels, Object};
use tollgate_snapshot::{Finding, ObjectRef};

use changes::Change;
pub(crate) use changes::Taken;
pub use seen::{Figures, Seen, SeenCondition, digest, solid, text_of};

/// What is known of an object beside its document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub uid: String,
    pub resource_version: String,
    /// `metadata.generation`: counts changes of the spec.
    pub generation: i64,
    /// What is wrong with its text; the document is then its last good one.
    pub findings: Vec<Finding>,
    /// Its status.
    pub seen: Seen,
    /// The [`Objects::round`] that this document came with.
    pub round: u64,
}

/// All objects. Read through [`World::read`].
#[derive(Debug, Default)]
pub struct Objects {
    documents: Vec<Document>,
    /// Those of the documents, in the same order.
    records: Vec<Record>,
    /// Positions by kind, namespace and name.
    positions: HashMap<&'static str, BTreeMap<String, BTreeMap<String, usize>>>,
    /// Objects that never could be read, so that there is no document.
    unreadable: BTreeMap<ObjectRef, Record>,
    namespaces: BTreeMap<String, Labels>,
    /// Counts up whenever changes are taken over.
    round: u64,
    /// What is still to be listed for the first time; with it, nothing can be said of what is absent.
    unlisted: usize,
}

macro_rules! of_kind {
    ($($(#[$doc:meta])* $all:ident, $one:ident: $kind:ident, $spec:ty;)*) => {
        impl Objects {
            $(
                $(#[$doc])*
                pub fn $all(&self) -> impl Iterator<Item = (&Object<$spec>, &Record)> {
                    self.positions_of(stringify!($kind)).filter_map(|at| match &self.documents[at] {
                        Document::$kind(object) => Some((&**object, &self.records[at])),
                        _ => None,
                    })
                }

                /// The one of that name.
                pub fn $one(&self, namespace: &str, name: &str) -> Option<(&Object<$spec>, &Record)> {
                    let at = self.position(stringify!($kind), namespace, name)?;
                    match &self.documents[at] {
                        Document::$kind(object) => Some((object, &self.records[at])),
                        _ => None,
                    }
                }
            )*
        }
    };
}

of_kind! {
    /// By namespace and name, like all of these.
    gateways, gateway: LLMGateway, LLMGatewaySpec;
    accounts, account: ProviderAccount, ProviderAccountSpec;
    deployments, deployment: ModelDeployment, ModelDeploymentSpec;
    groups, group: RouteGroup, RouteGroupSpec;
    teams, team: Team, TeamSpec;
    keys, key: VirtualKey, VirtualKeySpec;
    budgets, budget: Budget, BudgetSpec;
}

impl Objects {
    /// In no order.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Each document with its record, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Document, &Record)> {
        self.documents.iter().zip(&self.records)
    }

    /// Objects without a document: their text never could be read.
    pub fn unreadable(&self) -> impl Iterator<Item = (&ObjectRef, &Record)> {
        self.unreadable.iter()
    }

    /// Counts up whenever changes are taken over; 0 before the first.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Whether everything was listed once.
    pub fn is_complete(&self) -> bool {
        self.round > 0 && self.unlisted == 0
    }

    /// Labels of all namespaces that may be seen.
    pub fn namespaces(&self) -> &BTreeMap<String, Labels> {
        &self.namespaces
    }

    pub fn record(&self, object: &ObjectRef) -> Option<&Record> {
        match self.position(object.kind, &object.namespace, &object.name) {
            Some(at) => Some(&self.records[at]),
            None => self.unreadable.get(object),
        }
    }

    /// The UID of a gateway, which owns what is kept for it.
    pub fn gateway_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.gateway(namespace, name).map(|(_, record)| record.uid.clone())
    }

    fn position(&self, kind: &str, namespace: &str, name: &str) -> Option<usize> {
        self.positions.get(kind)?.get(namespace)?.get(name).copied()
    }

    fn positions_of(&self, kind: &str) -> impl Iterator<Item = usize> {
        self.positions
            .get(kind)
            .into_iter()
            .flat_map(|namespaces| namespaces.values())
            .flat_map(|names| names.values())
            .copied()
    }
}

/// A handle on all objects, cheap to clone.
#[derive(Clone, Debug)]
pub struct World {
    objects: Arc<RwLock<Objects>>,
    /// What watches brought since the last round, in order.
    pending: Arc<Mutex<Vec<Change>>>,
    arrived: Arc<Notify>,
    changed: signal::Sender<u64>,
}

impl Default for World {
    fn default() -> World {
        World {
            objects: Arc::default(),
            pending: Arc::default(),
            arrived: Arc::default(),
            changed: signal::Sender::new(0),
        }
    }
}

impl World {
    /// The objects as of the last round. Not to be held across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().expect("no writer of the lock panics")
    }

    /// Changes after objects changed; status alone does not count. 0: not everything was listed yet, nothing should be
    /// concluded from what is absent.
    pub fn subscribe(&self) -> signal::Receiver<u64> {
        self.changed.subscribe()
    }

    /// `sources`: how many things will be listed.
    fn expect(&self, sources: usize) {
        self.objects.write().expect("no writer of the lock panics").unlisted = sources;
    }

    fn push(&self, change: Change) {
        self.pending.lock().expect("no holder of the lock panics").push(change);
        self.arrived.notify_one();
    }

    /// Whether something waits to be taken over that makes other tables than these objects do. What comes back of statuses
    /// that were written here does not.
    pub(crate) fn has_edits(&self, objects: &Objects) -> bool {
        self.pending.lock().expect("no holder of the lock panics").iter().any(|change| objects.is_changed_by(change))
    }

    /// Waits until there is something to take over. For one caller.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes over what watches brought. Waits for readers, so nobody may read meanwhile on the same thread.
    pub(crate) fn take_over(&self) -> Taken {
        let pending = std::mem::take(&mut *self.pending.lock().expect("no holder of the lock panics"));
        let mut objects = self.objects.write().expect("no writer of the lock panics");
        let taken = objects.take_over(pending);
        if taken.documents && objects.is_complete() {
            self.changed.send_replace(objects.round);
        }
        taken
    }
}
