//! Budgets of which each member that a call brings has its own, and those that only some calls count in.

use tollgate_harness::{Call, Object, Response, Stage, Step, Tokens, Value, json, objects};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{budget, budgets, nano, wait_until_idle};
use tollgate_money_tests::setup::chat;

/// What one call of these tests costs: 100 tokens of input, 10 of output.
const EACH: i64 = 350_000;

/// Room for ten of them and what an eleventh would hold at most.
const TEN: &str = "0.0045";

fn each() -> Step {
    Step::usage("x", Tokens::new(100, 10)).repeat(10_000)
}

fn scoped(name: &str, limit: &str, scope: Value, per: Option<&str>) -> Object {
    let budget = objects::budget(name, limit).set("spec.appliesTo", scope);
    match per {
        Some(per) => budget.set("spec.per", per),
        None => budget,
    }
}

async fn stage(models: &[&str], budgets: impl IntoIterator<Item = Object>) -> Stage {
    let stage = Stage::start(|mock| {
        let deployments = models.iter().map(|name| objects::deployment(name, mock));
        deployments.chain(budgets).collect()
    })
    .await;
    models.iter().for_each(|name| stage.mock.script(format!("up-{name}"), [each()]));
    stage
}

/// A call that brings something: `{"user": ...}`, `{"tags": [...]}`.
fn ask(stage: &Stage, model: &str, brings: &Value) -> Call {
    let mut body = chat(model, "Hello", 20);
    for (field, value) in brings.as_object().into_iter().flatten() {
        body[field] = value.clone();
    }
    stage.gateway.chat(model).json(&body)
}

/// Asks until refused; gives the refusal and how many were answered.
async fn spend_all(mut call: impl FnMut() -> Call) -> (Response, i64) {
    for answered in 0..1_000 {
        let reply = call().send().await;
        if reply.status != 200 {
            return (reply, answered);
        }
    }
    panic!("never refused");
}

fn why(reply: &Response) -> Option<&str> {
    reply.header("x-tollgate-error")
}

async fn spent(stage: &Stage, name: &str) -> i64 {
    wait_until_idle(&stage.gateway).await;
    budget(&stage.gateway, name).await.spent
}

#[tokio::test]
async fn a_name_that_is_not_ascii_is_bound_wherever_it_is_written() {
    let budgets =
        [scoped("each", TEN, json!({}), Some("EndUser")), scoped("tags", TEN, json!({"tags": ["größe"]}), Some("Tag"))];
    let mut stage = stage(&["m"], budgets).await;
    let brings = |header: &str, value: &str| ask(&stage, "m", &json!({})).header(header, value);
    for (header, name, body) in [
        ("x-litellm-end-user-id", "José", json!({"user": "José"})),
        ("x-litellm-tags", "größe", json!({"tags": ["größe"]})),
    ] {
        let (refusal, answered) = spend_all(|| brings(header, name)).await;
        assert_eq!((refusal.status, why(&refusal)), (429, Some("budget_exhausted")), "{name}");
        assert!((9..=nano(TEN) / EACH).contains(&answered), "{name}: {answered}");
        ask(&stage, "m", &body).send().await.expect(429);
    }
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_end_user_has_a_budget_of_its_own_and_keeps_it_over_a_kill() {
    let mut stage = stage(&["m"], [scoped("each", TEN, json!({}), Some("EndUser"))]).await;
    let (alice, bob) = (json!({"user": "alice"}), json!({"user": "bob"}));
    let (refusal, answered) = spend_all(|| ask(&stage, "m", &alice)).await;
    assert_eq!((refusal.status, why(&refusal)), (429, Some("budget_exhausted")));
    assert!(refusal.text().contains("default/Budget/each/alice"), "{}", refusal.text());
    assert!(answered * EACH <= nano(TEN) && answered >= 9, "{answered}");
    ask(&stage, "m", &bob).send().await.expect(200);
    ask(&stage, "m", &json!({})).send().await.expect(200);
    // Anthropic's field and the header name end users too.
    ask(&stage, "m", &json!({})).header("x-litellm-end-user-id", "alice").send().await.expect(429);
    // End users are named nowhere; the fullest of them stands for the budget.
    assert_eq!(spent(&stage, "/each").await, answered * EACH);
    assert!(!stage.gateway.metrics().await.contains("alice"));
    stage.gateway.kill().await;
    stage.gateway.restart().await;
    assert_eq!(why(&ask(&stage, "m", &alice).send().await.expect(429)), Some("budget_exhausted"));
    ask(&stage, "m", &bob).send().await.expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tag_of_a_call_must_have_room_and_a_refusal_holds_in_none() {
    let mut stage = stage(
        &["m"],
        [
            objects::caller().set("spec.tags", json!(["of-key"])),
            scoped("each", "1", json!({"tags": ["a", "b", "of-key"]}), Some("Tag")),
            scoped("only-a", TEN, json!({"tags": ["a"]}), None),
        ],
    )
    .await;
    let both = json!({"tags": ["a", "b", "not-listed"]});
    let (refusal, answered) = spend_all(|| ask(&stage, "m", &both)).await;
    assert!(refusal.text().contains("only-a"), "{}", refusal.text());
    ask(&stage, "m", &json!({"metadata": {"tags": ["a"]}})).send().await.expect(429);
    ask(&stage, "m", &json!({})).header("x-litellm-tags", "x, a").send().await.expect(429);
    ask(&stage, "m", &json!({"tags": ["b"]})).send().await.expect(200);
    assert_eq!(spent(&stage, "/only-a").await, answered * EACH, "calls without the tag are not counted");
    assert_eq!(spent(&stage, "/each").await, (answered + 1) * EACH, "the fullest: the tag of the key");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn more_tags_than_budgets_can_apply_are_a_bad_request() {
    let mut stage = stage(&["m"], [scoped("each", "1", json!({}), Some("Tag"))]).await;
    let tags: Vec<String> = (0..17).map(|at| format!("t{at}")).collect();
    let refusal = ask(&stage, "m", &json!({"tags": tags})).send().await.expect(400);
    assert_eq!(refusal.json()["error"]["param"], "tags", "{}", refusal.text());
    ask(&stage, "m", &json!({"tags": tags[..16]})).send().await.expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_and_providers_have_budgets_of_their_own() {
    let mut stage = stage(
        &["m", "n"],
        [scoped("models", TEN, json!({}), Some("Model")), scoped("providers", "1", json!({}), Some("Provider"))],
    )
    .await;
    let (refusal, answered) = spend_all(|| ask(&stage, "m", &json!({}))).await;
    assert!(refusal.text().contains("default/Budget/models/m"), "{}", refusal.text());
    ask(&stage, "n", &json!({})).send().await.expect(200);
    assert_eq!(spent(&stage, "/models/n").await, EACH);
    assert_eq!(spent(&stage, "/providers/openai-compatible").await, (answered + 1) * EACH);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_calls_of_listed_end_users_count() {
    let mut stage = stage(&["m"], [scoped("vip", TEN, json!({"endUsers": ["vip"]}), None)]).await;
    let (refusal, answered) = spend_all(|| ask(&stage, "m", &json!({"user": "vip"}))).await;
    assert!(refusal.text().contains("default/Budget/vip"), "{}", refusal.text());
    ask(&stage, "m", &json!({"user": "other"})).send().await.expect(200);
    ask(&stage, "m", &json!({})).send().await.expect(200);
    assert_eq!(spent(&stage, "/vip").await, answered * EACH);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_users_teams_and_namespaces_have_budgets_of_their_own() {
    let key = |name: &str, user: &str, team: &str| {
        objects::key(name, &objects::key_text(name)).set("spec.user", user).set("spec.teamRef", json!({"name": team}))
    };
    let each = |per: &str| scoped(&per.to_lowercase(), "1", json!({}), Some(per));
    let mut stage = stage(
        &["m"],
        [
            objects::team("red"),
            objects::team("blue"),
            key("one", "alice", "red"),
            key("two", "alice", "blue"),
            key("three", "bob", "blue"),
        ]
        .into_iter()
        .chain(["Key", "User", "Team", "Namespace"].map(each)),
    )
    .await;
    for (name, times) in [("one", 1), ("two", 2), ("three", 4)] {
        for _ in 0..times {
            ask(&stage, "m", &json!({})).key(&objects::key_text(name)).send().await.expect(200);
        }
    }
    wait_until_idle(&stage.gateway).await;
    let all = budgets(&stage.gateway).await;
    for (id, calls) in [
        ("key/one", 1),
        ("key/two", 2),
        ("key/three", 4),
        ("user/alice", 3),
        ("user/bob", 4),
        ("team/red", 1),
        ("team/blue", 6),
        ("namespace/default", 7),
    ] {
        assert_eq!(all[&format!("default/Budget/{id}")].spent, calls * EACH, "{id}");
    }
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
