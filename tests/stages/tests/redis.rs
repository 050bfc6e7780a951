//! A gateway that counts its budgets in a real Redis: also over TLS, while it is away, and when it is back.

use std::path::Path;
use std::time::Duration;

use tollgate_harness::{
    Call, KEY, Object, Options, RedisServer, Response, Stage, Starter, Value, free_port, json, objects, patiently,
};

fn gateway() -> Object {
    objects::gateway().set("spec.stores", json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}}))
}

/// A gateway with this URL and keys with these budgets: `caller` has the first.
async fn stage(url: &str, starter: Starter, budgets: &[(&str, Value)]) -> Stage {
    Stage::start_with(starter, Options::default(), |mock| {
        let mut all = vec![objects::deployment("m", mock), gateway(), objects::secret_of("redis", url)];
        all.extend(budgets.iter().map(|(name, budget)| match *name {
            "caller" => objects::caller().set("spec.budget", budget.clone()),
            name => objects::key(name, &objects::key_text(name)).set("spec.budget", budget.clone()),
        }));
        all
    })
    .await
}

fn hard() -> Value {
    json!({"limit": "1", "period": {"calendar": "Month"}})
}

fn soft() -> Value {
    json!({"limit": "1", "period": {"calendar": "Month"}, "enforcement": "Soft"})
}

async fn chat(stage: &Stage, key: &str) -> Response {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    Call::new(stage.gateway.address(), "POST", "/v1/chat/completions").key(key).json(&body).send().await
}

async fn wait_for(stage: &Stage, line: &str) {
    let wait = async {
        while !stage.gateway.metrics().await.lines().any(|one| one == line) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently(line, wait).await;
}

async fn wait_for_trust(stage: &Stage) {
    wait_for(stage, "tollgate_allocator_up 1").await;
    wait_for(stage, "tollgate_allocator_doubt 0").await;
}

#[tokio::test]
async fn budgets_are_counted_over_tls() {
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let file = |name: &str| certificates.join(name).display().to_string();
    let (certificate, key) = (file("one.crt"), file("one.key"));
    let tls = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let port = free_port().to_string();
    let [a, b, c, d, e, f] = tls;
    let Some(server) = RedisServer::start(["--tls-port", &port, a, b, c, d, e, f]) else { return };
    server.command("CONFIG SET requirepass pa55");
    let starter = Starter::default().variable("SSL_CERT_FILE", &certificate);
    let url = format!("rediss://:pa55@localhost:{port}/0");
    let stage = stage(&url, starter, &[("caller", hard())]).await;
    wait_for_trust(&stage).await;
    let reply = chat(&stage, KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let log = stage.gateway.log();
    assert!(log.contains(&format!("rediss://localhost:{port}")) && !log.contains("pa55"), "{log}");
    drop(stage);
    drop(server);
}

#[tokio::test]
async fn without_redis_a_hard_budget_serves_what_it_was_granted_and_a_soft_one_goes_on() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let budgets = [("caller", hard()), ("other", hard()), ("soft", soft()), ("softer", soft())];
    let stage = stage(&server.url(), Starter::default(), &budgets).await;
    wait_for_trust(&stage).await;
    for key in [KEY, &objects::key_text("soft")] {
        let reply = chat(&stage, key).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    server.kill();
    wait_for(&stage, "tollgate_allocator_up 0").await;
    assert_eq!(chat(&stage, KEY).await.status, 200, "half of the limit was granted");
    assert_eq!(chat(&stage, &objects::key_text("soft")).await.status, 200);
    let begun = std::time::Instant::now();
    let refused = chat(&stage, &objects::key_text("other")).await;
    let why = refused.header("x-tollgate-error");
    assert_eq!((refused.status, why), (503, Some("budget_unavailable")), "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(2), "who waits in vain is told at once: {:?}", begun.elapsed());
    server.restart();
    wait_for(&stage, "tollgate_allocator_up 1").await;
    wait_for_trust(&stage).await;
    assert_eq!(chat(&stage, &objects::key_text("other")).await.status, 200);
    wait_for(&stage, "tollgate_allocator_lost_tails_total 1").await;
    stage.finish().await;
}

#[tokio::test]
async fn it_is_told_how_long_lasts_what_was_granted() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let budgets = [("caller", hard()), ("other", hard()), ("soft", soft())];
    let stage = stage(&server.url(), Starter::default(), &budgets).await;
    wait_for_trust(&stage).await;
    // Nothing is used.
    wait_for(&stage, "tollgate_allowance_seconds +Inf").await;
    for key in ["caller", "soft"] {
        let reply = chat(&stage, &objects::key_text(key)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let of = |text: &str, name: &str| -> Vec<(String, f64)> {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(what, number)| (what.to_owned(), number.parse().unwrap()))
            .collect()
    };
    let name = "tollgate_budget_allowance_seconds{";
    let used = async {
        while of(&stage.gateway.metrics().await, name).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently("a pace", used).await;
    // It stays so while nobody could grant more.
    server.kill();
    wait_for(&stage, "tollgate_allocator_up 0").await;
    let text = stage.gateway.metrics().await;
    let [(what, seconds)] = &of(&text, name)[..] else { panic!("{text}") };
    assert!(what.contains("caller") && *seconds > 0.0, "only of what is used and hard: {what} {seconds}");
    let [(_, least)] = &of(&text, "tollgate_allowance_seconds")[..] else { panic!("{text}") };
    // They are looked up one after the other.
    assert!((least / seconds - 1.0).abs() < 0.5, "{least} {seconds}");
}

#[tokio::test]
async fn a_gateway_that_does_not_know_where_redis_is_grants_nothing() {
    let stage = stage("http://nowhere", Starter::default(), &[("caller", hard())]).await;
    let refused = chat(&stage, KEY).await;
    assert_eq!(refused.header("x-tollgate-error"), Some("budget_unavailable"), "{}", refused.text());
    let health = stage.gateway.health().await;
    assert!(health.to_string().contains("spec.stores.redis.secretRef"), "{health}");
}

#[tokio::test]
async fn what_was_spent_before_there_was_a_redis_counts() {
    let Some(server) = RedisServer::start([]) else { return };
    let budget = json!({"limit": "3", "unit": "Requests", "period": {"lifetime": {}}});
    let mut stage =
        Stage::start(|mock| vec![objects::deployment("m", mock), objects::caller().set("spec.budget", budget)]).await;
    // By two processes, one after the other.
    for _ in 0..2 {
        stage.gateway.restart().await;
        let reply = chat(&stage, KEY).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    stage.objects.retain(|object| object.id() != gateway().id());
    stage.objects.extend([gateway(), objects::secret_of("redis", &server.url())]);
    stage.gateway.stop().await;
    stage.gateway.edit("config.yaml", &objects::documents(&stage.objects));
    stage.gateway.restart().await;
    wait_for_trust(&stage).await;
    let statuses = [chat(&stage, KEY).await.status, chat(&stage, KEY).await.status];
    assert_eq!(statuses, [200, 429]);
    stage.finish().await;
}
