//! The objects of the cluster as they were seen last: what compile is given, and what the API server needs to hear to
//! write to them. Watches hand changes in; they are taken over between two compilations, so that each sees one state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use tokio::sync::watch;
use tollgate_crds::{
    BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, ObjectRef as Reference, ProviderAccountSpec, RouteGroupSpec,
    TeamSpec, VirtualKeySpec,
};
use tollgate_snapshot::compile::{Document, Labels, Object};
use tollgate_snapshot::{Finding, ObjectRef};

/// What is known of an object beside its document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub uid: String,
    pub resource_version: String,
    /// `metadata.generation`: counts changes of the spec.
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// What is wrong with its text; the document is then its last good one.
    pub findings: Vec<Finding>,
}

/// All objects. Read through [`World::read`].
#[derive(Debug, Default)]
pub struct Objects {
    documents: Vec<Document>,
    /// Those of the documents, in the same order.
    records: Vec<Record>,
    /// Positions by kind, namespace and name.
    positions: HashMap<&'static str, BTreeMap<String, BTreeMap<String, usize>>>,
    namespaces: BTreeMap<String, Labels>,
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

    /// Labels of all namespaces that may be seen.
    pub fn namespaces(&self) -> &BTreeMap<String, Labels> {
        &self.namespaces
    }

    pub fn record(&self, object: &ObjectRef) -> Option<&Record> {
        Some(&self.records[self.position(object.kind, &object.namespace, &object.name)?])
    }

    /// The gateway that serves an object with this `gatewayRef` in this namespace: the one it names, else the default
    /// one. `None`: there is none. Whether it lets the namespace attach is for compile to say.
    pub fn gateway_of(
        &self,
        reference: Option<&Reference>,
        namespace: &str,
    ) -> Option<(&Object<LLMGatewaySpec>, &Record)> {
        match reference {
            Some(Reference { name, namespace: other }) => self.gateway(other.as_deref().unwrap_or(namespace), name),
            None => self.default_gateway(),
        }
    }

    /// The one marked `default`, or the only one; the oldest of several, as compile has it.
    pub fn default_gateway(&self) -> Option<(&Object<LLMGatewaySpec>, &Record)> {
        let any_marked = self.gateways().any(|(gateway, _)| gateway.spec.default);
        let candidates = self.gateways().filter(|(gateway, _)| gateway.spec.default || !any_marked);
        candidates.min_by_key(|(gateway, _)| gateway.meta.created_at.unwrap_or(i64::MAX))
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
    changed: watch::Sender<u64>,
}

impl Default for World {
    fn default() -> World {
        World { objects: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl World {
    /// The objects as of now. Not to be held across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().expect("no writer of the lock panics")
    }

    /// Changes after objects changed; status alone does not count. 0: not everything was seen yet, nothing should be
    /// concluded from what is absent.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
