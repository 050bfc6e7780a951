//! What operators and proxies of an earlier version said to each other over the status port, recorded from two processes,
//! one folder for each form: it is read for ever, so nothing in it is changed.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tollgate_allocator::{Answer, Answers, Batch, Exchange, Exchanged, ReplicaId, Report, Span, Unit};
use tollgate_operator::proxies::{Speed, Told, Used, UsedKey, Verdict};

const SNAPSHOT: &str = include_str!("recorded/1/snapshot.json");
const USED: &str = include_str!("recorded/1/used.json");
const PROBE: &str = include_str!("recorded/1/probe-answer.json");
const QUESTION: &str = include_str!("recorded/1/allowance-question.json");
const ANSWER: &str = include_str!("recorded/1/allowance-answer.json");

/// Reads it as it was written, and as a later version may write it: with a field more in every object.
fn read<T: DeserializeOwned + PartialEq + std::fmt::Debug>(recorded: &str) -> T {
    let mut value: Value = serde_json::from_str(recorded).expect("JSON");
    let as_written = T::deserialize(value.clone()).expect("it is read as it was written");
    add_fields(&mut value);
    assert_eq!(T::deserialize(value).expect("it is read with more in it"), as_written);
    as_written
}

fn add_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_fields);
            fields.insert("ofALaterVersion".to_owned(), json!({"x": [1]}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether an earlier version finds in `now` everything that it wrote itself.
fn holds(now: &Value, then: &Value) -> bool {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            then.iter().all(|(name, then)| now.get(name).is_some_and(|now| holds(now, then)))
        }
        (Value::Array(now), Value::Array(then)) => {
            now.len() == then.len() && now.iter().zip(then).all(|(now, then)| holds(now, then))
        }
        (now, then) => now == then,
    }
}

fn span() -> Span {
    let text =
        r#"{"kind":"Month","starts_at":1793491200,"ends_at":1796083200,"counts_until":1796083200,"label":"2026-11"}"#;
    serde_json::from_str(text).expect("a span")
}

fn replica() -> ReplicaId {
    ReplicaId("0f2c1a5e-7d55-4a5a-9a53-6f1d0b6c2e11.1".to_owned())
}

#[test]
fn what_a_proxy_says_of_itself_is_read() {
    let told: Told = read(SNAPSHOT);
    assert_eq!(told, Told { generation: 2, version: "0.1.0".to_owned(), error: None });

    let used: Used = read(USED);
    let keys = vec![UsedKey { name: "team-a/k".to_owned(), last_used_at: 1_795_905_231 }];
    let deployments = vec![Speed { name: "team-a/m".to_owned(), p50_ms: 250 }];
    assert_eq!(used, Used { cursor: 1_795_905_253, keys, deployments });

    let verdict: Verdict = read(PROBE);
    assert_eq!((verdict.ok, &*verdict.reason), (true, "Reachable"));
}

#[test]
fn what_budgets_need_and_are_granted_is_read_and_written_as_before() {
    let budget = "team-a/VirtualKey/k".to_owned();
    let question: Exchange = read(QUESTION);
    let answer = Answer {
        budget: budget.clone(),
        span: span(),
        granted: 1_510_000,
        limit: 2_000_000,
        used_elsewhere: 0,
        charged_elsewhere: 0,
        tight: false,
        closed: false,
        unknown: false,
    };
    let answers = vec![Answers { replica: replica(), answers: vec![answer] }];
    assert_eq!(question, Exchange { answers, wait_ms: 1_000 });

    let reply: Exchanged = read(ANSWER);
    let report = Report {
        budget,
        unit: Unit::NanoUsd,
        reset_token: None,
        span: span(),
        returned: 0,
        used: 127_500,
        held: 0,
        refused: 0,
        wanted: 1_637_500,
        last: false,
    };
    assert_eq!(reply, Exchanged { batches: vec![Batch { replica: replica(), reports: vec![report] }] });

    for (now, then) in [(serde_json::to_value(&question), QUESTION), (serde_json::to_value(&reply), ANSWER)] {
        let (now, then) = (now.expect("JSON"), serde_json::from_str(then).expect("JSON"));
        assert!(holds(&now, &then), "{now} lacks something of {then}");
    }
}
