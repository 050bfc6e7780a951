//! The whole: clients, the gateway, the provider's invoice, and rows in PostgreSQL that agree with it to the nano-dollar.

use tollgate_faults::Run;
use tollgate_harness::{Cluster, Options, Proxy, Reply, Stage, Starter, Step, UsageScript, json, objects};
use tollgate_rows_tests::{Postgres, assert_same, in_sqlite, missing, wait_until};

/// The gateway with its rows in this database.
fn with_rows_in(url: &str) -> [objects::Object; 2] {
    let store = json!({"secretRef": {"name": "postgres", "key": "api-key"}, "retentionDays": 30});
    [objects::gateway().set("spec.stores", json!({"postgres": store})), objects::secret_of("postgres", url)]
}

async fn spend(stage: &Stage) {
    stage.gateway.chat("m").send().await;
    stage.gateway.chat("m").header("x-litellm-tags", "batch, night").send().await;
    let body = json!({
        "model": "m", "user": "person-1", "metadata": {"tags": ["night", "a\"b"]},
        "messages": [{"role": "user", "content": "Hello"}],
    });
    stage.gateway.post("/v1/chat/completions").key(tollgate_harness::KEY).json(&body).send().await;
    stage.gateway.chat_stream("m").send().await;
    stage.mock.script("up-m", [Step::error(500)]);
    stage.gateway.chat("m").send().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_postgres_are_the_invoice_and_say_who_spent() {
    let Some(postgres) = Postgres::start() else { return };
    let stage = Stage::start(|mock| {
        let [gateway, secret] = with_rows_in(&postgres.url());
        let caller = objects::caller().set("spec.tags", json!(["of-key"])).set("spec.user", "anna");
        vec![gateway, secret, caller, objects::deployment("m", mock)]
    })
    .await;
    spend(&stage).await;
    let response = stage.gateway.chat("m").send().await;
    let request_id = response.header("x-request-id").expect("every answer has its id").to_owned();
    let data = stage.gateway.data().join("ledger");
    // What the gateway says of it.
    wait_until("rows", || postgres.rows() > 0);
    let readiness = stage.gateway.get("/health/readiness").send().await.json();
    assert_eq!(readiness["db"], "connected");
    assert_eq!(stage.gateway.health().await["postgres"]["connected"], true);
    let metrics = stage.gateway.metrics().await;
    assert!(metrics.contains("\ntollgate_ledger_postgres_up 1\n"), "{metrics}");
    let Stage { mock, mut gateway, .. } = stage;
    let rows = tollgate_harness::assert_ledger_equals_invoice(&mut gateway, &[&mock]).await;
    assert_eq!(assert_same(&postgres, &data), rows.len());
    let total: i64 = rows.iter().map(|row| row.cost_nano_usd).sum();
    assert!(total > 0);
    assert_eq!(postgres.value("SELECT sum(nano_usd) FROM tollgate.attempts"), total.to_string());
    assert_eq!(postgres.value("SELECT sum(nano_usd) FROM tollgate.daily"), total.to_string());
    let tags = postgres.query("SELECT tag, sum(attempts) FROM tollgate.daily_tags GROUP BY 1 ORDER BY 1");
    assert_eq!(tags, [["a\"b", "1"], ["batch", "1"], ["night", "2"], ["of-key", &rows.len().to_string()]]);
    let last = format!(
        "SELECT key, user_name, model, served_model, deployment, provider, namespace, gateway, attempt_no
         FROM tollgate.spend WHERE request_id = '{request_id}'"
    );
    let who =
        ["default/caller", "anna", "m", "up-m", "default/m", "openai-compatible", "default", "default/default", "1"];
    assert_eq!(postgres.query(&last), [who]);
    let person = "SELECT count(*) FROM tollgate.attempts WHERE end_user = 'person-1'";
    assert_eq!(postgres.value(person), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_serves_while_the_database_is_away_and_over_kills() {
    let Some(mut postgres) = Postgres::stopped() else { return };
    let mut stage = Stage::start_with(Starter::default(), Options::default(), |mock| {
        let [gateway, secret] = with_rows_in(&postgres.url());
        vec![gateway, secret, objects::deployment("m", mock)]
    })
    .await;
    for _ in 0..5 {
        assert_eq!(stage.gateway.chat("m").send().await.status, 200);
    }
    let health = stage.gateway.health().await;
    assert_eq!(health["postgres"]["connected"], false);
    assert_eq!(stage.gateway.get("/health/readiness").send().await.status, 200);
    stage.gateway.kill().await;
    stage.gateway.restart().await;
    for _ in 0..5 {
        assert_eq!(stage.gateway.chat("m").send().await.status, 200);
    }
    postgres.begin();
    wait_until("rows", || postgres.rows() == 10);
    // A call in flight when it dies is charged its hold, and its row comes too.
    stage.mock.script("up-m", [Step::from(Reply { usage: UsageScript::Missing, ..Reply::default() }).delay_ms(60_000)]);
    let call = tokio::spawn(stage.gateway.chat("m").try_send());
    stage.mock.wait_for_in_flight(1).await;
    stage.gateway.kill().await;
    let _ = call.await;
    stage.gateway.restart().await;
    wait_until("the row", || postgres.rows() == 11);
    assert_eq!(postgres.value("SELECT count(*) FROM tollgate.attempts WHERE outcome = 'recovered'"), "1");
    postgres.kill();
    assert_eq!(stage.gateway.chat("m").send().await.status, 200);
    stage.gateway.stop().await;
    postgres.begin();
    stage.gateway.restart().await;
    stage.gateway.stop().await;
    let ledger = stage.gateway.data().join("ledger");
    let seen = stage.mock.requests().len();
    let lost = seen.saturating_sub(in_sqlite(&ledger).len()) + missing(&postgres, &ledger);
    Run::of("postgres-away", seen).times(2).rows_lost(lost).tell();
    assert_eq!((seen, assert_same(&postgres, &ledger)), (12, 12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_proxies_of_a_cluster_write_into_the_database_that_their_tables_name() {
    let Some(postgres) = Postgres::start() else { return };
    let mut cluster = Cluster::start(|mock| vec![objects::deployment("m", mock)]).await;
    with_rows_in(&postgres.url()).into_iter().for_each(|object| cluster.set(object));
    cluster.publish();
    let mut proxies = [Proxy::start(&cluster.api).await, Proxy::start(&cluster.api).await];
    for _ in 0..5 {
        for proxy in &proxies {
            proxy.chat("m").await.send().await.expect(200);
        }
    }
    wait_until("rows of both", || postgres.rows() == 10);
    assert_eq!(
        postgres.value("SELECT DISTINCT gateway || ' ' || key FROM tollgate.attempts"),
        "default/default default/caller"
    );
    // One that is asked to stop leaves nothing behind: its volume may go with it.
    proxies[0].chat("m").await.send().await.expect(200);
    proxies[0].stop().await;
    assert_eq!(postgres.rows(), 11);
    assert_eq!(postgres.value("SELECT sum(attempts) FROM tollgate.daily"), "11");
}
