//! How what watches bring changes the objects.

use std::collections::BTreeSet;

use tollgate_snapshot::ObjectRef;
use tollgate_snapshot::compile::{Document, Labels};

use super::read::{self, Read};
use super::{Objects, Record};

/// One watch: a kind or Namespaces, everywhere or in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// `Namespace`, or one of ours.
    pub kind: &'static str,
    pub namespace: Option<String>,
}

/// What a watch says.
#[derive(Debug)]
pub(super) enum Change {
    Object(Box<Read>),
    Gone(ObjectRef),
    Namespace {
        name: String,
        labels: Labels,
    },
    NamespaceGone(String),
    /// The source has been listed: what it did not name is gone. Namespace and name; the namespace is empty for
    /// Namespaces.
    Listed {
        source: Source,
        first: bool,
        there: BTreeSet<(String, String)>,
    },
}

/// What taking over changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Something that compile reads.
    pub documents: bool,
    /// Objects that are as they were but for their status, or that cannot be read.
    pub touched: Vec<ObjectRef>,
}

impl Objects {
    /// Whether more than a status would be another.
    pub(super) fn is_changed_by(&self, change: &Change) -> bool {
        match change {
            Change::Object(read) => {
                let is_same = |known: &Record| known.generation == read.record.generation && !read.meta.deleting;
                !self.record(&read.object).is_some_and(is_same)
            }
            Change::Gone(object) => self.record(object).is_some(),
            // They come with much else, or seldom.
            Change::Namespace { .. } | Change::NamespaceGone(_) | Change::Listed { .. } => false,
        }
    }

    pub(super) fn take_over(&mut self, changes: Vec<Change>) -> Taken {
        let was_complete = self.is_complete();
        self.round += 1;
        let mut taken = Taken::default();
        for change in changes {
            match change {
                Change::Object(read) => self.put(*read, &mut taken),
                Change::Gone(object) => self.remove(&object, &mut taken),
                Change::Namespace { name, labels } => {
                    taken.documents |= self.namespaces.insert(name, labels.clone()) != Some(labels);
                }
                Change::NamespaceGone(name) => taken.documents |= self.namespaces.remove(&name).is_some(),
                Change::Listed { source, first, there } => {
                    self.unlisted = self.unlisted.saturating_sub(usize::from(first));
                    self.keep(&source, &there, &mut taken);
                }
            }
        }
        taken.documents |= self.is_complete() && !was_complete;
        taken
    }

    fn put(&mut self, read: Read, taken: &mut Taken) {
        let Read { object, document, meta, mut record } = read;
        if meta.deleting {
            // Somebody else's finalizer may keep it for long; what it stood for ends now.
            self.remove(&object, taken);
            return;
        }
        let at = self.position(object.kind, &object.namespace, &object.name);
        let document = match (document, at) {
            (Ok(document), _) => document,
            (Err(written), Some(at)) => read::last_good(&object, &meta, &self.documents[at], &written),
            (Err(_), None) => {
                record.round = self.round;
                taken.touched.push(object.clone());
                self.unreadable.insert(object, record);
                return;
            }
        };
        self.unreadable.remove(&object);
        match at {
            Some(at) => {
                let kept = &self.records[at];
                // A new version of the spec is an edit even where it compiles to the same.
                let is_new = self.documents[at] != document || kept.generation != record.generation;
                record.round = if is_new { self.round } else { kept.round };
                if is_new {
                    taken.documents = true;
                } else {
                    taken.touched.push(object);
                }
                self.documents[at] = document;
                self.records[at] = record;
            }
            None => {
                taken.documents = true;
                record.round = self.round;
                self.insert(document, record);
            }
        }
    }

    fn insert(&mut self, document: Document, record: Record) {
        let meta = document.meta();
        let names = self.positions.entry(document.kind()).or_default().entry(meta.namespace.clone()).or_default();
        names.insert(meta.name.clone(), self.documents.len());
        self.documents.push(document);
        self.records.push(record);
    }

    fn remove(&mut self, object: &ObjectRef, taken: &mut Taken) {
        self.unreadable.remove(object);
        let Some(namespaces) = self.positions.get_mut(object.kind) else { return };
        let Some(names) = namespaces.get_mut(&object.namespace) else { return };
        let Some(at) = names.remove(&object.name) else { return };
        if names.is_empty() {
            namespaces.remove(&object.namespace);
        }
        taken.documents = true;
        self.documents.swap_remove(at);
        self.records.swap_remove(at);
        // The last one stands here now.
        let Some(moved) = self.documents.get(at) else { return };
        let meta = moved.meta();
        let names = self.positions.get_mut(moved.kind()).and_then(|namespaces| namespaces.get_mut(&meta.namespace));
        let position = names.and_then(|names| names.get_mut(&meta.name));
        *position.expect("every document has a position") = at;
    }

    /// Removes what a list did not name.
    fn keep(&mut self, source: &Source, there: &BTreeSet<(String, String)>, taken: &mut Taken) {
        let Source { kind, namespace } = source;
        if *kind == "Namespace" {
            let before = self.namespaces.len();
            self.namespaces.retain(|name, _| there.contains(&(String::new(), name.clone())));
            taken.documents |= self.namespaces.len() != before;
            return;
        }
        let is_gone = |document: &&Document| {
            let meta = document.meta();
            document.kind() == *kind
                && namespace.as_ref().is_none_or(|namespace| *namespace == meta.namespace)
                && !there.contains(&(meta.namespace.clone(), meta.name.clone()))
        };
        let gone: Vec<ObjectRef> = self.documents.iter().filter(is_gone).map(Document::object_ref).collect();
        for object in gone {
            self.remove(&object, taken);
        }
        self.unreadable.retain(|object, _| {
            object.kind != *kind
                || namespace.as_ref().is_some_and(|namespace| *namespace != object.namespace)
                || there.contains(&(object.namespace.clone(), object.name.clone()))
        });
    }
}

#[cfg(test)]
impl Objects {
    /// Takes over documents as if watches had brought them.
    pub(crate) fn put_documents(&mut self, documents: Vec<Document>) {
        self.round += 1;
        for document in documents {
            self.insert(document, Record { round: self.round, generation: 1, ..Record::default() });
        }
    }

    /// As if somebody had edited it, and a watch had brought that.
    pub(crate) fn edit(&mut self, object: &ObjectRef) {
        self.round += 1;
        let round = self.round;
        let record = self.record_mut(object);
        record.round = round;
        record.generation += 1;
    }

    /// As if its status had been written, and a watch had brought that.
    pub(crate) fn show(&mut self, object: &ObjectRef, seen: super::Seen) {
        self.round += 1;
        self.record_mut(object).seen = seen;
    }

    fn record_mut(&mut self, object: &ObjectRef) -> &mut Record {
        let at = self.position(object.kind, &object.namespace, &object.name).expect("the test made it");
        &mut self.records[at]
    }
}

#[cfg(test)]
mod tests {
    use kube::core::DynamicObject;
    use serde_json::json;
    use tollgate_snapshot::Reason;

    use super::*;

    fn key(name: &str, generation: i64, spec: serde_json::Value) -> Change {
        object("VirtualKey", name, generation, spec)
    }

    fn object(kind: &'static str, name: &str, generation: i64, spec: serde_json::Value) -> Change {
        let metadata = json!({"namespace": "n", "name": name, "uid": name, "generation": generation});
        let object: DynamicObject = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        Change::Object(Box::new(read::read(kind, object)))
    }

    fn listed(there: &[&str]) -> Change {
        let there = there.iter().map(|name| ("n".to_owned(), (*name).to_owned())).collect();
        Change::Listed { source: Source { kind: "VirtualKey", namespace: None }, first: false, there }
    }

    fn names(objects: &Objects) -> Vec<&str> {
        objects.keys().map(|(key, _)| key.meta.name.as_str()).collect()
    }

    #[test]
    fn objects_come_change_and_go() {
        let mut objects = Objects::default();
        let taken = objects.take_over(["a", "b", "c"].map(|name| key(name, 1, json!({"models": ["m"]}))).into());
        assert!(taken.documents);
        assert_eq!(names(&objects), ["a", "b", "c"]);

        objects.take_over(vec![Change::Gone(ObjectRef {
            kind: "VirtualKey",
            namespace: "n".into(),
            name: "a".into(),
        })]);
        assert_eq!(names(&objects), ["b", "c"]);
        assert!(objects.key("n", "a").is_none());
        assert_eq!(objects.key("n", "c").map(|(key, _)| key.meta.name.as_str()), Some("c"));

        objects.take_over(vec![listed(&["c"])]);
        assert_eq!(names(&objects), ["c"]);
        assert_eq!(objects.documents().len(), 1);
    }

    #[test]
    fn a_status_alone_is_no_edit_and_a_new_generation_is_one() {
        let mut objects = Objects::default();
        objects.take_over(vec![key("a", 1, json!({}))]);
        let round = |objects: &Objects| objects.key("n", "a").map(|(_, record)| record.round);
        let changes = [key("a", 1, json!({})), key("a", 2, json!({})), key("b", 1, json!({})), listed(&["a"])];
        assert_eq!(changes.map(|change| objects.is_changed_by(&change)), [false, true, true, false]);
        let gone =
            |name: &str| Change::Gone(ObjectRef { kind: "VirtualKey", namespace: "n".into(), name: name.into() });
        assert_eq!([gone("a"), gone("b")].map(|change| objects.is_changed_by(&change)), [true, false]);
        let same = objects.take_over(vec![key("a", 1, json!({}))]);
        assert_eq!((same.documents, same.touched.len(), round(&objects)), (false, 1, Some(1)));
        let edited = objects.take_over(vec![key("a", 2, json!({}))]);
        assert_eq!((edited.documents, round(&objects)), (true, Some(3)));
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_its_last_good_state_but_no_authority() {
        let mut objects = Objects::default();
        objects.take_over(vec![key("a", 1, json!({"models": ["m"], "user": "u"}))]);
        objects.take_over(vec![key("a", 2, json!({"models": 3, "user": "u", "disabled": true}))]);
        let (key, record) = objects.key("n", "a").unwrap();
        assert_eq!((key.spec.models.as_slice(), key.spec.disabled), (&["m".to_owned()][..], true));
        assert_eq!(record.findings[0].reason, Reason::Malformed);
    }

    #[test]
    fn an_object_that_never_could_be_read_is_known_and_not_used() {
        let mut objects = Objects::default();
        objects.take_over(vec![key("a", 1, json!({"models": 3})), key("b", 1, json!({}))]);
        assert_eq!(names(&objects), ["b"]);
        let unreadable: Vec<&str> = objects.unreadable().map(|(object, _)| object.name.as_str()).collect();
        assert_eq!(unreadable, ["a"]);
        objects.take_over(vec![key("a", 2, json!({"models": ["m"]}))]);
        assert_eq!((names(&objects), objects.unreadable().count()), (vec!["a", "b"], 0));
    }

    #[test]
    fn what_is_being_deleted_is_not_used_any_more() {
        let mut objects = Objects::default();
        objects.take_over(vec![key("a", 1, json!({}))]);
        let metadata = json!({"namespace": "n", "name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let object: DynamicObject = serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap();
        let taken = objects.take_over(vec![Change::Object(Box::new(read::read("VirtualKey", object)))]);
        assert!(taken.documents);
        assert_eq!(names(&objects), Vec::<&str>::new());
    }

    #[test]
    fn a_field_of_a_newer_definition_is_a_warning() {
        let mut objects = Objects::default();
        objects.take_over(vec![object("Team", "t", 1, json!({"colour": "red"}))]);
        let (_, record) = objects.team("n", "t").unwrap();
        assert_eq!(record.findings[0].reason, Reason::UnknownField);
        assert_eq!(record.findings[0].field, "spec.colour");
    }
}
