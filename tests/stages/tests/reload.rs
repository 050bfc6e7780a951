//! Edits of a running gateway's files (issue part 5; resources.md, a broken edit).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tollgate_harness::{Gateway, KEY, Object, Reply, Stage, Step, Tokens, Value, documents, json, objects};

/// Longest time from an edit to its effect.
const LIVE: Duration = Duration::from_millis(500);

fn change(objects: &mut [Object], kind: &str, name: &str, with: impl Fn(Object) -> Object) {
    let mut found = false;
    for object in objects.iter_mut().filter(|object| object.id() == (kind, name)) {
        *object = with(object.clone());
        found = true;
    }
    assert!(found, "there is no {kind} {name}");
}

async fn findings(gateway: &Gateway) -> Vec<Value> {
    gateway.health().await["config"]["findings"].as_array().expect("a list of findings").clone()
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[tokio::test]
async fn an_edit_is_live_within_half_a_second() {
    let stage = Stage::one().await;
    let mut took = Vec::new();
    for round in 0..5 {
        let name = format!("added-{round}");
        let mut objects = stage.objects.clone();
        objects.push(objects::deployment(&name, &stage.mock));
        assert_eq!(stage.gateway.chat(&name).send().await.status, 400);
        stage.gateway.edit("config.yaml", &documents(&objects));
        let edited = Instant::now();
        while stage.gateway.chat(&name).send().await.status != 200 {
            assert!(edited.elapsed() < Duration::from_secs(10), "the edit has no effect:\n{}", stage.gateway.log());
        }
        took.push(edited.elapsed());
    }
    took.sort();
    // The machine may stand still for a moment.
    assert!(took[3] <= LIVE, "{took:?}");
    stage.finish().await;
}

#[tokio::test]
async fn an_edit_that_comes_with_the_banner_is_not_missed() {
    for _ in 0..5 {
        let mut stage = Stage::one().await;
        stage.edit(|objects| objects.push(objects::key("another", &objects::key_text("another")))).await;
        stage.gateway.chat("m").key(&objects::key_text("another")).send().await.expect(200);
        stage.finish().await;
    }
}

#[tokio::test]
async fn files_may_be_added_and_taken_away() {
    let stage = Stage::one().await;
    stage.gateway.edit_and_wait("more.yaml", &documents(&[objects::deployment("more", &stage.mock)])).await;
    stage.gateway.chat("more").send().await.expect(200);
    let before = stage.gateway.generation().await;
    std::fs::remove_file(stage.gateway.config().join("more.yaml")).expect("it is there");
    stage.gateway.wait_for_generation(before + 1).await;
    stage.gateway.chat("more").send().await.expect(400);
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_edits_under_load_fail_no_request_and_cut_no_stream() {
    let stage = Stage::one().await;
    stage.mock.script(
        "up-m",
        [Step::from(Reply { text: Some("w ".repeat(80)), chunk_delay_ms: 25, ..Reply::default() }).repeat(4)],
    );
    let long: Vec<_> = (0..4)
        .map(|_| {
            let call = stage.gateway.chat_stream("m");
            tokio::spawn(async move {
                let mut stream = call.stream().await;
                let events = stream.rest().await;
                assert!(
                    !stream.broken && events.last().is_some_and(tollgate_harness::Event::is_done),
                    "{}",
                    stream.text()
                );
                assert!(!stream.text().contains("\"error\""), "{}", stream.text());
            })
        })
        .collect();
    stage.mock.wait_for_requests(4).await;
    let (ended, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (ended, count) = (ended.clone(), count.clone());
            let (unary, stream) = (stage.gateway.chat("m"), stage.gateway.chat_stream("m"));
            tokio::spawn(async move {
                while !ended.load(Relaxed) {
                    if worker % 2 == 0 {
                        unary.clone().send().await.expect(200);
                    } else {
                        let mut stream = stream.clone().stream().await;
                        assert!(
                            stream.rest().await.last().is_some_and(tollgate_harness::Event::is_done),
                            "{}",
                            stream.text()
                        );
                    }
                    count.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        let mut objects = stage.objects.clone();
        change(&mut objects, "ModelDeployment", "m", |object| object.set("spec.weight", round + 1));
        objects.push(objects::key(&format!("key-{round}"), &objects::key_text(&format!("{round}"))));
        let edited = Instant::now();
        stage.gateway.edit_and_wait("config.yaml", &documents(&objects)).await;
        // Beside a load on two cores; the quiet case is the test above.
        assert!(edited.elapsed() < Duration::from_secs(5), "{:?}", edited.elapsed());
    }
    ended.store(true, Relaxed);
    for task in load.into_iter().chain(long) {
        task.await.expect("no request failed");
    }
    assert!(count.load(Relaxed) > 20, "{}", count.load(Relaxed));
    stage.finish().await;
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_state_and_says_so() {
    let mut stage = Stage::one().await;
    let good = stage.objects.clone();
    stage
        .edit(|objects| {
            change(objects, "ModelDeployment", "m", |object| object.set("spec.pricing.perMillionTokens.input", "cheap"))
        })
        .await;
    stage.gateway.chat("m").send().await.expect(200);
    let findings = findings(&stage.gateway).await;
    let about = |finding: &&Value| finding["field"].as_str().is_some_and(|field| field.starts_with("spec.pricing"));
    let finding = findings.iter().find(about).unwrap_or_else(|| panic!("{findings:#?}"));
    assert!(
        finding["object"].as_str().is_some_and(|object| object.contains("ModelDeployment") && object.ends_with("/m")),
        "{finding}"
    );
    assert_eq!(finding["severity"].as_str().map(str::to_lowercase).as_deref(), Some("error"));
    assert!(
        finding["reason"].is_string() && finding["field"].as_str().is_some_and(|field| field.contains("pricing")),
        "{finding}"
    );
    let metrics = stage.gateway.metrics().await;
    assert!(metric(&metrics, "tollgate_config_errors") >= 1.0);
    assert_eq!(metric(&metrics, "tollgate_config_healthy"), 0.0);
    assert!(stage.gateway.log().contains("pricing"), "the log tells it too");

    stage.edit(|objects| *objects = good).await;
    assert_eq!(metric(&stage.gateway.metrics().await, "tollgate_config_healthy"), 1.0);
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_bad_object_does_not_keep_others_from_changing() {
    let mut stage = Stage::one().await;
    let mock = objects::deployment("fresh", &stage.mock);
    stage
        .edit(|objects| {
            change(objects, "ModelDeployment", "m", |object| object.set("spec.provider", "no-such-provider"));
            objects.push(mock);
        })
        .await;
    stage.gateway.chat("fresh").send().await.expect(200);
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_condition_that_cannot_be_used_is_a_finding_and_nobody_else_notices() {
    let mut stage = Stage::start(|mock| {
        let mut all: Vec<Object> = ["a", "b"].map(|name| objects::deployment(name, mock)).into();
        all.push(objects::route("r", ["a", "b"]));
        all
    })
    .await;
    // Judged, it would take 60^6 steps.
    let mut loops = "true".to_owned();
    for name in ["a", "b", "c", "d", "e", "f"] {
        loops = format!("[{}].all({name}, {loops})", ["1"; 60].join(","));
    }
    let brackets = format!("{}true{}", "(".repeat(500), ")".repeat(500));
    for (when, why) in [
        (&*loops, "no loops"),
        (&brackets, "nest deeper than 16 at character 17"),
        (&format!("true && {}", "[".repeat(500)), "nest deeper than 16 at character 25"),
        ("this is (", "unknown name `this`"),
        ("Message{}", "`{` at character 8"),
        ("request.nosuch == ''", "has no `nosuch`"),
    ] {
        let target = json!({"name": "a", "modelDeploymentRef": {"name": "a"}, "when": when});
        let other = json!({"name": "b", "modelDeploymentRef": {"name": "b"}});
        let targets = json!([target, other]);
        stage
            .edit(|objects| {
                change(objects, "RouteGroup", "r", |object| object.set("spec.targets", targets.clone()));
            })
            .await;
        let is_it = |one: &Value| {
            let is_said = one["message"].as_str().is_some_and(|message| message.contains(why));
            is_said && one["field"] == "spec.targets[0].when" && one["reason"] == "InvalidValue"
        };
        let told = async {
            while !findings(&stage.gateway).await.iter().any(is_it) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tollgate_harness::patiently(why, told).await;
        for _ in 0..4 {
            stage.gateway.chat("r").send().await.expect(200);
            stage.gateway.chat("b").send().await.expect(200);
        }
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_file_that_is_not_yaml_keeps_what_was_served() {
    let stage = Stage::one().await;
    stage.gateway.edit("config.yaml", "kind: [unclosed\n  - {");
    let seen = async {
        while findings(&stage.gateway).await.is_empty()
            && metric(&stage.gateway.metrics().await, "tollgate_config_healthy") == 1.0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tollgate_harness::patiently("a finding about the file", seen).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.gateway.edit_and_wait("config.yaml", &documents(&stage.objects)).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn the_last_good_state_survives_a_restart() {
    let mut stage = Stage::one().await;
    stage.edit(|objects| change(objects, "ModelDeployment", "m", |object| object.set("spec.weight", -5))).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.gateway.restart().await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_key_that_is_removed_is_refused_at_once() {
    let mut stage =
        Stage::start(|mock| vec![objects::deployment("m", mock), objects::key("gone", &objects::key_text("gone"))])
            .await;
    let key = objects::key_text("gone");
    stage.gateway.chat("m").key(&key).send().await.expect(200);
    stage.edit(|objects| objects.retain(|object| object.name() != "gone")).await;
    stage.gateway.chat("m").key(&key).send().await.expect(401);
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn disabled_and_expiry_apply_although_other_fields_are_bad() {
    let mut stage = Stage::one().await;
    let key = |object: Object| object.set("spec.limits", json!({"requestsPerMinute": -5}));
    stage.edit(|objects| change(objects, "VirtualKey", "caller", key)).await;
    stage.gateway.chat("m").send().await.expect(200);
    let expired = |object: Object| key(object).set("spec.expiresAt", "2020-01-01T00:00:00Z");
    stage.edit(|objects| change(objects, "VirtualKey", "caller", expired)).await;
    assert_eq!(stage.gateway.chat("m").send().await.expect(401).json()["error"]["type"], "expired_key");
    let disabled = |object: Object| key(object).unset("spec.expiresAt").set("spec.disabled", true);
    stage.edit(|objects| change(objects, "VirtualKey", "caller", disabled)).await;
    let reply = stage.gateway.chat("m").send().await.expect(401);
    assert!(reply.text().contains("disabled"), "{}", reply.text());
    stage.finish().await;
}

#[tokio::test]
async fn a_key_with_a_field_of_the_wrong_type_keeps_its_last_good_state_but_not_its_authority() {
    let mut stage = Stage::one().await;
    let key = |object: Object| object.set("spec.limits", json!({"requestsPerMinute": "many"}));
    stage.edit(|objects| change(objects, "VirtualKey", "caller", key)).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage
        .edit(|objects| change(objects, "VirtualKey", "caller", |object| key(object).set("spec.disabled", true)))
        .await;
    let reply = stage.gateway.chat("m").send().await.expect(401);
    assert!(reply.text().contains("disabled"), "{}", reply.text());
    stage.finish().await;
}

#[tokio::test]
async fn a_deployment_with_a_field_of_the_wrong_type_keeps_its_last_good_state() {
    let mut stage = Stage::one().await;
    let heavy = |object: Object| object.set("spec.weight", "heavy");
    stage.edit(|objects| change(objects, "ModelDeployment", "m", heavy)).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_key_whose_team_is_gone_is_refused() {
    let mut stage = Stage::start(|mock| {
        let member = objects::caller().set("spec.teamRef", json!({"name": "squad"}));
        vec![objects::deployment("m", mock), objects::team("squad"), member]
    })
    .await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.edit(|objects| objects.retain(|object| object.name() != "squad")).await;
    stage.gateway.chat("m").send().await.expect(401);
    stage.finish().await;
}

#[tokio::test]
async fn a_stream_goes_on_when_its_key_and_deployment_are_removed() {
    let stage = Stage::start(|mock| vec![objects::deployment("m", mock), objects::deployment("other", mock)]).await;
    let cut = tollgate_harness::Cut {
        after_events: Some(3),
        how: tollgate_harness::CutHow::Gate("rest".into()),
        ..Default::default()
    };
    stage.mock.script("up-m", [Reply { text: Some("a b c d".into()), cut: Some(cut), ..Reply::default() }]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    stream.next().await.expect("an event");
    let kept: Vec<&Object> = stage.objects.iter().filter(|object| !["m", "caller"].contains(&object.name())).collect();
    stage.gateway.edit_and_wait("config.yaml", &documents(kept)).await;
    stage.gateway.chat("other").key(KEY).send().await.expect(401);
    stage.mock.open_gate("rest");
    let events = stream.rest().await;
    assert!(events.last().is_some_and(tollgate_harness::Event::is_done), "{}", stream.text());
    stage.finish().await;
}

#[tokio::test]
async fn a_new_limit_applies_to_what_was_already_used() {
    let mut stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"requestsPerMinute": 100}))]
    })
    .await;
    for _ in 0..3 {
        stage.gateway.chat("m").send().await.expect(200);
    }
    stage
        .edit(|objects| {
            change(objects, "VirtualKey", "caller", |object| object.set("spec.limits", json!({"requestsPerMinute": 3})))
        })
        .await;
    stage.gateway.chat("m").send().await.expect(429);
    stage.finish().await;
}

#[tokio::test]
async fn a_new_credential_is_used_at_once() {
    let mut stage = Stage::one().await;
    stage
        .edit(|objects| {
            change(objects, "Secret", "provider", |_| objects::secret_of("provider", "sk-rotated-0123456789abcdef"))
        })
        .await;
    stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(stage.last_seen().header("authorization"), Some("Bearer sk-rotated-0123456789abcdef"));
    stage.finish().await;
}

#[tokio::test]
async fn a_reset_is_on_record() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), objects::budget("b", "0.002")]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 75)).repeat(10)]);
    let call = json!({"model": "m", "max_tokens": 75, "messages": [{"role": "user", "content": "Hello"}]});
    let ask = async |stage: &Stage| stage.gateway.chat("m").json(&call).send().await.status;
    assert_eq!((ask(&stage).await, ask(&stage).await), (200, 429));
    let said = "budget `default/Budget/b` begins its period again: its resetToken is `ticket-1`";
    assert!(!stage.gateway.log().contains("resetToken"));
    let reset = |objects: &mut Vec<Object>| {
        change(objects, "Budget", "b", |budget| budget.set("spec.resetToken", json!("ticket-1")));
    };
    stage.edit(reset).await;
    assert_eq!(ask(&stage).await, 200);
    assert_eq!(stage.gateway.log().matches(said).count(), 1, "{}", stage.gateway.log());
    stage.edit(|objects| objects.push(objects::key("another", &objects::key_text("another")))).await;
    assert_eq!(stage.gateway.log().matches(said).count(), 1, "another edit resets nothing");
    stage.finish().await;
}
