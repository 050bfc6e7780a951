//! Which deployment gets a call, and what happens when it fails (issue part 9; litellm.md 3).

use std::time::{Duration, Instant};

use tollgate_harness::{Cut, CutHow, Failure, Mock, Object, Options, Reply, Stage, Step, Value, json, objects};

/// Deployments that were asked, in order.
fn asked(mock: &Mock) -> Vec<String> {
    let model = |seen: tollgate_harness::SeenRequest| {
        seen.json()["model"].as_str().expect("a model").trim_start_matches("up-").to_owned()
    };
    mock.requests().into_iter().map(model).collect()
}

fn three(mock: &Mock) -> Vec<Object> {
    ["a", "b", "c"].map(|name| objects::deployment(name, mock)).into()
}

async fn routed(change: impl FnOnce(Object) -> Object) -> Stage {
    Stage::start(|mock| {
        let mut all = three(mock);
        all.push(change(objects::route("r", ["a", "b", "c"])));
        all
    })
    .await
}

fn target(name: &str, more: Value) -> Value {
    let mut target = json!({"name": name, "modelDeploymentRef": {"name": name}});
    for (field, value) in more.as_object().expect("fields") {
        target[field] = value.clone();
    }
    target
}

#[tokio::test]
async fn deployments_of_one_name_share_its_calls_by_weight() {
    let stage = Stage::start(|mock| {
        let named = |name: &str, weight: i32| {
            objects::deployment(name, mock).set("spec.modelNames", json!(["both"])).set("spec.weight", weight)
        };
        vec![named("a", 3), named("b", 1)]
    })
    .await;
    for _ in 0..200 {
        stage.gateway.chat("both").send().await.expect(200);
    }
    let first = asked(&stage.mock).iter().filter(|name| *name == "a").count();
    // 150 expected; 8 standard deviations are 49.
    assert!((101..=199).contains(&first), "{first} of 200");
    stage.finish().await;
}

#[tokio::test]
async fn lower_priorities_serve_only_when_higher_ones_cannot() {
    let targets = json!([
        target("a", json!({"priority": 2})),
        target("b", json!({"priority": 0})),
        target("c", json!({"priority": 1}))
    ]);
    let stage = routed(|route| route.set("spec.targets", targets)).await;
    for _ in 0..5 {
        stage.gateway.chat("r").send().await.expect(200);
    }
    assert_eq!(asked(&stage.mock), ["b"; 5]);
    stage.mock.script("up-b", [Step::error(429)]);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock)[5..], ["b", "c"]);
    stage.finish().await;
}

#[tokio::test]
async fn ordered_targets_are_asked_in_their_order() {
    let stage = routed(|route| {
        route.set("spec.strategy", "Ordered").set("spec.retries", json!({"attempts": 2, "backoff": {"initial": "1ms"}}))
    })
    .await;
    stage.gateway.chat("r").send().await.expect(200);
    stage.mock.script("up-a", [Step::error(500)]);
    stage.mock.script("up-b", [Step::error(503)]);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock), ["a", "a", "b", "c"]);
    stage.finish().await;
}

#[tokio::test]
async fn all_targets_are_asked_before_one_is_asked_again() {
    for strategy in ["Ordered", "WeightedShuffle", "LeastBusy"] {
        let stage = routed(|route| {
            let retries = json!({"attempts": 5, "backoff": {"initial": "1ms"}});
            route.set("spec.strategy", strategy).set("spec.retries", retries)
        })
        .await;
        stage.mock.script("*", [Step::error(500).repeat(5)]);
        stage.gateway.chat("r").send().await.expect(200);
        let asked = asked(&stage.mock);
        for round in asked.chunks(3) {
            let mut round = round.to_vec();
            round.sort();
            assert_eq!(round, ["a", "b", "c"], "{strategy}: {asked:?}");
        }
        assert_ne!(asked[2], asked[3], "{strategy}: none twice in a row");
        stage.finish().await;
    }
}

#[tokio::test]
async fn the_least_busy_deployment_is_asked() {
    let stage = routed(|route| route.set("spec.strategy", "LeastBusy")).await;
    stage.mock.script("*", [Step::usual().gate("open").repeat(6)]);
    let mut calls = Vec::new();
    for count in 1..=6 {
        calls.push(tokio::spawn(stage.gateway.chat("r").send()));
        stage.mock.wait_at_gate("open", count).await;
    }
    for round in asked(&stage.mock).chunks(3) {
        let mut round = round.to_vec();
        round.sort();
        assert_eq!(round, ["a", "b", "c"], "each has as many as the others");
    }
    stage.mock.open_gate("open");
    for call in calls {
        call.await.expect("it ends").expect(200);
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_retry_goes_to_another_deployment_first() {
    let stage = routed(|route| route).await;
    for status in [500, 429, 408] {
        stage.mock.script("*", [Step::error(status)]);
        let before = stage.mock.requests().len();
        let reply = stage.gateway.chat("r").send().await.expect(200);
        let asked = &asked(&stage.mock)[before..];
        assert_eq!(asked.len(), 2, "{status}");
        assert_ne!(asked[0], asked[1], "{status}");
        assert_eq!(reply.header("x-litellm-attempted-retries"), Some("1"));
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_refused_credential_is_tried_elsewhere_and_a_bad_request_is_not() {
    let stage = routed(|route| route).await;
    stage.mock.script("*", [Step::error(401)]);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock).len(), 2);
    stage.mock.script("*", [Step::error(400)]);
    stage.gateway.chat("r").send().await.expect(400);
    assert_eq!(asked(&stage.mock).len(), 3);
    stage.finish().await;
}

#[tokio::test]
async fn only_the_named_classes_are_tried_again() {
    let stage = Stage::start(|mock| {
        let retries = json!({"attempts": 2, "errors": ["RateLimit"], "backoff": {"initial": "1ms", "max": "2ms"}});
        vec![objects::deployment("a", mock), objects::route("r", ["a"]).set("spec.retries", retries)]
    })
    .await;
    stage.mock.script("up-a", [Step::error(500)]);
    stage.gateway.chat("r").send().await.expect(500);
    assert_eq!(asked(&stage.mock).len(), 1);
    stage.mock.script("up-a", [Step::error(429).repeat(2)]);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock).len(), 4);
    stage.finish().await;
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_and_booked_once_more() {
    let stage = routed(|route| route).await;
    stage.mock.script("*", [Step::reset()]);
    stage.gateway.chat("r").send().await.expect(200);
    let rows = stage.finish_flagged().await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
}

#[tokio::test]
async fn nothing_is_tried_again_after_the_first_event_went_out() {
    let stage = routed(|route| route).await;
    let cut = Cut { after_events: Some(2), how: CutHow::Close, ..Cut::default() };
    stage.mock.script("*", [Reply { cut: Some(cut), ..Reply::default() }]);
    stage.gateway.chat_stream("r").stream().await.rest().await;
    assert_eq!(asked(&stage.mock).len(), 1);
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_stream_that_ends_before_its_first_event_is_tried_again() {
    let stage = routed(|route| route).await;
    let cut = Cut { how: CutHow::Close, ..Cut::default() };
    stage.mock.script("*", [Reply { cut: Some(cut), ..Reply::default() }]);
    let events = stage.gateway.chat_stream("r").stream().await.rest().await;
    assert!(events.last().is_some_and(tollgate_harness::Event::is_done));
    assert_eq!(asked(&stage.mock).len(), 2);
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_lone_deployments_retry_after_is_honoured() {
    let stage = Stage::one().await;
    let wait = Failure {
        status: Some(429),
        headers: [("retry-after-ms".to_owned(), "400".to_owned())].into(),
        ..Failure::default()
    };
    stage.mock.script("up-m", [wait]);
    let begun = Instant::now();
    stage.gateway.chat("m").send().await.expect(200);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
    stage.finish().await;
}

#[tokio::test]
async fn nobody_waits_where_another_deployment_can_serve() {
    let stage = routed(|route| route).await;
    let wait = Failure {
        status: Some(429),
        headers: [("retry-after".to_owned(), "20".to_owned())].into(),
        ..Failure::default()
    };
    stage.mock.script("*", [wait]);
    let begun = Instant::now();
    stage.gateway.chat("r").send().await.expect(200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    stage.finish().await;
}

fn fallback(errors: Value, model: &str) -> Value {
    json!([{"name": "spare", "errors": errors, "models": [model]}])
}

#[tokio::test]
async fn a_fallback_serves_when_all_else_failed() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("a", mock),
            objects::deployment("spare", mock),
            objects::route("r", ["a"]).set("spec.fallbacks", fallback(json!(["Any"]), "spare")),
        ]
    })
    .await;
    stage.mock.script("up-a", [Step::error(500).repeat(3)]);
    let reply = stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock), ["a", "a", "a", "spare"]);
    assert_eq!(reply.header("x-litellm-attempted-fallbacks"), Some("1"));
    assert_eq!(reply.json()["model"], "up-spare", "after a fallback clients see who really answered (API-1)");
    stage.mock.script("up-a", [Step::error(500).repeat(3)]);
    let events = stage.gateway.chat_stream("r").stream().await.rest().await;
    assert_eq!(events[0].json()["model"], "up-spare");
    stage.finish().await;
}

#[tokio::test]
async fn fallbacks_of_a_class_take_that_class_only() {
    let stage = Stage::start(|mock| {
        let fallbacks = json!([
            {"name": "long", "errors": ["ContextWindow"], "models": ["long"]},
            {"name": "policy", "errors": ["ContentPolicy"], "models": ["free"]},
        ]);
        let mut all: Vec<Object> = ["a", "long", "free"].map(|name| objects::deployment(name, mock)).into();
        all.push(objects::route("r", ["a"]).set("spec.fallbacks", fallbacks));
        all
    })
    .await;
    let context = Failure {
        status: Some(400),
        message: Some("maximum context length is 8192 tokens".into()),
        code: Some("context_length_exceeded".into()),
        ..Failure::default()
    };
    stage.mock.script("up-a", [context]);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock), ["a", "long"]);
    let policy = Failure {
        status: Some(400),
        message: Some("flagged".into()),
        code: Some("content_policy_violation".into()),
        ..Failure::default()
    };
    stage.mock.script("up-a", [policy]);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock)[2..], ["a", "free"]);
    stage.mock.script("up-a", [Step::error(400)]);
    stage.gateway.chat("r").send().await.expect(400);
    assert_eq!(asked(&stage.mock)[4..], ["a"]);
    stage.finish().await;
}

#[tokio::test]
async fn a_fallback_needs_no_grant_on_the_key() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("a", mock),
            objects::deployment("spare", mock),
            objects::route("r", ["a"]).set("spec.fallbacks", fallback(json!(["Any"]), "spare")),
            objects::caller().set("spec.models", json!(["r"])),
        ]
    })
    .await;
    stage.gateway.chat("spare").send().await.expect(403);
    stage.mock.script("up-a", [Step::error(400)]);
    stage.gateway.chat("r").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn fallbacks_that_name_each_other_end() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("a", mock),
            objects::deployment("b", mock),
            objects::route("ra", ["a"]).set("spec.fallbacks", fallback(json!(["Any"]), "rb")),
            objects::route("rb", ["b"]).set("spec.fallbacks", fallback(json!(["Any"]), "ra")),
        ]
    })
    .await;
    stage.mock.script("*", [Step::error(400).repeat(20)]);
    stage.gateway.chat("ra").send().await.expect(400);
    assert_eq!(asked(&stage.mock), ["a", "b"]);
    stage.finish().await;
}

#[tokio::test]
async fn all_attempts_of_a_call_stay_within_max_attempts() {
    let stage = Stage::start(|mock| {
        let retries = json!({"attempts": 10, "backoff": {"initial": "1ms", "max": "2ms"}});
        let gateway = objects::gateway().set("spec.defaults", json!({"maxAttempts": 4, "retries": retries}));
        let mut all = three(mock);
        all.push(gateway);
        all.push(objects::route("r", ["a", "b"]).set("spec.fallbacks", fallback(json!(["Any"]), "c")));
        all
    })
    .await;
    stage.mock.script("*", [Step::error(500).repeat(50)]);
    stage.gateway.chat("r").send().await.expect(500);
    assert_eq!(stage.mock.requests().len(), 4);
    stage.finish().await;
}

#[tokio::test]
async fn a_route_may_have_no_retries() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("a", mock), objects::route("r", ["a"]).set("spec.retries", json!({"attempts": 0}))]
    })
    .await;
    stage.mock.script("up-a", [Step::error(500)]);
    stage.gateway.chat("r").send().await.expect(500);
    assert_eq!(stage.mock.requests().len(), 1);
    stage.gateway.chat("r").header("x-litellm-num-retries", "1").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_deployment_that_fails_is_benched_and_comes_back() {
    let stage = Stage::start(|mock| {
        let mut all = vec![objects::deployment("a", mock), objects::deployment("b", mock)];
        let cooldown = json!({"failures": 2, "window": "1m", "duration": "5s"});
        let route = objects::route("r", ["a", "b"]).set("spec.strategy", "Ordered").set("spec.cooldown", cooldown);
        all.push(route);
        all
    })
    .await;
    stage.mock.script("up-a", [Step::error(500).repeat(2)]);
    for _ in 0..3 {
        stage.gateway.chat("r").send().await.expect(200);
    }
    assert_eq!(asked(&stage.mock), ["a", "b", "a", "b", "b"], "after two failures it is passed over");
    let health = stage.gateway.health().await;
    assert_eq!((&health["unhealthy_count"], &health["healthy_count"]), (&json!(1), &json!(1)));
    let back = async {
        while asked(&stage.mock).last().is_none_or(|name| name != "a") {
            stage.gateway.chat("r").send().await.expect(200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tollgate_harness::patiently("the deployment's return", back).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_lone_deployment_is_not_benched_by_a_few_failures() {
    let stage = Stage::one().await;
    for _ in 0..5 {
        stage.mock.script("up-m", [Step::error(404)]);
        stage.gateway.chat("m").header("x-litellm-num-retries", "0").send().await.expect(404);
        stage.gateway.chat("m").send().await.expect(200);
    }
    stage.finish().await;
}

#[tokio::test]
async fn wildcards_put_what_they_matched_into_the_providers_name() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("any", mock).set("spec.modelNames", json!(["vendor/*"])).set("spec.model", "up-any~*"),
            objects::deployment("exact", mock).set("spec.modelNames", json!(["vendor/special"])),
            objects::deployment("longer", mock)
                .set("spec.modelNames", json!(["vendor/big-*"]))
                .set("spec.model", "up-longer"),
        ]
    })
    .await;
    for model in ["vendor/x-1", "vendor/special", "vendor/big-2"] {
        assert_eq!(stage.gateway.chat(model).send().await.expect(200).json()["model"], model);
    }
    assert_eq!(
        asked(&stage.mock),
        ["any~x-1", "exact", "longer"],
        "exact before the longest prefix before shorter ones"
    );
    stage.gateway.chat("other").send().await.expect(400);
    stage.finish().await;
}

#[tokio::test]
async fn conditions_choose_targets_by_tag_header_and_key() {
    let targets = json!([
        target("a", json!({"when": "'eu' in request.tags || 'Authorization' in request.headers"})),
        target("b", json!({"when": "'x-tier' in request.headers && request.headers['X-Tier'] == 'gold'"})),
        target(
            "c",
            json!({"when": "key.name == 'caller' && key.labels.env == 'dev' && size(request.tags) == 0 && !('x-tier' in request.headers)"})
        ),
    ]);
    let stage = Stage::start(|mock| {
        let mut all = three(mock);
        all.push(objects::route("r", ["a", "b", "c"]).set("spec.targets", targets));
        all.push(objects::caller().set("metadata.labels", json!({"app": "x", "env": "dev"})));
        all
    })
    .await;
    stage.gateway.chat("r").header("x-litellm-tags", "other, eu").send().await.expect(200);
    stage.gateway.chat("r").header("x-tier", "gold").send().await.expect(200);
    stage.gateway.chat("r").send().await.expect(200);
    assert_eq!(asked(&stage.mock), ["a", "b", "c"]);
    stage.gateway.chat("r").header("x-litellm-tags", "us").send().await.expect(400);
    let tagged = json!({"model": "r", "metadata": {"tags": ["eu"]}, "messages": [{"role": "user", "content": "Hi"}]});
    stage.gateway.chat("r").json(&tagged).send().await.expect(200);
    assert_eq!(
        asked(&stage.mock).last().map(String::as_str),
        Some("a"),
        "tags of the body's metadata count too (RT-21)"
    );
    stage.finish().await;
}

#[tokio::test]
async fn a_route_stands_before_deployments_of_its_name() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("a", mock).set("spec.modelNames", json!(["name"])),
            objects::deployment("b", mock),
            objects::route("r", ["b"]).set("spec.modelNames", json!(["name"])),
        ]
    })
    .await;
    stage.gateway.chat("name").send().await.expect(200);
    assert_eq!(asked(&stage.mock), ["b"]);
    stage.finish().await;
}

#[tokio::test]
async fn several_credentials_of_an_account_share_its_calls() {
    let mock = Mock::start(Options::default()).await.expect("the mock listens");
    let secret = |name: &str| objects::secret_of(name, &format!("sk-{name}"));
    let credential = |name: &str| json!({"name": name, "secretRef": {"name": name, "key": "api-key"}});
    let account = json!({"provider": "openai-compatible", "endpoint": {"baseURL": format!("{}/v1", mock.url())}, "credentials": [credential("one"), credential("two")]});
    let deployment = objects::deployment("m", &mock)
        .unset("spec.provider")
        .unset("spec.endpoint")
        .unset("spec.credential")
        .set("spec.accountRef", json!({"name": "shared"}));
    let all = [
        objects::gateway(),
        objects::caller(),
        secret("one"),
        secret("two"),
        Object::new("ProviderAccount", "shared", account),
        deployment,
    ];
    let mut gateway = tollgate_harness::Gateway::start(&tollgate_harness::documents(&all)).await;
    for _ in 0..40 {
        gateway.chat("m").send().await.expect(200);
    }
    let used: std::collections::BTreeSet<String> =
        mock.requests().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["Bearer sk-one", "Bearer sk-two"]);
    tollgate_harness::assert_ledger_equals_invoice(&mut gateway, &[&mock]).await;
}
