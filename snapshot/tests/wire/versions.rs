//! What neighbouring versions make of each other's tables.

use serde_json::{Map, Value, json};
use tollgate_snapshot::Severity;
use tollgate_snapshot::model::{BudgetUnit, Period, Strategy};
use tollgate_snapshot::wire::{self, FORMAT, ReadError};

use crate::documents::World;
use crate::parts::{Cluster, SEALING, write};

/// A bit of everything that a later version may have more of.
fn world() -> World {
    World::read(
        "
kind: ModelDeployment
metadata: {name: one}
spec: {provider: mock, model: m, pricing: {perMillionTokens: {input: '1'}}}
---
kind: ModelDeployment
metadata: {name: two}
spec: {provider: mock, model: m, pricing: {free: true}, tags: [odd]}
---
kind: RouteGroup
metadata: {name: chat}
spec:
  strategy: Ordered
  targets: [{name: two, modelDeploymentRef: {name: two}}, {name: one, modelDeploymentRef: {name: one}}]
  fallbacks: [{name: f, errors: [RateLimit, Timeout], models: [one]}]
---
kind: Budget
metadata: {name: shared}
spec: {limit: '7', period: {calendar: Day}, appliesTo: {models: [one]}}
---
kind: VirtualKey
metadata: {name: k}
spec: {models: [chat, one, two], budget: {limit: '5', period: {calendar: Month}}, secret: {name: k}}
",
    )
}

fn cluster() -> Cluster {
    let compiled = world().compile();
    assert!(compiled.findings.iter().all(|finding| finding.severity == Severity::Warning), "{:?}", compiled.findings);
    Cluster::of(&write(&compiled.snapshot))
}

/// Adds fields to all objects, but for those that are the name of a variant and what is in it.
fn with_more(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let is_variant = fields.len() == 1 && fields.keys().all(|name| name.starts_with(char::is_uppercase));
            let fields = fields.into_iter().map(|(name, value)| (name, with_more(value)));
            let more = (!is_variant).then(|| ("fromLater".to_owned(), json!({"any": ["thing", null]})));
            Value::Object(more.into_iter().chain(fields).collect::<Map<String, Value>>())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(with_more).collect()),
        other => other,
    }
}

/// As a later version may write the same tables.
pub fn from_later(cluster: &Cluster) -> Cluster {
    let mut later = cluster.clone();
    later.edit_lines(|line| {
        let more = with_more(serde_json::from_str(line).unwrap()).to_string();
        vec![more, r#"{"recordOfLater":{"name":"x"}}"#.to_owned()]
    });
    later
}

#[test]
fn fields_and_records_of_a_later_version_are_passed_over() {
    let cluster = cluster();
    let later = from_later(&cluster);
    assert!(later.texts.values().any(|text| text.contains("fromLater")));
    let (read, later) = (cluster.read().unwrap(), later.read().unwrap());
    assert_eq!((later.snapshot, later.left_out), (read.snapshot, vec![]));
}

#[test]
fn a_later_format_is_refused() {
    let mut cluster = cluster();
    cluster.manifest.format = FORMAT + 1;
    let error = cluster.read().err().unwrap();
    assert_eq!(error, ReadError::NewerFormat { part: "tollgate-default-manifest".into(), format: FORMAT + 1 });
    assert!(!error.is_incomplete());
}

#[test]
fn a_deployment_that_only_a_later_version_can_call_or_price_is_left_out() {
    for (from, to) in [
        (r#""dialect":"openai""#, r#""dialect":"of-later""#),
        (r#""surface":"OpenAi""#, r#""surface":"OfLater""#),
        (r#""auth":"None""#, r#""auth":"OfLater""#),
        (r#""unit":"input_token""#, r#""unit":"of_later""#),
    ] {
        let mut cluster = cluster();
        let before = cluster.texts.clone();
        let edit = |line: &str| match line.contains(r#""tags":["odd"]"#) {
            true => line.replacen(from, to, 1),
            false => line.to_owned(),
        };
        cluster.edit_lines(|line| vec![edit(line)]);
        assert_ne!(cluster.texts, before, "{from} is there");
        let read = cluster.read().unwrap();
        let left_out: Vec<&str> = read.left_out.iter().map(|one| &*one.object).collect();
        assert_eq!(left_out, ["ModelDeployment default/two"], "{to}");
        let names: Vec<&str> = read.snapshot.deployments.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["one"]);
        let targets = |name: &str| -> Vec<u32> {
            let route = read.snapshot.routes.iter().find(|route| &*route.name == name).unwrap();
            route.targets.iter().map(|target| target.deployment).collect()
        };
        assert_eq!((targets("chat"), targets("one"), targets("two")), (vec![0], vec![0], vec![]), "{to}");
    }
}

#[test]
fn what_only_a_later_version_can_count_may_not_be_spent() {
    for (from, to) in [
        (r#""unit":"Usd""#, r#""unit":"Images""#),
        (r#""Calendar":{"unit":"Month""#, r#""Calendar":{"unit":"Decade""#),
        (r#""Calendar":{"unit":"Day""#, r#""Calendar":{"unit":"Decade""#),
        (r#"{"Calendar":"#, r#"{"Fiscal":"#),
    ] {
        let mut cluster = cluster();
        let before = cluster.texts.clone();
        cluster.edit_lines(|line| vec![line.replace(from, to)]);
        assert_ne!(cluster.texts, before, "{from} is there");
        let read = cluster.read().unwrap();
        let key = &read.snapshot.keys[0];
        assert!(!read.left_out.is_empty() && key.budgets.len() == 2, "{to}");
        for at in &key.budgets {
            let budget = &read.snapshot.budgets[*at as usize];
            let is_told = read.left_out.iter().any(|one| one.object == format!("Budget {}", budget.id));
            assert!(budget.hard && (budget.limit == 0) == is_told, "{to}: {budget:?}");
            assert_eq!(budget.models.is_some(), &*budget.id == "default/Budget/shared");
            if is_told {
                assert_eq!((budget.unit, &budget.period), (BudgetUnit::Usd, &Period::Lifetime));
            }
        }
    }
}

#[test]
fn strategies_and_errors_of_a_later_version_give_way_to_known_ones() {
    let mut cluster = cluster();
    cluster.edit_lines(|line| {
        vec![
            line.replace("\"Ordered\"", "\"OfLater\"")
                .replace("[\"RateLimit\",\"Timeout\"]", "[\"OfLater\",\"Timeout\"]"),
        ]
    });
    let read = cluster.read().unwrap();
    let chat = read.snapshot.routes.iter().find(|route| &*route.name == "chat").unwrap();
    assert_eq!((chat.strategy, chat.fallbacks[0].errors.len(), read.left_out), (Strategy::WeightedShuffle, 1, vec![]));
}

/// What is written for later readers: an old reader that knows fewer fields reads the rest.
#[test]
fn a_missing_field_has_its_default() {
    let mut cluster = cluster();
    let without = |line: &str| -> String {
        let mut value: Value = serde_json::from_str(line).unwrap();
        for record in ["gateway", "route", "key"] {
            if let Some(fields) = value.get_mut(record).and_then(Value::as_object_mut) {
                for name in ["reserved_wait_ms", "cooldown", "retries", "disabled"] {
                    fields.remove(name);
                }
            }
        }
        value.to_string()
    };
    let read = cluster.read().unwrap();
    let before = cluster.texts.clone();
    cluster.edit_lines(|line| vec![without(line)]);
    assert_ne!(cluster.texts, before);
    assert_eq!(cluster.read().unwrap().snapshot, read.snapshot, "all of these say what is usual");
}

#[test]
fn the_same_tables_are_no_change_whoever_writes_them() {
    let snapshot = world().compile().snapshot;
    let one = Cluster::of(&wire::write(&snapshot, &[], SEALING, None, None)).manifest;
    let other = wire::Manifest { generation: 9, written_by: "9.9.9".into(), ..one.clone() };
    assert!(one.same_content(&other));
    let less = tollgate_snapshot::Snapshot { keys: Vec::new(), ..snapshot };
    assert!(!one.same_content(&Cluster::of(&wire::write(&less, &[], SEALING, None, None)).manifest));
}
