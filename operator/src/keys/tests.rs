//! Looks at keys against an API server of this process that holds Secrets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tollgate_crds::KeySecret;
use tollgate_snapshot::KeyHash;

use super::secret::Place;
use super::work::{InStatus, Outcome, Work};
use super::*;
use crate::facts::{Facts, KeyFact};

const NOW: i64 = 1_800_000_000;

/// Secrets by name, and what was asked.
#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Value>,
    asked: Vec<String>,
    /// Verbs that are refused with this status.
    refused: BTreeMap<&'static str, u16>,
    versions: u64,
}

impl FakeApi {
    /// A client of it; it ends with the client.
    fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let api = self.clone();
        tokio::spawn(async move {
            while let Some((request, respond)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (status, answer) = api.answer(parts.method.as_str(), parts.uri.path(), &body);
                let body = Body::from(answer.to_string().into_bytes());
                respond.send_response(Response::builder().status(status).body(body).unwrap());
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, verb: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        state.asked.push(format!("{verb} {path}"));
        let failed = |code: u16| {
            let reason = if code == 404 { "NotFound" } else { "Other" };
            (code, json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"}))
        };
        if let Some(code) = state.refused.get(verb) {
            return failed(*code);
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = match verb {
            "POST" => body["metadata"]["name"].as_str().unwrap().to_owned(),
            _ => path.rsplit('/').next().unwrap().to_owned(),
        };
        state.versions += 1;
        let version = json!(state.versions.to_string());
        let before = state.secrets.get(&name).cloned();
        let mut secret = match (verb, before) {
            ("GET", before) => return before.map_or(failed(404), |secret| (200, secret)),
            ("POST", Some(_)) => return failed(409),
            ("POST", None) => body,
            ("PATCH", Some(before)) if before["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] => {
                let mut after = before;
                after["data"] = body["data"].clone();
                after
            }
            _ => return failed(409),
        };
        secret["metadata"]["resourceVersion"] = version;
        state.secrets.insert(name, secret.clone());
        (200, secret)
    }

    fn put(&self, secret: Value) {
        let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
        self.0.lock().unwrap().secrets.insert(name, secret);
    }

    fn refuse(&self, verb: &'static str, code: u16) {
        self.0.lock().unwrap().refused.insert(verb, code);
    }

    fn key(&self, name: &str) -> String {
        let state = self.0.lock().unwrap();
        let value = state.secrets[name]["data"]["key"].as_str().unwrap();
        String::from_utf8(STANDARD.decode(value).unwrap()).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }
}

fn secret(uid: &str, key: &str) -> Value {
    json!({
        "metadata": {
            "name": "ci-key",
            "namespace": "team-a",
            "resourceVersion": "0",
            "labels": {"tollgate.dev/virtualkey": "ci"},
            "ownerReferences": [{"apiVersion": "tollgate.dev/v1alpha1", "kind": "VirtualKey", "name": "ci", "uid": uid}],
        },
        "data": {"key": STANDARD.encode(key)},
    })
}

fn work(known: KeyFact, request: Option<&str>) -> Work {
    let secret = KeySecret { name: "ci-key".to_owned(), key: "key".to_owned(), policy: KeyPolicy::Generate };
    Work {
        place: Place {
            namespace: "team-a".to_owned(),
            name: "ci".to_owned(),
            uid: "mine".to_owned(),
            secret: "ci-key".to_owned(),
            entry: "key".to_owned(),
        },
        wish: Wish::new(&secret, None, request),
        known,
    }
}

/// The status follows the facts at once.
async fn look(api: &FakeApi, facts: &Facts, work: Work) -> (Outcome, KeyFact) {
    let in_status = || InStatus::Key(fact(facts).hash);
    let outcome = work.run(&api.client(), facts, in_status, NOW).await;
    (outcome, fact(facts))
}

fn fact(facts: &Facts) -> KeyFact {
    facts.read().keys.get(&("team-a".to_owned(), "ci".to_owned())).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_new_key_is_in_an_owned_secret_and_its_hash_is_told() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    let (outcome, fact) = look(&api, &facts, work(KeyFact::default(), None)).await;
    let key = api.key("ci-key");
    assert_eq!(outcome, Outcome::Settled);
    assert_eq!(
        fact,
        KeyFact {
            uid: "mine".to_owned(),
            hash: Some(KeyHash::of(key.as_bytes())),
            prefix: Some(key[..7].to_owned()),
            made_at: Some(NOW),
            secret: Some("ci-key".to_owned()),
            ..KeyFact::default()
        }
    );
    let metadata = api.0.lock().unwrap().secrets["ci-key"]["metadata"].clone();
    assert_eq!(metadata["labels"][LABEL], "ci");
    assert_eq!(
        metadata["ownerReferences"],
        json!([{"apiVersion": "tollgate.dev/v1alpha1", "kind": "VirtualKey", "name": "ci", "uid": "mine", "controller": true}])
    );
}

#[tokio::test]
async fn a_secret_that_is_not_ours_is_never_written() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    for known in [KeyFact::default(), KeyFact { hash: Some(KeyHash::of(b"a")), ..KeyFact::default() }] {
        api.put(secret("somebody", "theirs"));
        let (outcome, fact) = look(&api, &facts, work(known.clone(), Some("now"))).await;
        assert_eq!((outcome, fact.hash), (Outcome::Blocked, known.hash));
        assert_eq!(fact.problem.map(|problem| problem.reason), Some("SecretNotOurs"));
        assert_eq!(api.key("ci-key"), "theirs");
    }
    assert!(api.asked().iter().all(|asked| asked.starts_with("GET ")), "{:?}", api.asked());
}

#[tokio::test]
async fn a_secret_that_appears_in_between_is_looked_at_again() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    api.refuse("POST", 409);
    let (outcome, fact) = look(&api, &facts, work(KeyFact::default(), None)).await;
    assert_eq!((outcome, fact), (Outcome::Again, KeyFact::default()));
}

#[tokio::test]
async fn a_key_that_only_our_secret_knows_is_taken_up() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    api.put(secret("mine", "sk-made-before-a-crash\n"));
    let (outcome, fact) = look(&api, &facts, work(KeyFact::default(), None)).await;
    assert_eq!(outcome, Outcome::Settled);
    assert_eq!(fact.hash, Some(KeyHash::of(b"sk-made-before-a-crash")));
    assert_eq!(fact.prefix.as_deref(), Some("sk-made"));
}

#[tokio::test]
async fn a_replaced_key_is_told_before_it_is_written_and_the_old_one_goes_on() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    api.put(secret("mine", "sk-old"));
    let old = KeyHash::of(b"sk-old");
    let known = KeyFact { hash: Some(old), secret: Some("ci-key".to_owned()), ..KeyFact::default() };
    let in_status = || {
        // Until the status has it, the Secret keeps the old one.
        assert_eq!(api.key("ci-key"), "sk-old");
        InStatus::Key(fact(&facts).hash)
    };
    let outcome = work(known, Some("2026-11-28")).run(&api.client(), &facts, in_status, NOW).await;
    let (new, fact) = (api.key("ci-key"), fact(&facts));
    assert_eq!(outcome, Outcome::Settled);
    assert_eq!(fact.hash, Some(KeyHash::of(new.as_bytes())));
    assert_eq!(fact.previous, Some((old, NOW + 3_600)));
    assert_eq!(fact.request.as_deref(), Some("2026-11-28"));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_no_status_remembers_is_not_handed_out() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    api.put(secret("mine", "sk-old"));
    let known = KeyFact { hash: Some(KeyHash::of(b"sk-old")), secret: Some("ci-key".to_owned()), ..KeyFact::default() };
    let outcome = work(known.clone(), Some("now")).run(&api.client(), &facts, || InStatus::Key(None), NOW).await;
    assert_eq!((outcome, fact(&facts)), (Outcome::Failed, KeyFact { uid: "mine".to_owned(), ..known }));
    assert_eq!(api.key("ci-key"), "sk-old");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_deleted_meanwhile_is_not_waited_for() {
    let (api, facts) = (FakeApi::default(), Facts::default());
    api.put(secret("mine", "sk-old"));
    let known = KeyFact { hash: Some(KeyHash::of(b"sk-old")), secret: Some("ci-key".to_owned()), ..KeyFact::default() };
    let begun = tokio::time::Instant::now();
    let outcome = work(known, Some("now")).run(&api.client(), &facts, || InStatus::Gone, NOW).await;
    assert_eq!((outcome, begun.elapsed()), (Outcome::Again, std::time::Duration::ZERO));
    assert_eq!(api.key("ci-key"), "sk-old");
}

#[tokio::test]
async fn a_missing_binding_is_named() {
    for (verb, action) in [("GET", "read"), ("POST", "write")] {
        let (api, facts) = (FakeApi::default(), Facts::default());
        api.refuse(verb, 403);
        let (outcome, fact) = look(&api, &facts, work(KeyFact::default(), None)).await;
        let problem = fact.problem.expect("a problem");
        assert_eq!((outcome, problem.reason), (Outcome::Blocked, "SecretForbidden"));
        assert_eq!(
            problem.message,
            format!(
                "the operator may not {action} Secret `ci-key`; to make keys it needs create, get, patch and watch of Secrets in namespace `team-a` \
                 (the chart's value secrets.generate.namespaces)"
            )
        );
    }
}

#[test]
fn a_status_remembers_all_of_a_key() {
    let fact = KeyFact {
        uid: String::new(),
        hash: Some(KeyHash::of(b"a")),
        previous: Some((KeyHash::of(b"b"), NOW)),
        prefix: Some("sk-abcd".to_owned()),
        made_at: Some(NOW - 1),
        secret: Some("ci-key".to_owned()),
        request: Some("now".to_owned()),
        problem: None,
    };
    let mut status = tollgate_crds::VirtualKeyStatus::default();
    fact.write_status(&mut status);
    assert_eq!(KeyFact::of_status(&status), Some(fact));
    assert_eq!(KeyFact::of_status(&Default::default()), None);
}
