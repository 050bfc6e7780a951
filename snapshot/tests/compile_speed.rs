//! Ten thousand keys with budgets of their own compile in the time between two frames of a film, whatever else selects
//! them. Measured only by
//! `cargo test --release -p tollgate-snapshot --test compile_speed -- --ignored --nocapture`: debug builds say nothing.

use std::time::{Duration, Instant};

use tollgate_snapshot::KeyHash;
use tollgate_snapshot::compile::{Document, Input, KeyHashes, Meta, Mode, Object, Secrets, compile};

const KEYS: usize = 10_000;
const LONGEST: Duration = Duration::from_millis(20);

fn documents() -> (Vec<Document>, KeyHashes) {
    let deployment =
        serde_json::json!({"provider": "mock", "model": "m", "pricing": {"free": true}, "modelNames": ["chat"]});
    let deployment = serde_json::from_value(deployment).expect("it has the shape of its kind");
    let meta = Meta::new("default", "chat");
    let mut documents = vec![Document::ModelDeployment(Box::new(Object { meta, spec: deployment }))];
    let mut hashes = KeyHashes::default();
    for at in 0..KEYS {
        let name = format!("key-{at:05}");
        hashes.insert("default", &name, KeyHash::of(name.as_bytes()));
        let spec = serde_json::json!({
            "models": ["chat"],
            "user": format!("user-{}", at % 500),
            "limits": {"requestsPerMinute": 60},
            "budget": {"limit": "25", "period": {"calendar": "Month"}},
            "secret": {"name": name},
        });
        let spec = serde_json::from_value(spec).expect("it has the shape of its kind");
        documents.push(Document::VirtualKey(Box::new(Object { meta: Meta::new("default", name), spec })));
    }
    (documents, hashes)
}

#[test]
fn every_key_has_its_budget() {
    let (documents, hashes) = documents();
    let compiled = compile(Input {
        mock_endpoint: Some(tollgate_snapshot::model::Endpoint {
            tls: false,
            host: "::1".into(),
            port: 1,
            path: "".into(),
        }),
        ..Input::new(&documents, &Secrets::default(), &hashes, Mode::Standalone, 0)
    });
    assert_eq!(compiled.findings, []);
    assert_eq!(
        (compiled.snapshot.keys.len(), compiled.snapshot.budgets.len(), compiled.snapshot.policies.len()),
        (KEYS, KEYS, 1)
    );
}

#[test]
#[ignore = "measures; needs a release build"]
fn ten_thousand_keys_compile_at_once() {
    let (documents, hashes) = documents();
    let secrets = Secrets::default();
    let one = || {
        let start = Instant::now();
        let compiled = compile(Input::new(&documents, &secrets, &hashes, Mode::Standalone, 0));
        assert_eq!(compiled.snapshot.keys.len(), KEYS);
        start.elapsed()
    };
    let best = (0..10).map(|_| one()).min().expect("there were ten runs");
    println!("{KEYS} keys: {best:?}");
    assert!(best <= LONGEST, "{best:?}");
}

/// Mistakes and all: budgets that bind every key, and budgets that all want one label of every key and another one too.
#[test]
#[ignore = "measures; needs a release build"]
fn thousands_of_budgets_that_may_select_every_key_take_no_longer() {
    const BUDGETS: usize = 5_000;
    for (what, scope) in [
        ("select every key", serde_json::json!({})),
        ("count some calls of every key", serde_json::json!({"models": ["chat"]})),
        ("share a label", serde_json::json!({"keySelector": {"matchLabels": {"env": "dev", "project": "one"}}})),
    ] {
        let (mut documents, hashes) = documents();
        for at in 0..BUDGETS {
            let mut scope = scope.clone();
            if let Some(labels) = scope.pointer_mut("/keySelector/matchLabels/project") {
                *labels = format!("project-{at}").into();
            }
            let spec = serde_json::json!({"limit": "1", "period": {"calendar": "Month"}, "appliesTo": scope});
            let spec = serde_json::from_value(spec).expect("it has the shape of its kind");
            let meta = Meta::new("default", format!("budget-{at:04}"));
            documents.push(Document::Budget(Box::new(Object { meta, spec })));
        }
        for document in &mut documents {
            if let Document::VirtualKey(object) = document {
                object.meta.labels.insert("env".to_owned(), "dev".to_owned());
            }
        }
        let secrets = Secrets::default();
        let one = || {
            let start = Instant::now();
            compile(Input::new(&documents, &secrets, &hashes, Mode::Standalone, 0));
            start.elapsed()
        };
        let best = (0..10).map(|_| one()).min().expect("there were ten runs");
        println!("{KEYS} keys, {BUDGETS} budgets that {what}: {best:?}");
        assert!(best <= 4 * LONGEST, "{best:?}");
    }
}
