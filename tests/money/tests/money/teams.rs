//! Teams above teams: what they say binds the keys of all teams below them together.

use tollgate_harness::{Call, Object, Stage, Step, Tokens, json, objects};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{budget, wait_until_idle};
use tollgate_money_tests::setup::{chat, hard};

/// What one call of these tests costs: 100 tokens of input, 10 of output.
const EACH: i64 = 350_000;

async fn stage(company: Object) -> Stage {
    let team = |name: &str, parent: &str| objects::team(name).set("spec.parentRef", json!({"name": parent}));
    let key = |name: &str, team: &str| {
        objects::key(name, &objects::key_text(name)).set("spec.teamRef", json!({"name": team}))
    };
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            company,
            team("red", "company"),
            team("blue", "company"),
            team("crew", "blue"),
            key("one", "red"),
            key("two", "crew"),
        ]
    })
    .await;
    stage
}

fn each() -> Step {
    Step::usage("x", Tokens::new(100, 10)).repeat(10_000)
}

fn ask(stage: &Stage, name: &str) -> Call {
    stage.gateway.chat("m").key(&objects::key_text(name)).json(&chat("m", "Hello", 20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_of_a_team_above_is_spent_by_all_below() {
    let mut stage = stage(objects::team("company").set("spec.budget", hard("0.0045"))).await;
    stage.mock.script("up-m", [each()]);
    let mut answered = 0;
    let refusal = loop {
        let reply = ask(&stage, if answered % 2 == 0 { "one" } else { "two" }).send().await;
        if reply.status != 200 {
            break reply;
        }
        answered += 1;
    };
    assert!(refusal.status == 429 && refusal.text().contains("default/Team/company"), "{}", refusal.text());
    for name in ["one", "two"] {
        ask(&stage, name).send().await.expect(429);
    }
    wait_until_idle(&stage.gateway).await;
    assert_eq!(budget(&stage.gateway, "/company").await.spent, answered * EACH);
    assert!(answered * EACH <= 4_500_000 && answered >= 9, "{answered}");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn limits_of_a_team_above_hold_for_all_below_together() {
    let mut stage = stage(objects::team("company").set("spec.limits", json!({"requestsPerMinute": 3}))).await;
    stage.mock.script("up-m", [each()]);
    for name in ["one", "two", "one"] {
        ask(&stage, name).send().await.expect(200);
    }
    for name in ["one", "two"] {
        let refusal = ask(&stage, name).send().await.expect(429);
        assert!(refusal.text().contains("Rate limit exceeded for team: "), "{}", refusal.text());
    }
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn calls_at_once_of_a_team_above_come_back_when_they_end_or_are_refused() {
    let mut stage = stage(objects::team("company").set("spec.limits", json!({"parallelRequests": 1}))).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("open"), each()]);
    let first = tokio::spawn(ask(&stage, "one").send());
    stage.mock.wait_at_gate("open", 1).await;
    ask(&stage, "two").send().await.expect(429);
    stage.mock.open_gate("open");
    first.await.expect("it ends").expect(200);
    for name in ["two", "one"] {
        ask(&stage, name).send().await.expect(200);
    }
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
