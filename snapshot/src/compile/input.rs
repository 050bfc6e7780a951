//! What `compile` is given: documents as users wrote them, Secrets, and the few facts that a pure function cannot know
//! (the time, where the mock listens, hashes of generated keys). Slim: ten thousand keys are held like this.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_crds::{
    BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, ProviderAccountSpec, RouteGroupSpec, TeamSpec, VirtualKeySpec,
};

use crate::finding::ObjectRef;
use crate::model::{Endpoint, GatewayName, KeyHash, Snapshot};
use crate::price::PriceTable;

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// The part of an object's metadata that decides something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Filled in by the caller where a document names none.
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub annotations: Labels,
    /// Unix seconds; `None` where nothing records it (files). Decides who came first.
    pub created_at: Option<i64>,
    /// Somebody deleted it, and it is still there because something waits for it. It counts as gone.
    pub deleting: bool,
}

impl Meta {
    /// Only the names.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Meta {
        Meta { namespace: namespace.into(), name: name.into(), ..Meta::default() }
    }
}

/// An object of one kind, without its status.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<S> {
    pub meta: Meta,
    pub spec: S,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    LLMGateway(Box<Object<LLMGatewaySpec>>),
    ProviderAccount(Box<Object<ProviderAccountSpec>>),
    ModelDeployment(Box<Object<ModelDeploymentSpec>>),
    RouteGroup(Box<Object<RouteGroupSpec>>),
    Team(Box<Object<TeamSpec>>),
    VirtualKey(Box<Object<VirtualKeySpec>>),
    Budget(Box<Object<BudgetSpec>>),
}

impl Document {
    pub fn kind(&self) -> &'static str {
        match self {
            Document::LLMGateway(_) => LLMGatewaySpec::NAME,
            Document::ProviderAccount(_) => ProviderAccountSpec::NAME,
            Document::ModelDeployment(_) => ModelDeploymentSpec::NAME,
            Document::RouteGroup(_) => RouteGroupSpec::NAME,
            Document::Team(_) => TeamSpec::NAME,
            Document::VirtualKey(_) => VirtualKeySpec::NAME,
            Document::Budget(_) => BudgetSpec::NAME,
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Document::LLMGateway(object) => &object.meta,
            Document::ProviderAccount(object) => &object.meta,
            Document::ModelDeployment(object) => &object.meta,
            Document::RouteGroup(object) => &object.meta,
            Document::Team(object) => &object.meta,
            Document::VirtualKey(object) => &object.meta,
            Document::Budget(object) => &object.meta,
        }
    }

    /// How findings name it.
    pub fn object_ref(&self) -> ObjectRef {
        let Meta { namespace, name, .. } = self.meta();
        ObjectRef { kind: self.kind(), namespace: namespace.clone(), name: name.clone() }
    }
}

/// A spec that knows which kind it is of.
pub trait Kind {
    const NAME: &'static str;
}

macro_rules! kinds {
    ($($spec:ident = $name:literal),* $(,)?) => {
        $(impl Kind for $spec {
            const NAME: &'static str = $name;
        })*
    };
}

kinds!(
    LLMGatewaySpec = "LLMGateway",
    ProviderAccountSpec = "ProviderAccount",
    ModelDeploymentSpec = "ModelDeployment",
    RouteGroupSpec = "RouteGroup",
    TeamSpec = "Team",
    VirtualKeySpec = "VirtualKey",
    BudgetSpec = "Budget",
);

/// A Secret, decoded. Its values never appear in output of any sort.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub meta: Meta,
    pub data: BTreeMap<String, Arc<str>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<&String> = self.data.keys().collect();
        f.debug_struct("Secret").field("meta", &self.meta).field("entries", &entries).finish_non_exhaustive()
    }
}

/// Secrets by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    known: HashMap<String, BTreeMap<String, Secret>>,
    unread: HashMap<String, BTreeMap<String, Unread>>,
}

/// Why nobody can say what is in a Secret or ConfigMap, or whether it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The API server says no.
    Forbidden,
    /// It could not be asked yet; in a few words why.
    Failed(String),
}

impl Secrets {
    /// Replaces one of the same name and says which.
    pub fn insert(&mut self, secret: Secret) -> Option<Secret> {
        self.known.entry(secret.meta.namespace.clone()).or_default().insert(secret.meta.name.clone(), secret)
    }

    /// One that could not be read.
    pub fn insert_unread(&mut self, namespace: &str, name: &str, why: Unread) {
        self.unread.entry(namespace.to_owned()).or_default().insert(name.to_owned(), why);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Secret> {
        self.known.get(namespace)?.get(name)
    }

    /// Why [`Secrets::get`] has none; `None`: there is none.
    pub fn unread(&self, namespace: &str, name: &str) -> Option<&Unread> {
        self.unread.get(namespace)?.get(name)
    }
}

impl FromIterator<Secret> for Secrets {
    fn from_iter<I: IntoIterator<Item = Secret>>(secrets: I) -> Secrets {
        let mut all = Secrets::default();
        for secret in secrets {
            all.insert(secret);
        }
        all
    }
}

/// ConfigMaps that hold prices, by namespace and name: their entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMaps {
    known: BTreeMap<(String, String), BTreeMap<String, Arc<str>>>,
    unread: BTreeMap<(String, String), Unread>,
}

impl ConfigMaps {
    /// Replaces one of the same name.
    pub fn insert(&mut self, namespace: &str, name: &str, entries: BTreeMap<String, Arc<str>>) {
        self.known.insert((namespace.to_owned(), name.to_owned()), entries);
    }

    /// One that could not be read.
    pub fn insert_unread(&mut self, namespace: &str, name: &str, why: Unread) {
        self.unread.insert((namespace.to_owned(), name.to_owned()), why);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&BTreeMap<String, Arc<str>>> {
        self.known.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Why [`ConfigMaps::get`] has none; `None`: there is none.
    pub fn unread(&self, namespace: &str, name: &str) -> Option<&Unread> {
        self.unread.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// Hashes of the keys of VirtualKeys that have a `secret`, by namespace and name of the VirtualKey.
#[derive(Clone, Debug, Default)]
pub struct KeyHashes(HashMap<String, HashMap<String, Hashes, RandomState>, RandomState>);

#[derive(Clone, Debug)]
struct Hashes {
    current: KeyHash,
    replaced: Vec<ReplacedKey>,
}

/// A key that a newer one has replaced and that works on for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedKey {
    pub hash: KeyHash,
    /// Unix seconds; the key's own `expiresAt` may be earlier.
    pub ends_at: i64,
}

impl KeyHashes {
    /// The key in use. Those that were replaced stay.
    pub fn insert(&mut self, namespace: &str, name: &str, hash: KeyHash) {
        let keys = self.0.entry(namespace.to_owned()).or_default();
        match keys.get_mut(name) {
            Some(hashes) => hashes.current = hash,
            None => {
                keys.insert(name.to_owned(), Hashes { current: hash, replaced: Vec::new() });
            }
        }
    }

    /// A key that the one in use has replaced; nothing where there is none in use.
    pub fn insert_replaced(&mut self, namespace: &str, name: &str, replaced: ReplacedKey) {
        if let Some(hashes) = self.0.get_mut(namespace).and_then(|keys| keys.get_mut(name)) {
            hashes.replaced.push(replaced);
        }
    }

    /// Forgets all keys of a VirtualKey.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        if let Some(keys) = self.0.get_mut(namespace) {
            keys.remove(name);
            if keys.is_empty() {
                self.0.remove(namespace);
            }
        }
    }

    /// The key in use, and those that it replaced.
    pub fn get(&self, namespace: &str, name: &str) -> Option<(KeyHash, &[ReplacedKey])> {
        let Hashes { current, replaced } = self.0.get(namespace)?.get(name)?;
        Some((*current, replaced))
    }
}

/// Where the result will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One process with a folder that has one owner.
    Standalone,
    /// Many owners who need not trust each other.
    Cluster,
}

/// What decides between gateways beside what is written in them. The default one has nothing against any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Gateways that cannot be run, or of which nobody knows yet whether they can. What is left to choose is chosen among
    /// the others; these count only where there are no others.
    pub unserved: BTreeSet<GatewayName>,
    /// The operator's own namespace: its gateways go before older ones elsewhere.
    pub home: Option<String>,
}

/// Everything that decides. [`Input::new`] fills in what most callers do not need.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// In any order.
    pub documents: Vec<&'a Document>,
    /// Which of the gateways that the documents describe the snapshot is for. What attaches to others is passed over in
    /// silence; `Gateways` tells for each object where it attaches. `None`: the only one, or the default one.
    pub gateway: Option<&'a GatewayName>,
    pub standing: &'a Standing,
    pub secrets: &'a Secrets,
    pub config_maps: &'a ConfigMaps,
    /// The price list that overlays and deployments change.
    pub prices: PriceTable<'a>,
    /// Labels by namespace; a namespace that is not here has none.
    pub namespaces: &'a BTreeMap<String, Labels>,
    pub mode: Mode,
    /// Where provider `mock` listens; `None`: its deployments need an endpoint of their own.
    pub mock_endpoint: Option<Endpoint>,
    pub key_hashes: &'a KeyHashes,
    /// The last good result; broken edits keep what it says.
    pub previous: Option<&'a Snapshot>,
    /// Of the gateway where no document describes one.
    pub default_namespace: &'a str,
    /// Unix seconds. Decides whether boosts are over; keys carry their expiry themselves.
    pub now: i64,
}

impl<'a> Input<'a> {
    pub fn new(
        documents: impl IntoIterator<Item = &'a Document>,
        secrets: &'a Secrets,
        key_hashes: &'a KeyHashes,
        mode: Mode,
        now: i64,
    ) -> Input<'a> {
        static NO_NAMESPACES: BTreeMap<String, Labels> = BTreeMap::new();
        static NOTHING_AGAINST_ANY: Standing = Standing { unserved: BTreeSet::new(), home: None };
        static NO_CONFIG_MAPS: ConfigMaps = ConfigMaps { known: BTreeMap::new(), unread: BTreeMap::new() };
        Input {
            documents: documents.into_iter().collect(),
            gateway: None,
            standing: &NOTHING_AGAINST_ANY,
            secrets,
            config_maps: &NO_CONFIG_MAPS,
            prices: *PriceTable::embedded(),
            namespaces: &NO_NAMESPACES,
            mode,
            mock_endpoint: None,
            key_hashes,
            previous: None,
            default_namespace: "default",
            now,
        }
    }
}
