//! What a look at all objects says, and in which order it is written.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tollgate_crds::{LLMGatewaySpec, VirtualKeySpec};
use tollgate_snapshot::compile::{ConfigMaps, Document, KeyHashes, Meta, Object, Secrets};
use tollgate_snapshot::{GatewayName, KeyHash, ObjectRef};

use super::queue::{Asserted, Waiting};
use super::*;
use crate::tables::compiled::{self, Asked};

fn spec<S: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Box<Object<S>> {
    let spec = serde_json::from_value(spec).expect("it has the shape of its kind");
    Box::new(Object { meta: Meta::new("n", name), spec })
}

fn gateway() -> Document {
    Document::LLMGateway(spec::<LLMGatewaySpec>("g", json!({"default": true})))
}

fn key(name: &str) -> Document {
    let hash = format!("sha256:{}", KeyHash::of(name.as_bytes()));
    Document::VirtualKey(spec::<VirtualKeySpec>(name, json!({"models": ["*"], "keyHash": hash})))
}

fn reference(kind: &'static str, name: &str) -> ObjectRef {
    ObjectRef { kind, namespace: "n".into(), name: name.into() }
}

/// The one gateway.
fn name() -> GatewayName {
    GatewayName { namespace: "n".into(), name: "g".into() }
}

struct World {
    objects: Objects,
    known: Known,
    compiled: Compiled,
    tables: BTreeMap<GatewayName, Tables>,
    since: u64,
    first: bool,
}

impl World {
    /// What was there when this process began to lead.
    fn new(documents: Vec<Document>) -> World {
        let mut objects = Objects::default();
        objects.put_documents(documents);
        let asked =
            Asked { gateway: name(), previous: None, salt: String::new(), token: "".into(), shard_digits: None };
        let (hashes, secrets, config_maps) = (KeyHashes::default(), Secrets::default(), ConfigMaps::default());
        let (compiled, _) = compiled::compile(&objects, &secrets, &config_maps, &hashes, &[asked], 0);
        let since = objects.round();
        let tables = BTreeMap::from([(name(), Tables::default())]);
        World { objects, known: Known::default(), compiled, tables, since, first: true }
    }

    /// All that should be written, as what waits is.
    fn look(&mut self) -> Waiting {
        let World { objects, known, compiled, tables, since, first } = self;
        let term = Term { young: false, since: *since, first: std::mem::take(first) };
        let asserted = Asserted::default();
        let pass = Pass::new(objects, known, compiled, tables, &asserted, jiff::Timestamp::UNIX_EPOCH, term);
        let mut waiting = Waiting::default();
        pass.look().statuses.into_iter().for_each(|wanted| waiting.put(wanted));
        waiting
    }
}

fn names(mut waiting: Waiting) -> Vec<String> {
    std::iter::from_fn(|| waiting.take(false)).map(|wanted| wanted.object.name).collect()
}

#[test]
fn an_edit_is_told_to_its_last_condition_before_what_was_there_is_told_at_all() {
    let mut world = World::new(vec![key("a"), key("b"), key("c"), gateway(), key("d")]);
    assert_eq!(names(world.look()), ["g", "a", "b", "c", "d"], "who waits for a gateway waits for all");

    // One is shown, and edited.
    let edited = reference("VirtualKey", "c");
    let mut waiting = world.look();
    let wanted = std::iter::from_fn(|| waiting.take(false)).find(|wanted| wanted.object == edited).unwrap();
    world.objects.show(&edited, wanted.seen);
    world.objects.edit(&edited);
    world.objects.put_documents(vec![key("new")]);
    let mut waiting = world.look();
    let order: Vec<Wanted> = std::iter::from_fn(|| waiting.take(false)).collect();
    let first: Vec<&str> = order.iter().map(|wanted| wanted.object.name.as_str()).collect();
    assert_eq!(first, ["c", "g", "new", "a", "b", "d"]);

    // What came of the edit is written; something else happens; then the proxies have it.
    world.objects.show(&edited, order[0].seen.clone());
    world.objects.edit(&reference("LLMGateway", "g"));
    world.tables.get_mut(&name()).unwrap().history.published(world.objects.round(), 1);
    let first: Vec<String> = names(world.look());
    assert_eq!(first, ["c", "g", "new", "a", "b", "d"]);
}

#[test]
fn an_object_that_was_edited_while_nobody_led_is_told_first() {
    let mut world = World::new(vec![key("a"), key("b")]);
    let edited = reference("VirtualKey", "b");
    world.objects.show(&edited, Seen { generation: Some(1), ..Seen::default() });
    world.objects.edit(&edited);
    world.since = world.objects.round();
    assert_eq!(names(world.look()), ["b", "a"]);
}
