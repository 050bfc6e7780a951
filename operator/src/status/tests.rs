//! What a look at all objects says, and in which order it is written.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tollgate_crds::{BudgetSpec, LLMGatewaySpec, TeamSpec, VirtualKeySpec};
use tollgate_snapshot::compile::{ConfigMaps, Document, KeyHashes, Meta, Object, Secrets, Standing};
use tollgate_snapshot::{GatewayName, KeyHash, ObjectRef};

use super::queue::{Asserted, Waiting};
use super::*;
use crate::events::Event;
use crate::facts::{GatewayFact, ProxiesFact, SpendFact};
use crate::tables::compiled::{self, Asked};

fn spec<S: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Box<Object<S>> {
    let spec = serde_json::from_value(spec).expect("it has the shape of its kind");
    Box::new(Object { meta: Meta::new("n", name), spec })
}

fn gateway() -> Document {
    Document::LLMGateway(spec::<LLMGatewaySpec>("g", json!({"default": true})))
}

fn other_gateway(name: &str) -> Document {
    Document::LLMGateway(spec::<LLMGatewaySpec>(name, json!({})))
}

fn key(name: &str) -> Document {
    let hash = format!("sha256:{}", KeyHash::of(name.as_bytes()));
    Document::VirtualKey(spec::<VirtualKeySpec>(name, json!({"models": ["*"], "keyHash": hash})))
}

fn budget(name: &str) -> Document {
    let terms = json!({"limit": "1", "period": {"lifetime": {}}});
    Document::Budget(spec::<BudgetSpec>(name, terms))
}

fn budget_with(name: &str, token: Option<&str>) -> Document {
    let terms = json!({"limit": "1", "period": {"lifetime": {}}, "resetToken": token});
    Document::Budget(spec::<BudgetSpec>(name, terms))
}

fn team(name: &str) -> Document {
    Document::Team(spec::<TeamSpec>(name, json!({})))
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
        let asked = objects.gateways().map(|(gateway, _)| Asked {
            gateway: GatewayName { namespace: gateway.meta.namespace.clone(), name: gateway.meta.name.clone() },
            previous: None,
            salt: String::new(),
            token: "".into(),
            shard_digits: None,
            written: None,
        });
        let asked: Vec<Asked> = asked.collect();
        let (hashes, secrets, config_maps) = (KeyHashes::default(), Secrets::default(), ConfigMaps::default());
        let standing = Standing::default();
        let (compiled, _) = compiled::compile(&objects, &secrets, &config_maps, &hashes, standing, &asked, 0);
        let since = objects.round();
        let tables = asked.into_iter().map(|asked| (asked.gateway, Tables::default())).collect();
        World { objects, known: Known::default(), compiled, tables, since, first: true }
    }

    /// The tables of a gateway are published as they are now.
    fn publish(&mut self, gateway: &str) {
        let name = GatewayName { namespace: "n".into(), name: gateway.into() };
        self.tables.get_mut(&name).unwrap().history.published(self.objects.round(), 1);
    }

    /// So many proxies of a gateway are ready, and run what is published.
    fn run(&mut self, gateway: &str, ready: u32) {
        let fact = ProxiesFact { total: 2, ready, generation: (ready > 0).then_some(1), error: None };
        self.known.proxies.insert(("n".to_owned(), gateway.to_owned()), fact);
    }

    /// All that should be written, as what waits is.
    fn look(&mut self) -> Waiting {
        let World { objects, known, compiled, tables, since, first } = self;
        let term = Term { young: false, since: *since, first: std::mem::take(first) };
        let asserted = Asserted::default();
        let pass = Pass::new(objects, known, compiled, tables, &asserted, jiff::Timestamp::UNIX_EPOCH, term);
        let mut waiting = Waiting::default();
        let shown = pass.look(|| false).expect("nobody stops it");
        shown.statuses.into_iter().for_each(|wanted| waiting.put(wanted));
        waiting
    }

    /// Its condition: status, reason and message.
    fn condition(&mut self, object: &ObjectRef, type_: &str) -> (String, String, String) {
        let mut waiting = self.look();
        let wanted = std::iter::from_fn(|| waiting.take(true)).find(|wanted| wanted.object == *object);
        let status = wanted.expect("its status was not written yet").status;
        let conditions = status["conditions"].as_array().expect("it has conditions");
        let condition = conditions.iter().find(|condition| condition["type"] == type_).expect("it has this one");
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

#[test]
fn a_look_that_is_stopped_says_nothing() {
    let World { objects, known, compiled, tables, since, .. } = World::new(vec![key("a"), gateway()]);
    let term = Term { young: false, since, first: true };
    let asserted = Asserted::default();
    let pass = Pass::new(&objects, &known, &compiled, &tables, &asserted, jiff::Timestamp::UNIX_EPOCH, term);
    assert!(pass.look(|| true).is_none());
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

#[test]
fn a_budget_whose_rest_no_call_fits_into_is_not_available() {
    const NANO: i64 = 1_000_000_000;
    let spend = |used_percent, held_percent, refused_percent| SpendFact {
        used: NANO / 100 * used_percent,
        held: NANO / 100 * held_percent,
        refused: NANO / 100 * refused_percent,
        limit: NANO,
        ..SpendFact::default()
    };
    for (spend, reason) in [
        (spend(98, 0, 0), None),
        (spend(98, 0, 5), Some("NearLimit")),
        // Raised meanwhile, or what calls held is free again.
        (spend(90, 0, 5), None),
        (spend(60, 35, 10), Some("NearLimit")),
        // A call that wants nearly all of a budget says nothing about others.
        (spend(10, 0, 95), None),
        (spend(100, 0, 5), Some("Exhausted")),
    ] {
        let mut world = World::new(vec![gateway(), key("k"), budget("b")]);
        let spent = HashMap::from([("n/Budget/b".to_owned(), spend)]);
        world.known.spend.insert(("n".to_owned(), "g".to_owned()), spent.into());
        let (status, found, message) = world.condition(&reference("Budget", "b"), "Available");
        let expected = reason.map_or(("True", "Available"), |reason| ("False", reason));
        assert_eq!((status.as_str(), found.as_str()), expected, "{spend:?}");
        if reason == Some("NearLimit") && spend.held == 0 {
            let said = "$0.02 is left, and calls are refused: the last ones had to reserve $0.05 or more";
            assert_eq!(message, said);
        }
        let (status, found, _) = world.condition(&reference("VirtualKey", "k"), "Active");
        let expected = reason.map_or(("True", "Active"), |reason| ("False", reason));
        assert_eq!((status.as_str(), found.as_str()), expected, "{spend:?}");
    }
}

#[test]
fn a_reset_of_a_budget_is_told_once_and_written_down() {
    let budget = reference("Budget", "b");
    let mut seen = Seen::default();
    for (token, is_told) in
        [(None, false), (Some("one"), true), (Some("one"), false), (Some("two"), true), (None, true)]
    {
        let mut world = World::new(vec![gateway(), budget_with("b", token)]);
        world.objects.show(&budget, seen.clone());
        for _ in 0..=seen.generation.unwrap_or(0) {
            world.objects.edit(&budget);
        }
        let mut waiting = world.look();
        let wanted = std::iter::from_fn(|| waiting.take(false)).find(|wanted| wanted.object == budget).unwrap();
        assert_eq!(wanted.status.get("resetToken").and_then(Value::as_str), token);
        let resets: Vec<&Event> = wanted.events.iter().filter(|event| event.reason == "Reset").collect();
        assert_eq!(resets.len(), usize::from(is_told), "{token:?}: {resets:?}");
        if let (Some(token), [event]) = (token, &*resets) {
            assert_eq!(event.note, format!("its period began again from zero: spec.resetToken is `{token}`"));
        }
        seen = wanted.seen;
    }
}

#[test]
fn a_gateway_without_proxies_keeps_nothing_from_running_in_those_of_others() {
    let forbidden = || Problem { reason: "Forbidden", message: "no".into() };
    // Of each gateway how many proxies are ready, and whether its tables can be written.
    for (g, h, expected) in [
        ((2, true), (2, true), ("True", "Programmed")),
        ((2, true), (0, true), ("True", "Programmed")),
        ((2, true), (0, false), ("True", "Programmed")),
        ((0, true), (1, true), ("True", "Programmed")),
        ((2, true), (1, false), ("False", "Forbidden")),
        ((0, true), (0, true), ("Unknown", "NoProxies")),
        ((0, true), (0, false), ("False", "Forbidden")),
    ] {
        let mut world = World::new(vec![gateway(), other_gateway("h"), team("t")]);
        for (name, (ready, may_write)) in [("g", g), ("h", h)] {
            world.run(name, ready);
            world.publish(name);
            let name = GatewayName { namespace: "n".into(), name: name.into() };
            world.tables.get_mut(&name).unwrap().problem = (!may_write).then(forbidden);
        }
        let (status, reason, _) = world.condition(&reference("Team", "t"), "Programmed");
        assert_eq!((status.as_str(), reason.as_str()), expected, "{g:?} {h:?}");
    }
}

#[test]
fn a_token_that_was_there_before_it_was_written_down_is_no_news() {
    let mut world = World::new(vec![gateway(), budget_with("b", Some("one"))]);
    let budget = reference("Budget", "b");
    world.objects.show(&budget, Seen { generation: Some(1), digest: 1, ..Seen::default() });
    let mut waiting = world.look();
    let wanted = std::iter::from_fn(|| waiting.take(false)).find(|wanted| wanted.object == budget).unwrap();
    assert_eq!(wanted.status["resetToken"], "one");
    assert!(wanted.events.iter().all(|event| event.reason != "Reset"), "{:?}", wanted.events);
}

#[test]
fn a_gateway_that_cannot_be_run_is_no_matter_of_other_objects() {
    let mut world = World::new(vec![gateway(), other_gateway("h"), team("t")]);
    world.publish("g");
    let name = GatewayName { namespace: "n".into(), name: "h".into() };
    world.tables.get_mut(&name).unwrap().problem = Some(Problem { reason: "Forbidden", message: "no".into() });
    assert_eq!(world.condition(&reference("Team", "t"), "Programmed").1, "Forbidden");
    world.compiled.standing.unserved.insert(name);
    assert_eq!(world.condition(&reference("Team", "t"), "Programmed").1, "NoProxies");
}

#[test]
fn a_gateway_is_accepted_as_it_is_now_and_not_as_it_was() {
    let problem = Problem { reason: "Invalid", message: "no".into() };
    for (looked_at, problem, expected) in [
        (None, None, ("Unknown", "Pending")),
        (Some(1), None, ("Unknown", "Pending")),
        (Some(1), Some(&problem), ("Unknown", "Pending")),
        (Some(2), None, ("True", "Accepted")),
        (Some(2), Some(&problem), ("False", "Invalid")),
    ] {
        let mut world = World::new(vec![gateway()]);
        let g = reference("LLMGateway", "g");
        world.objects.edit(&g);
        world.publish("g");
        world.run("g", 2);
        if let Some(generation) = looked_at {
            let fact = GatewayFact { generation, problem: problem.cloned(), ..GatewayFact::default() };
            world.known.gateways.insert(("n".to_owned(), "g".to_owned()), fact);
        }
        let (status, reason, _) = world.condition(&g, "Accepted");
        assert_eq!((status.as_str(), reason.as_str()), expected, "{looked_at:?}");
        let expected = if expected.1 == "Accepted" { ("True", "Ready") } else { expected };
        let (status, reason, _) = world.condition(&g, "Ready");
        assert_eq!((status.as_str(), reason.as_str()), expected, "{looked_at:?}");
    }
}

#[test]
fn a_budget_that_never_could_be_read_admits_nothing_and_says_so() {
    let denying = |spec_of: Value| Document::Budget(spec::<BudgetSpec>("b", spec_of));
    let unreadable = json!({"limit": "1", "period": {"calendar": "Day", "timeZone": "Mars/Base"}});
    let nothing = json!({"limit": "0", "period": {"lifetime": {}}});
    for (written, reason) in [(unreadable, "InvalidValue"), (nothing, "Exhausted")] {
        let mut world = World::new(vec![gateway(), key("k"), denying(written)]);
        for (object, type_) in [(reference("Budget", "b"), "Available"), (reference("VirtualKey", "k"), "Active")] {
            let (status, found, message) = world.condition(&object, type_);
            assert_eq!((status.as_str(), found.as_str()), ("False", reason), "{object}");
            assert!(object.kind == "Budget" || message.contains("`n/Budget/b`"), "{message}");
        }
    }
}

#[test]
fn a_key_that_no_table_holds_is_not_active() {
    let k = reference("VirtualKey", "k");
    let mut world = World::new(vec![gateway(), key("k")]);
    assert_eq!(world.condition(&k, "Active").0, "True");
    world.tables.get_mut(&name()).unwrap().problem = Some(Problem { reason: "Forbidden", message: "no".into() });
    let (status, reason, message) = world.condition(&k, "Active");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Forbidden"), "{message}");
    // It was there before they could not be written any more.
    let mut waiting = World::new(vec![gateway(), key("k")]).look();
    let wanted = std::iter::from_fn(|| waiting.take(true)).find(|wanted| wanted.object == k).unwrap();
    world.objects.show(&k, wanted.seen);
    world.objects.edit(&k);
    assert_eq!(world.condition(&k, "Active").0, "True");
}

/// What columns say of an object.
fn columns(world: &mut World, object: &ObjectRef) -> [Option<String>; 4] {
    let mut waiting = world.look();
    let wanted = std::iter::from_fn(|| waiting.take(true)).find(|wanted| wanted.object == *object);
    let status = wanted.expect("its status was not written yet").status;
    ["limit", "spent", "usedPercent", "resets"].map(|field| status[field].as_str().map(str::to_owned))
}

#[test]
fn a_key_shows_the_account_that_it_has_of_a_budget_per_key() {
    let key = |refs: Value, budget: Value| {
        let hash = format!("sha256:{}", KeyHash::of(b"k"));
        let spec_of = json!({"models": ["*"], "keyHash": hash, "budgetRefs": refs, "budget": budget});
        Document::VirtualKey(spec::<VirtualKeySpec>("k", spec_of))
    };
    let each = |name: &str, limit: &str| {
        let terms = json!({"limit": limit, "period": {"calendar": "Month"}, "per": "Key", "unit": "Requests"});
        Document::Budget(spec::<BudgetSpec>(name, terms))
    };
    let all = ["a", "b"].map(|name| json!({"name": name}));
    let own = json!({"limit": "7", "period": {"lifetime": {}}});
    let month = |limit: &str, used: &str, percent: &str| {
        [format!("{limit} requests/month"), used.to_owned(), percent.to_owned(), "1970-02-01".to_owned()].map(Some)
    };
    for (refs, own, budgets, expected, why) in [
        (json!([all[0]]), Value::Null, vec![each("a", "10"), each("b", "20")], month("10", "1", "10%"), "it names one"),
        (json!([all[1]]), Value::Null, vec![each("a", "10"), each("b", "20")], month("20", "5", "25%"), "or another"),
        (json!([]), Value::Null, vec![each("b", "20")], month("20", "5", "25%"), "one selects it"),
        (json!([]), Value::Null, vec![each("a", "10"), each("b", "20")], [const { None }; 4], "two do"),
        (json!([]), Value::Null, vec![budget("a")], [const { None }; 4], "it shares one with others"),
        (json!([]), own, vec![each("a", "10")], ["$7.00", "$3.50", "50%", ""].map(|text| Some(text.into())), "its own"),
    ] {
        let mut documents = vec![gateway(), key(refs, own)];
        documents.extend(budgets);
        let mut world = World::new(documents);
        let spend = |used, limit| SpendFact { used, limit, ..SpendFact::default() };
        let spent = [
            ("n/Budget/a/k", spend(1, 10)),
            ("n/Budget/b/k", spend(5, 20)),
            ("n/VirtualKey/k", spend(3_500_000_000, 7_000_000_000)),
        ];
        let spent = HashMap::from(spent.map(|(id, spend)| (id.to_owned(), spend)));
        world.known.spend.insert(("n".to_owned(), "g".to_owned()), spent.into());
        let shown = columns(&mut world, &reference("VirtualKey", "k"));
        assert_eq!(shown, expected.map(|text| text.filter(|text| !text.is_empty())), "{why}");
    }
}

#[test]
fn limit_is_what_is_in_force() {
    // The look is at the first second of all.
    for (limit, amount, unit, until, expected) in [
        ("0.002", "0.008", "USD", Some("1970-01-01T00:00:01Z"), "$0.01/month"),
        ("0.002", "0.008", "USD", Some("1970-01-01T00:00:00Z"), "$0.002/month"),
        ("0.002", "0.008", "USD", None, "$0.002/month"),
        ("50", "12.5", "USD", Some("2026-01-01T00:00:00+02:00"), "$62.50/month"),
        ("1000", "500", "Tokens", Some("1970-01-02T00:00:00Z"), "1500 tokens/month"),
        ("4", "1", "Requests", Some("soon"), "4 requests/month"),
    ] {
        let boost = json!({"amount": amount, "until": until});
        let terms = json!({"limit": limit, "unit": unit, "period": {"calendar": "Month"}, "boost": boost});
        let mut world = World::new(vec![gateway(), Document::Budget(spec::<BudgetSpec>("b", terms))]);
        let [shown, ..] = columns(&mut world, &reference("Budget", "b"));
        assert_eq!(shown.as_deref(), Some(expected), "{limit} and {amount} until {until:?}");
    }
}
