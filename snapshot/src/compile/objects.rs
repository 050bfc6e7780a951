//! The documents by kind, sorted, each name once; and who may refer to whom across namespaces.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use serde::Serialize;
use tollgate_crds::{
    AllowedNamespaces, BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, NamespacesFrom, ObjectRef, ProviderAccountSpec,
    RouteGroupSpec, TeamSpec, VirtualKeySpec,
};

use super::input::{Document, Kind, Labels, Meta, Object};
use super::report::{Report, Subject};
use crate::finding::Reason;

/// All objects of one kind, sorted by namespace and name.
#[derive(Debug)]
pub(super) struct Objects<'a, S> {
    all: Vec<&'a Object<S>>,
    /// By namespace and name, made on first use.
    positions: OnceCell<Positions<'a>>,
}

type Positions<'a> = HashMap<(&'a str, &'a str), usize, RandomState>;

/// An object while it is sorted: what is compared lies here, for a hundred thousand objects lie all over the memory.
struct Row<'a, S> {
    /// Of the namespace, among all of them.
    rank: usize,
    /// How its name begins.
    begin: [u8; 32],
    object: &'a Object<S>,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Everything<'a> {
    pub gateways: Objects<'a, LLMGatewaySpec>,
    pub accounts: Objects<'a, ProviderAccountSpec>,
    pub deployments: Objects<'a, ModelDeploymentSpec>,
    pub groups: Objects<'a, RouteGroupSpec>,
    pub teams: Objects<'a, TeamSpec>,
    pub keys: Objects<'a, VirtualKeySpec>,
    pub budgets: Objects<'a, BudgetSpec>,
}

impl<'a> Everything<'a> {
    /// What is being deleted counts as gone.
    pub fn sort(documents: &[&'a Document], report: &mut Report) -> Everything<'a> {
        let (mut gateways, mut accounts, mut deployments, mut groups) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut teams, mut keys, mut budgets) = (Vec::new(), Vec::new(), Vec::new());
        for &document in documents.iter().filter(|document| !document.meta().deleting) {
            match document {
                Document::LLMGateway(object) => gateways.push(&**object),
                Document::ProviderAccount(object) => accounts.push(&**object),
                Document::ModelDeployment(object) => deployments.push(&**object),
                Document::RouteGroup(object) => groups.push(&**object),
                Document::Team(object) => teams.push(&**object),
                Document::VirtualKey(object) => keys.push(&**object),
                Document::Budget(object) => budgets.push(&**object),
            }
        }
        Everything {
            gateways: Objects::sort(gateways, report),
            accounts: Objects::sort(accounts, report),
            deployments: Objects::sort(deployments, report),
            groups: Objects::sort(groups, report),
            teams: Objects::sort(teams, report),
            keys: Objects::sort(keys, report),
            budgets: Objects::sort(budgets, report),
        }
    }
}

impl<'a, S: Kind + Serialize> Objects<'a, S> {
    /// Of two with the same name the older stays, or where nothing says which that is, the one whose text comes first:
    /// any choice will do as long as the order of the documents does not make it.
    fn sort(objects: Vec<&'a Object<S>>, report: &mut Report) -> Objects<'a, S> {
        let ranks = ranks(&objects);
        let mut last = ("", 0);
        let row = |object: &'a Object<S>| {
            let Meta { namespace, name, .. } = &object.meta;
            let mut begin = [0; 32];
            let length = name.len().min(begin.len());
            begin[..length].copy_from_slice(&name.as_bytes()[..length]);
            if last.0 != namespace {
                last = (namespace, ranks[namespace.as_str()]);
            }
            Row { rank: last.1, begin, object }
        };
        let mut rows: Vec<Row<'a, S>> = objects.into_iter().map(row).collect();
        rows.sort_unstable_by(|a, b| {
            let (one, other) = (a.object, b.object);
            a.rank
                .cmp(&b.rank)
                .then_with(|| a.begin.cmp(&b.begin))
                .then_with(|| one.meta.name.cmp(&other.meta.name))
                .then_with(|| age(one.meta.created_at).cmp(&age(other.meta.created_at)))
                .then_with(|| text(one).cmp(&text(other)))
        });
        let mut all: Vec<&'a Object<S>> = rows.into_iter().map(|row| row.object).collect();
        all.dedup_by(|later, kept| {
            let same = later.meta.namespace == kept.meta.namespace && later.meta.name == kept.meta.name;
            if same {
                let message = "another document has the same kind, namespace and name; only one of them is used";
                report.error(later.subject(), Reason::Duplicate, "metadata.name", message);
            }
            same
        });
        Objects { all, positions: OnceCell::new() }
    }
}

impl<'a, S> Objects<'a, S> {
    pub fn iter(&self) -> impl Iterator<Item = &'a Object<S>> + '_ {
        self.all.iter().copied()
    }

    pub fn position(&self, namespace: &str, name: &str) -> Option<usize> {
        let by_name = || {
            let named = |(at, object): (usize, &&'a Object<S>)| ((&*object.meta.namespace, &*object.meta.name), at);
            self.all.iter().enumerate().map(named).collect()
        };
        self.positions.get_or_init(by_name).get(&(namespace, name)).copied()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&'a Object<S>> {
        self.position(namespace, name).map(|at| self.all[at])
    }

    pub fn at(&self, position: usize) -> &'a Object<S> {
        self.all[position]
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}

/// Namespaces of the objects, and which place each has among them.
fn ranks<'a, S>(objects: &[&'a Object<S>]) -> HashMap<&'a str, usize, RandomState> {
    let mut ranks: HashMap<&'a str, usize, RandomState> = HashMap::default();
    let mut last = None;
    // Lists of the API server are in order: most namespaces are that of the object before.
    for object in objects {
        if last != Some(object.meta.namespace.as_str()) {
            last = Some(&object.meta.namespace);
            ranks.insert(&object.meta.namespace, 0);
        }
    }
    let mut sorted: Vec<&str> = ranks.keys().copied().collect();
    sorted.sort_unstable();
    sorted.into_iter().enumerate().for_each(|(rank, namespace)| *ranks.entry(namespace).or_default() = rank);
    ranks
}

fn text<S: Serialize>(object: &Object<S>) -> String {
    serde_json::to_string(&object.spec).unwrap_or_default()
}

/// Older first; what has no time is youngest.
pub(super) fn age(created_at: Option<i64>) -> i64 {
    created_at.unwrap_or(i64::MAX)
}

/// Who may refer to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grants<'a> {
    pub namespaces: &'a BTreeMap<String, Labels>,
}

impl<'a> Grants<'a> {
    pub fn labels(self, namespace: &str) -> &'a Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// Whether the owner in `owner` lets `guest` use the object.
    pub fn admits(self, allowed: &AllowedNamespaces, owner: &str, guest: &str) -> bool {
        owner == guest
            || match allowed.from {
                NamespacesFrom::Same => false,
                NamespacesFrom::All => true,
                NamespacesFrom::Selector => {
                    allowed.selector.as_ref().is_some_and(|selector| selector.matches(self.labels(guest)))
                }
            }
    }

    /// The object that `subject` refers to at `field`. A finding, and `None`, where it does not exist or its owner does
    /// not allow it. The two read alike to whom is not allowed, so that nobody can probe for names of others.
    pub fn resolve<S: Kind>(
        self,
        objects: &Objects<'a, S>,
        reference: &ObjectRef,
        subject: Subject<'_>,
        field: &str,
        allowed: impl Fn(&S) -> &AllowedNamespaces,
        report: &mut Report,
    ) -> Option<usize> {
        let namespace = reference.namespace.as_deref().unwrap_or(subject.namespace);
        let kind = S::NAME;
        let found = objects.position(namespace, &reference.name);
        if namespace == subject.namespace {
            if found.is_none() {
                let message = format!("{kind} `{}` does not exist in namespace `{namespace}`", reference.name);
                report.error(subject, Reason::NotFound, field, message);
            }
            return found;
        }
        let granted = found.filter(|at| self.admits(allowed(&objects.at(*at).spec), namespace, subject.namespace));
        if granted.is_none() {
            let message =
                format!("{kind} `{namespace}/{}` does not exist or does not allow this namespace", reference.name);
            let hint = format!("its owner can allow namespace `{}` in spec.allowedNamespaces", subject.namespace);
            report.error(subject, Reason::NotGranted, field, message).hint = hint;
        }
        granted
    }
}
