//! Starting, stopping, crashing, and the commands beside `serve` (issue part 2 and 11).

use std::process::Command;

use tollgate_harness::{
    Cut, CutHow, Event, Gateway, KEY, MASTER_KEY, Reply, Stage, Starter, Step, Tokens, assert_every_attempt_is_booked,
    binary, documents, json, ledger_rows, objects, patiently, run,
};

#[tokio::test]
async fn sigterm_lets_a_stream_finish_and_takes_nothing_new() {
    let mut stage = Stage::one().await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("rest".into()), ..Cut::default() };
    stage.mock.script("up-m", [Reply { text: Some("a b c d".into()), cut: Some(cut), ..Reply::default() }]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    stream.next().await.expect("an event");
    stage.gateway.terminate();
    let call = stage.gateway.chat("m");
    let refuses = async {
        while call.clone().try_send().await.is_ok_and(|reply| reply.status == 200) {
            tokio::task::yield_now().await;
        }
    };
    patiently("an end of new calls", refuses).await;
    assert!(call.try_send().await.is_err(), "the listener is closed");
    stage.mock.open_gate("rest");
    let events = stream.rest().await;
    assert!(!stream.broken && events.last().is_some_and(Event::is_done), "{}", stream.text());
    let status = stage.gateway.wait().await;
    assert!(status.success(), "{status}");
    let exact = ledger_rows(stage.gateway.data());
    assert!(exact.iter().all(|row| row.outcome == "exact"), "{exact:#?}");
    stage.finish().await;
}

#[tokio::test]
async fn sigterm_lets_a_unary_call_finish() {
    let mut stage = Stage::one().await;
    stage.mock.script("up-m", [Step::usual().gate("open")]);
    let call = tokio::spawn(stage.gateway.chat("m").send());
    stage.mock.wait_at_gate("open", 1).await;
    stage.gateway.terminate();
    stage.mock.open_gate("open");
    call.await.expect("it ends").expect(200);
    assert!(stage.gateway.wait().await.success());
    stage.finish().await;
}

#[tokio::test]
async fn readiness_goes_off_on_open_connections_while_it_drains() {
    use tollgate_harness::RawSocket;
    let mut stage = Stage::one().await;
    stage.mock.script("up-m", [Step::usual().gate("open")]);
    let call = tokio::spawn(stage.gateway.chat("m").send());
    stage.mock.wait_at_gate("open", 1).await;
    let mut probe = RawSocket::connect(stage.gateway.address()).await;
    // A request whose head is not complete yet is under way when the signal comes.
    probe.send("GET /health/readiness HTTP/1.1\r\nhost: x\r\n").await;
    stage.gateway.get("/health/readiness").send().await.expect(200);
    stage.gateway.terminate();
    let refused = async {
        while tokio::net::TcpStream::connect(stage.gateway.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    patiently("a closed listener", refused).await;
    probe.send("\r\n").await;
    probe.read_to_end().await;
    assert!(probe.status().is_none_or(|status| status == 503), "{}", probe.text());
    stage.mock.open_gate("open");
    call.await.expect("it ends").expect(200);
    assert!(stage.gateway.wait().await.success());
    stage.finish().await;
}

#[tokio::test]
async fn a_signal_that_comes_with_the_banner_is_a_clean_stop() {
    for _ in 0..10 {
        // `finish` asserts how the process ended.
        Stage::one().await.finish().await;
    }
}

#[tokio::test]
async fn a_second_signal_means_now() {
    let mut stage = Stage::one().await;
    stage.mock.script("up-m", [Step::hang()]);
    let call = tokio::spawn(stage.gateway.chat("m").try_send());
    stage.mock.wait_for_in_flight(1).await;
    stage.gateway.terminate();
    let log = async {
        while !stage.gateway.log().contains("stopping") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    patiently("the log's word of stopping", log).await;
    stage.gateway.terminate();
    stage.gateway.wait().await;
    assert!(call.await.expect("it ends").is_err());
}

#[tokio::test]
async fn what_a_drain_may_take_is_bounded() {
    let stage = Stage::start_with(Starter::default().arguments(["--drain", "1"]), Default::default(), |mock| {
        vec![objects::deployment("m", mock)]
    })
    .await;
    let mut stage = stage;
    stage.mock.script("up-m", [Step::hang()]);
    let call = tokio::spawn(stage.gateway.chat("m").try_send());
    stage.mock.wait_for_in_flight(1).await;
    stage.gateway.terminate();
    stage.gateway.wait().await;
    assert!(call.await.expect("it ends").is_err());
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_kill_loses_no_row_and_no_cent() {
    let mut stage = Stage::start(|mock| {
        let budget = json!({"limit": "10", "period": {"lifetime": {}}});
        vec![objects::deployment("m", mock), objects::caller().set("spec.budget", budget)]
    })
    .await;
    for _ in 0..20 {
        stage.gateway.chat("m").send().await.expect(200);
    }
    stage.mock.script("up-m", [Step::usual().gate("open").repeat(2)]);
    let lost: Vec<_> = (0..2).map(|_| tokio::spawn(stage.gateway.chat("m").try_send())).collect();
    stage.mock.wait_at_gate("open", 2).await;
    stage.gateway.kill().await;
    stage.mock.open_gate("open");
    for call in lost {
        assert!(call.await.expect("it ends").is_err());
    }
    stage.mock.wait_for_in_flight(0).await;
    stage.gateway.restart().await;
    let reply = stage.gateway.chat("m").send().await.expect(200);
    let spent: f64 = reply.header("x-litellm-key-spend").and_then(|spent| spent.parse().ok()).expect("a spend");
    let rows = assert_every_attempt_is_booked(&mut stage.gateway, &[&stage.mock], true).await;
    assert_eq!(rows.iter().filter(|row| row.outcome == "exact").count(), 21);
    assert_eq!(rows.iter().filter(|row| row.outcome == "recovered").count(), 2, "{rows:#?}");
    let booked: i64 = rows.iter().map(|row| row.cost_nano_usd).sum();
    assert!((spent * 1e9 - booked as f64).abs() < 1.5, "the budget and the ledger agree: {spent} {booked}");
}

#[tokio::test]
async fn spend_survives_a_restart() {
    let mut stage = Stage::start(|mock| {
        let budget = json!({"limit": "0.001", "period": {"lifetime": {}}, "enforcement": "Soft"});
        vec![objects::deployment("m", mock), objects::caller().set("spec.budget", budget)]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("", Tokens::new(400, 0))]);
    stage.gateway.chat("m").send().await.expect(200);
    stage.gateway.restart().await;
    stage.gateway.chat("m").send().await.expect(429);
    stage.finish().await;
}

#[tokio::test]
async fn two_gateways_never_share_a_data_folder() {
    let stage = Stage::one().await;
    let data = stage.gateway.data().to_str().expect("UTF-8");
    let config = stage.gateway.config().to_str().expect("UTF-8");
    let second = run(["serve", "--config", config, "--host", "127.0.0.1", "--port", "0", "--data", data]);
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(
        second.stderr.contains(data) && second.stderr.contains("in use"),
        "who and where, in plain words: {}",
        second.stderr
    );
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_plainly() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let data = tempfile::tempdir().expect("a folder");
    let ended = run(["serve", "--host", "127.0.0.1", "--port", &port, "--data", data.path().to_str().expect("UTF-8")]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains(&port) && ended.stderr.contains("in use"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_demo_prints_a_curl_line_that_works() {
    let gateway = Starter::default().demo().without_variable("TOLLGATE_MASTER_KEY").start().await;
    let banner = gateway.banner();
    assert!(banner.len() <= 10, "{banner:?}");
    let at = banner.iter().position(|line| line.starts_with("try:")).unwrap_or_else(|| panic!("{banner:?}"));
    let command =
        banner[at..].join("\n").replacen("try:", "", 1).replacen("curl ", "curl --silent --show-error --fail ", 1);
    let output = tokio::task::spawn_blocking(move || Command::new("sh").arg("-c").arg(command).output())
        .await
        .expect("it ends")
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let json: tollgate_harness::Value = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(json["choices"][0]["message"]["content"].is_string(), "{json}");
    let key =
        banner.iter().find_map(|line| line.strip_prefix("key:")).expect("the demo shows its key").trim().to_owned();
    let models = gateway.get("/v1/models").key(&key).send().await.expect(200).json();
    assert!(models["data"].as_array().is_some_and(|models| !models.is_empty()));
    let stream =
        json!({"model": models["data"][0]["id"], "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let events = gateway.post("/v1/chat/completions").key(&key).json(&stream).stream().await.rest().await;
    assert!(events.last().is_some_and(Event::is_done));
    let mut gateway = gateway;
    gateway.stop().await;
    let rows = ledger_rows(gateway.data());
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.outcome == "exact" && row.cost_nano_usd > 0), "{rows:#?}");
}

#[tokio::test]
async fn without_a_master_key_one_is_made_and_kept() {
    let mock = tollgate_harness::Mock::start(Default::default()).await.expect("the mock listens");
    let text = documents(&[objects::secret(), objects::deployment("m", &mock)]);
    let mut gateway =
        Starter::default().file("config.yaml", text).without_variable("TOLLGATE_MASTER_KEY").start().await;
    let line = gateway.banner().iter().find(|line| line.starts_with("key:")).expect("where the key is").clone();
    let path = line.split_whitespace().nth(2).expect("a path").to_owned();
    let key = std::fs::read_to_string(&path).expect("the file is there").trim().to_owned();
    assert!(key.starts_with("sk-") && key.len() > 40);
    assert!(
        !gateway.banner().join("\n").contains(&key) && !gateway.log().contains(&key),
        "a key is shown once, in its file"
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("the file is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    gateway.chat("m").key(&key).send().await.expect(200);
    gateway.restart().await;
    gateway.chat("m").key(&key).send().await.expect(200);
    tollgate_harness::assert_ledger_equals_invoice(&mut gateway, &[&mock]).await;
}

#[tokio::test]
async fn a_key_that_asks_for_a_secret_gets_a_file_of_its_own() {
    let mut stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            objects::Object::new("VirtualKey", "made", json!({"models": ["m"], "secret": {"name": "made-key"}})),
        ]
    })
    .await;
    let line =
        stage.gateway.banner().iter().find(|line| line.contains("VirtualKey made")).expect("where the key is").clone();
    let path = line.split_whitespace().nth(2).expect("a path").to_owned();
    let key = std::fs::read_to_string(path).expect("the file is there").trim().to_owned();
    stage.gateway.chat("m").key(&key).send().await.expect(200);
    stage.gateway.restart().await;
    stage.gateway.chat("m").key(&key).send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn health_is_for_key_holders_and_liveness_for_all() {
    let stage = Stage::one().await;
    for path in ["/health/liveliness", "/health/liveness", "/health/readiness"] {
        stage.gateway.get(path).send().await.expect(200);
    }
    stage.gateway.get("/health").send().await.expect(401);
    assert_eq!(stage.gateway.get("/health").key(MASTER_KEY).send().await.expect(200).json()["status"], "healthy");
    let own = stage.gateway.get("/health").key(KEY).send().await.expect(200).json();
    assert_eq!(own["config"]["source"], "", "paths of the machine are for the administrator");
    stage.finish().await;
}

#[tokio::test]
async fn logs_have_no_prompts_and_no_keys() {
    let starter = Starter::default().variable("TOLLGATE_LOG", "debug");
    let mut stage = Stage::start_with(starter, Default::default(), |mock| vec![objects::deployment("m", mock)]).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "a-prompt-that-is-private"}]});
    stage.mock.script(
        "up-m",
        [Step::text("an-answer-that-is-private"), Step::error(500), Step::text("an-answer-that-is-private")],
    );
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    stage.gateway.stop().await;
    let log = stage.gateway.log();
    for secret in ["is-private", KEY, MASTER_KEY, tollgate_harness::UPSTREAM_KEY] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    for line in log.lines() {
        assert!(
            line.parse::<tollgate_harness::Value>().is_ok_and(|line| line.is_object()),
            "where no terminal is, each line is JSON: {line}"
        );
    }
    stage.finish().await;
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file is written");
    }
    folder
}

const GOOD: &str = "apiVersion: tollgate.dev/v1alpha1
kind: ModelDeployment
metadata: {name: m}
spec:
  provider: openai-compatible
  model: up-m
  endpoint: {baseURL: \"http://127.0.0.1:9/v1\"}
  pricing: {perMillionTokens: {input: \"1\", output: \"2\"}}
---
apiVersion: tollgate.dev/v1alpha1
kind: VirtualKey
metadata: {name: ci}
spec:
  models: [m]
  keyHash: \"sha256:41a6d46d7e19ce5627b21179a279d750ccc04505ea9cee606552e2acbb4e9148\"
---
apiVersion: tollgate.dev/v1alpha1
kind: VirtualKey
metadata: {name: off}
spec:
  models: [m]
  disabled: true
  keyHash: \"sha256:51a6d46d7e19ce5627b21179a279d750ccc04505ea9cee606552e2acbb4e9148\"
";

#[test]
fn check_says_where_what_and_why_and_exits_with_1_for_errors() {
    let good = folder(&[("a.yaml", GOOD)]);
    let checked = run(["check", good.path().to_str().expect("UTF-8")]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(!checked.stdout.contains("error:"), "{}", checked.stdout);

    let bad = GOOD
        .replace("provider: openai-compatible", "provider: opnai")
        .replace("models: [m]\n  disabled", "model: [m]\n  disabled");
    let bad = folder(&[("a.yaml", &bad)]);
    let checked = run(["check", bad.path().to_str().expect("UTF-8")]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let provider =
        checked.stdout.lines().find(|line| line.contains("opnai")).unwrap_or_else(|| panic!("{}", checked.stdout));
    assert!(
        provider.starts_with("a.yaml:5:") && provider.contains("error:") && provider.contains("ModelDeployment"),
        "{provider}"
    );
    assert!(provider.contains("openai") && provider.ends_with(']'), "a hint and a reason: {provider}");
    let unknown = checked
        .stdout
        .lines()
        .find(|line| line.contains("`model`") || line.contains("spec.model"))
        .unwrap_or_else(|| panic!("{}", checked.stdout));
    assert!(unknown.starts_with("a.yaml:"), "unknown fields are findings: {unknown}");

    let broken = folder(&[("b.yaml", "kind: [")]);
    let checked = run(["check", broken.path().to_str().expect("UTF-8")]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.starts_with("b.yaml:1:"), "{}", checked.stdout);

    let missing = run(["check", "/no/such/path"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("/no/such/path"), "{}", missing.stderr);
}

#[test]
fn check_never_prints_a_secret() {
    let text = format!(
        "{GOOD}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{key: sk-very-secret-0123456789, other: [5]}}\nspec: 1\n"
    );
    let folder = folder(&[("a.yaml", &text)]);
    let checked = run(["check", folder.path().to_str().expect("UTF-8")]);
    assert!(!checked.stdout.contains("sk-very-secret") && !checked.stderr.contains("sk-very-secret"), "{checked:?}");
}

#[test]
fn explain_says_who_would_serve_and_why_not() {
    let folder = folder(&[("a.yaml", GOOD)]);
    let path = folder.path().to_str().expect("UTF-8");
    let explained = run(["explain", "m", "--config", path]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
    assert!(explained.stdout.contains("default/m") && explained.stdout.contains("up-m"), "{}", explained.stdout);
    assert_eq!(run(["explain", "m", "--key", "ci", "--config", path]).code, Some(0));
    let disabled = run(["explain", "m", "--key", "off", "--config", path]);
    assert!(disabled.code == Some(1) && disabled.stdout.contains("disabled"), "{disabled:?}");
    let unknown = run(["explain", "nope", "--config", path]);
    assert!(unknown.code == Some(1) && unknown.stdout.contains("nope"), "{unknown:?}");
    let nobody = run(["explain", "m", "--key", "nobody", "--config", path]);
    assert!(nobody.code == Some(2) && nobody.stderr.contains("nobody"), "{nobody:?}");
}

#[test]
fn crds_prints_every_kind() {
    let printed = run(["crds"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    for kind in ["LLMGateway", "ProviderAccount", "ModelDeployment", "RouteGroup", "Team", "VirtualKey", "Budget"] {
        assert!(printed.stdout.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    assert!(printed.stdout.contains("kind: CustomResourceDefinition"));
}

#[test]
fn every_command_has_a_manual() {
    for command in ["serve", "check", "import", "explain", "crds", "mock"] {
        let help = run([command, "--help"]);
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.stdout.contains("Usage:") && help.stdout.len() > 200, "{command}: {}", help.stdout);
        let unknown = run([command, "--no-such-flag"]);
        assert!(unknown.code == Some(2) && unknown.stderr.contains("--no-such-flag"), "{command}: {unknown:?}");
    }
    let all = run(["--help"]).stdout;
    for command in ["serve", "check", "import", "explain", "crds", "mock"] {
        assert!(all.contains(command), "{all}");
    }
    let version = run(["--version"]);
    assert!(version.code == Some(0) && version.stdout.starts_with("tollgate "), "{version:?}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let command = format!("'{}' crds | head -n 1; exit ${{PIPESTATUS[0]}}", binary().display());
    let output = Command::new("bash").arg("-c").arg(command).output().expect("bash runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_litellm_config_is_served_as_it_is() {
    let mock = tollgate_harness::Mock::start(Default::default()).await.expect("the mock listens");
    let text = format!(
        "model_list:\n  - model_name: gpt\n    litellm_params:\n      model: openai/up-gpt\n      api_base: {}/v1\n      api_key: os.environ/LITELLM_TEST_KEY\n\
         general_settings:\n  master_key: os.environ/LITELLM_MASTER_KEY\n",
        mock.url()
    );
    let starter = Starter::default().file("config.yaml", text).without_variable("TOLLGATE_MASTER_KEY");
    let mut gateway: Gateway = starter
        .variable("LITELLM_MASTER_KEY", MASTER_KEY)
        .variable("LITELLM_TEST_KEY", "sk-from-the-environment")
        .start()
        .await;
    let reply = gateway.chat("gpt").key(MASTER_KEY).send().await.expect(200);
    assert_eq!(reply.json()["model"], "gpt");
    assert_eq!(mock.requests()[0].header("authorization"), Some("Bearer sk-from-the-environment"));
    assert_eq!(mock.requests()[0].json()["model"], "up-gpt");
    gateway.stop().await;
}
