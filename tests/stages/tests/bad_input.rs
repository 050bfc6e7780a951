//! Requests that are broken, too large, too slow or meant to confuse (issue, proof: bad input; security-and-faults.md).
//! Each gets a clear answer, costs nothing, and leaves the gateway serving.

use std::time::{Duration, Instant};

use tollgate_harness::{KEY, Options, RawSocket, Stage, Starter, Step, Value, json, objects};

async fn refused(stage: &Stage, path: &str, body: impl Into<Vec<u8>>, status: u16) -> Value {
    let body: Vec<u8> = body.into();
    let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
    let reply = stage.gateway.post(path).key(KEY).header("content-type", "application/json").body(body).send().await;
    assert_eq!(reply.status, status, "{path} {shown}: {}", reply.text());
    reply.json()
}

async fn still_serves(stage: &Stage) {
    stage.gateway.chat("m").send().await.expect(200);
}

#[tokio::test]
async fn what_is_not_json_is_a_bad_request_that_names_the_body() {
    let stage = Stage::one().await;
    for body in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "\"text\"",
        "5",
        "{\"model\"}",
        "{\"model\":\"m\",}",
        "{'model':'m'}",
        "{\"model\":\"m\"} trailing",
        "{\"model\":\"m\",\"messages\":[}",
        "{\"model\":\"m\\x\"}",
        "{\"model\":\"m\",\"a\":01}",
        "{\"model\":\"m\",\"a\":NaN}",
        "{\"model\":\"m\",\"a\":tru}",
        "{\"model\":\"m\",\"a\":\"\\ud800\"",
        "{\"model\":\"m\n\"}",
        "\u{feff}{\"model\":\"m\"}",
    ] {
        let json = refused(&stage, "/v1/chat/completions", body, 400).await;
        assert_eq!(json["error"]["param"], "request_body", "{body:?}: {json}");
        let json = refused(&stage, "/v1/messages", body, 400).await;
        assert_eq!(
            (&json["type"], &json["error"]["type"]),
            (&json!("error"), &json!("invalid_request_error")),
            "{body:?}"
        );
    }
    assert!(stage.mock.requests().is_empty());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn missing_fields_are_named() {
    let stage = Stage::one().await;
    let json = refused(&stage, "/v1/chat/completions", r#"{"model":"m"}"#, 400).await;
    assert_eq!(json["error"]["param"], "messages");
    let json = refused(&stage, "/v1/chat/completions", r#"{"messages":[]}"#, 400).await;
    assert_eq!(json["error"]["param"], "model");
    let json = refused(&stage, "/v1/embeddings", r#"{"model":"m"}"#, 400).await;
    assert_eq!(json["error"]["param"], "input");
    let json = refused(&stage, "/v1/messages", r#"{"model":"m","max_tokens":5}"#, 400).await;
    assert!(json["error"]["message"].as_str().is_some_and(|text| text.contains("messages")), "{json}");
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn wrong_types_of_what_we_act_on_are_refused() {
    let stage = Stage::one().await;
    for (field, value) in [
        ("model", "5"),
        ("model", "null"),
        ("model", "[\"m\"]"),
        ("model", "{}"),
        ("messages", "\"hi\""),
        ("messages", "{}"),
        ("stream", "\"yes\""),
        ("stream", "1"),
        ("max_tokens", "\"many\""),
        ("max_tokens", "-1"),
        ("max_tokens", "1.5"),
        ("max_tokens", "1e99"),
        ("max_completion_tokens", "{}"),
        ("n", "\"x\""),
        ("stream_options", "5"),
    ] {
        let others = [("model", "\"m\""), ("messages", "[{\"role\":\"user\",\"content\":\"x\"}]")]
            .into_iter()
            .filter(|(name, _)| *name != field);
        let fields: Vec<String> =
            others.chain([(field, value)]).map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let json = refused(&stage, "/v1/chat/completions", format!("{{{}}}", fields.join(",")), 400).await;
        assert!(json["error"]["message"].as_str().is_some_and(|text| text.contains(field)), "{field}: {json}");
    }
    assert!(stage.mock.requests().is_empty());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn fields_that_we_act_on_may_stand_only_once() {
    let stage = Stage::one().await;
    let messages = r#""messages":[{"role":"user","content":"x"}]"#;
    for twice in [
        r#""model":"m","model":"secret""#.to_owned(),
        r#""model":"m","\u006dodel":"secret""#.to_owned(),
        r#""model":"m","stream":false,"stream":true"#.to_owned(),
        r#""model":"m","max_tokens":5,"max_tokens":100000"#.to_owned(),
        format!(r#""model":"m",{messages}"#),
    ] {
        refused(&stage, "/v1/chat/completions", format!("{{{twice},{messages}}}"), 400).await;
    }
    assert!(stage.mock.requests().is_empty(), "two readers of one body must not see two bodies");
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn deep_nesting_is_refused_in_no_time() {
    let stage = Stage::one().await;
    for open in ["[", "{\"a\":"] {
        let deep = format!("{{\"model\":\"m\",\"messages\":[],\"x\":{}", open.repeat(400_000));
        let begun = Instant::now();
        refused(&stage, "/v1/chat/completions", deep, 400).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    let closed = format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],\"x\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    refused(&stage, "/v1/chat/completions", closed, 400).await;
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_refused() {
    let stage = Stage::one().await;
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc3"] {
        let mut body = b"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"".to_vec();
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\"}]}");
        refused(&stage, "/v1/chat/completions", body, 400).await;
    }
    assert!(stage.mock.requests().is_empty());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_with_and_without_its_length() {
    let stage = Stage::start_with(Starter::default().arguments(["--max-body", "100000"]), Options::default(), |mock| {
        vec![objects::deployment("m", mock)]
    })
    .await;
    let large =
        format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}", "x".repeat(200_000));
    let json = refused(&stage, "/v1/chat/completions", large.clone(), 413).await;
    assert!(json["error"]["message"].as_str().is_some_and(|text| text.contains("100000")), "{json}");

    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket
        .send(format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
        ))
        .await;
    for _ in 0..4 {
        socket.send(format!("{:x}\r\n{}\r\n", 50_000, "x".repeat(50_000))).await;
    }
    socket.read_until("request_too_large").await;
    assert_eq!(socket.status(), Some(413), "{}", socket.text());
    assert!(socket.text().contains("request_too_large"), "in Anthropic's words: {}", socket.text());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn large_bodies_within_the_limit_pass() {
    let stage = Stage::one().await;
    let text = "é".repeat(4_000_000);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    assert_eq!(stage.last_seen().json()["messages"][0]["content"].as_str().map(str::len), Some(8_000_000));
    stage.finish().await;
}

#[tokio::test]
async fn compressed_bodies_are_415() {
    let stage = Stage::one().await;
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, identity"] {
        let reply = stage.gateway.chat("m").header("content-encoding", encoding).send().await;
        assert_eq!(reply.status, 415, "{encoding}: {}", reply.text());
    }
    stage.gateway.chat("m").header("content-encoding", "identity").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn parameters_that_clients_may_not_set_are_refused() {
    let stage = Stage::one().await;
    for param in ["api_base", "base_url", "mock_testing_fallbacks", "mock_testing_rate_limit_error", "mock_timeout"] {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        body[param] = json!("http://169.254.169.254/");
        let reply = stage.gateway.chat("m").json(&body).send().await.expect(400);
        assert_eq!(reply.json()["error"]["param"], param, "{}", reply.text());
    }
    assert!(stage.mock.requests().is_empty());
    stage.finish().await;
}

#[tokio::test]
async fn a_clients_own_key_in_the_body_is_not_used() {
    let stage = Stage::one().await;
    let body = json!({"model": "m", "api_key": "sk-client", "messages": [{"role": "user", "content": "x"}]});
    stage.gateway.chat("m").json(&body).send().await;
    for seen in stage.mock.requests() {
        assert_eq!(seen.header("authorization"), Some("Bearer sk-upstream-0123456789abcdef"));
    }
    stage.finish().await;
}

/// Sends raw bytes; gives what came back until the gateway closed.
async fn raw(stage: &Stage, bytes: impl AsRef<[u8]>) -> RawSocket {
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket.send(bytes).await;
    socket.read_to_end().await;
    socket
}

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;

fn head(more: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{more}")
}

#[tokio::test]
async fn shapes_that_smuggle_requests_are_refused_and_the_connection_ends() {
    let stage = Stage::one().await;
    let smuggled = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n");
    let length = BODY.len();
    for (what, more) in [
        ("both lengths", format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("two lengths", format!("content-length: {length}\r\ncontent-length: 0\r\n\r\n{BODY}{smuggled}")),
        ("a list of lengths", format!("content-length: {length}, 0\r\n\r\n{BODY}{smuggled}")),
        ("a signed length", format!("content-length: +{length}\r\n\r\n{BODY}{smuggled}")),
        ("a negative length", format!("content-length: -1\r\n\r\n{BODY}{smuggled}")),
        ("a hexadecimal length", format!("content-length: 0x10\r\n\r\n{BODY}{smuggled}")),
        ("chunked, but not last", format!("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}")),
        ("an unknown coding", format!("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("a folded header", format!("x-a: 1\r\n folded: 2\r\ncontent-length: {length}\r\n\r\n{BODY}{smuggled}")),
        ("a space before the colon", format!("content-length : {length}\r\n\r\n{BODY}{smuggled}")),
        ("a null byte", format!("x-a: \0\r\ncontent-length: {length}\r\n\r\n{BODY}{smuggled}")),
        (
            "a bare carriage return",
            format!("x-a: 1\rtransfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n{BODY}{smuggled}"),
        ),
        ("a bad chunk size", format!("transfer-encoding: chunked\r\n\r\nzz\r\n{BODY}\r\n0\r\n\r\n{smuggled}")),
    ] {
        let socket = raw(&stage, head(&more)).await;
        assert!(socket.responses() <= 1, "{what}: the second request was answered: {}", socket.text());
        assert!(socket.status().is_none_or(|status| (400..500).contains(&status)), "{what}: {}", socket.text());
    }
    assert!(stage.mock.requests().is_empty(), "none of them reached a provider: {:?}", stage.mock.requests());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn heads_that_can_be_read_in_two_ways_are_refused_in_the_clients_dialect() {
    let stage = Stage::one().await;
    let length = BODY.len();
    let chunks = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    for (path, name) in [("/v1/chat/completions", "x-request-id: "), ("/v1/messages", "\r\nrequest-id: ")] {
        for (what, target, more, body) in [
            ("both lengths", path.to_owned(), format!("content-length: {length}\r\n{chunked}"), &chunks),
            ("both lengths, chunks first", path.to_owned(), format!("{chunked}content-length: 5\r\n"), &chunks),
            ("two codings", path.to_owned(), "transfer-encoding: chunked, chunked\r\n".to_owned(), &chunks),
            ("a coding twice", path.to_owned(), chunked.repeat(2), &chunks),
            ("the same length twice", path.to_owned(), format!("content-length: {length}\r\n").repeat(2), &BODY.into()),
            ("a bare line feed", path.to_owned(), format!("x-a: 1\ncontent-length: {length}\r\n"), &BODY.into()),
            ("two hosts", path.to_owned(), format!("host: y\r\ncontent-length: {length}\r\n"), &BODY.into()),
            ("another host", format!("http://y{path}"), format!("content-length: {length}\r\n"), &BODY.into()),
        ] {
            let good = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
            let bad = format!("POST {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{more}\r\n{body}");
            let socket = raw(&stage, format!("{bad}{good}")).await;
            let text = socket.text();
            assert_eq!((socket.responses(), socket.status()), (1, Some(400)), "{path}, {what}: {text}");
            assert!(text.contains("connection: close") && text.contains("head_refused"), "{path}, {what}: {text}");
            assert!(text.contains(name), "{path}, {what}: {text}");
            let socket = raw(&stage, format!("{good}{bad}{good}")).await;
            assert_eq!((socket.responses(), socket.status()), (2, Some(200)), "{path}, {what}: {}", socket.text());
            assert!(socket.text().contains("head_refused"), "{path}, {what}: {}", socket.text());
        }
    }
    let same = format!("POST http://X/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n");
    let socket = raw(&stage, format!("{same}connection: close\r\ncontent-length: {length}\r\n\r\n{BODY}")).await;
    assert_eq!(socket.status(), Some(200), "{}", socket.text());
    assert_eq!(stage.mock.requests().len(), 1, "the last alone reached a provider");
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn bare_line_feeds_never_make_two_requests_of_one() {
    let stage = Stage::one().await;
    let text = format!(
        "POST /v1/chat/completions HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\nconnection: close\ncontent-length: {}\n\n{BODY}",
        BODY.len()
    );
    let socket = raw(&stage, text).await;
    assert_eq!((socket.responses(), socket.status()), (1, Some(400)), "{}", socket.text());
    still_serves(&stage).await;
    let mut stage = stage;
    tollgate_harness::assert_ledger_equals_invoice(&mut stage.gateway, &[&stage.mock]).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let stage = Stage::one().await;
    let socket = raw(&stage, head(&format!("x-large: {}\r\n\r\n", "x".repeat(200_000)))).await;
    assert_eq!(socket.status(), Some(431), "{}", socket.text());
    let many: String = (0..2_000).map(|at| format!("x-{at}: 1\r\n")).collect();
    let socket = raw(&stage, head(&format!("{many}\r\n"))).await;
    assert_eq!(socket.status(), Some(431), "{}", socket.text());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let stage = Stage::one().await;
    let one = |id: &str, last: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{last}authorization: Bearer {KEY}\r\nx-litellm-call-id: {id}\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        )
    };
    let socket = raw(&stage, one("first", "") + &one("second", "connection: close\r\n")).await;
    let text = socket.text();
    assert_eq!(socket.responses(), 2, "{text}");
    assert!(text.find("first") < text.find("second"), "{text}");
    stage.finish().await;
}

#[tokio::test]
async fn a_body_that_ends_early_reaches_nobody() {
    let stage = Stage::one().await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket.send(head(&format!("content-length: 1000\r\n\r\n{BODY}"))).await;
    drop(socket);
    still_serves(&stage).await;
    assert_eq!(stage.mock.requests().len(), 1);
    stage.finish().await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_cut() {
    let starter = Starter::default().arguments(["--header-timeout", "1"]);
    let stage = Stage::start_with(starter, Options::default(), |mock| vec![objects::deployment("m", mock)]).await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket.send("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n").await;
    let begun = Instant::now();
    socket.read_to_end().await;
    assert!(begun.elapsed() < Duration::from_secs(15), "the head's time is a second: {:?}", begun.elapsed());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_408() {
    let starter = Starter::default().arguments(["--body-timeout", "1"]);
    let stage = Stage::start_with(starter, Options::default(), |mock| vec![objects::deployment("m", mock)]).await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket.send(head("content-length: 1000\r\n\r\n{\"model\":")).await;
    // A second without a byte of the body.
    socket.read_until("too slowly").await;
    assert_eq!(socket.status(), Some(408), "{}", socket.text());
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn more_calls_than_the_gateway_takes_are_refused_fast() {
    let starter = Starter::default().arguments(["--max-in-flight", "2", "--cores", "1"]);
    let stage = Stage::start_with(starter, Options::default(), |mock| vec![objects::deployment("m", mock)]).await;
    stage.mock.script("up-m", [Step::usual().gate("open").repeat(2)]);
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(stage.gateway.chat("m").send())).collect();
    stage.mock.wait_at_gate("open", 2).await;
    let begun = Instant::now();
    let reply = stage.gateway.chat("m").send().await.expect(503);
    // The two that are under way never end.
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(reply.header("retry-after").is_some());
    stage.gateway.get("/health/readiness").send().await.expect(200);
    stage.mock.open_gate("open");
    for call in waiting {
        call.await.expect("it ends").expect(200);
    }
    still_serves(&stage).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_refused_call_spends_nothing() {
    let stage = Stage::start(|mock| {
        let budget = json!({"limit": "1", "period": {"lifetime": {}}});
        vec![objects::deployment("m", mock), objects::caller().set("spec.budget", budget)]
    })
    .await;
    for body in ["{", r#"{"model":"nope","messages":[]}"#, r#"{"model":"m"}"#] {
        refused(&stage, "/v1/chat/completions", body, 400).await;
    }
    let reply = stage.gateway.chat("m").send().await.expect(200);
    let cost: f64 = reply.header("x-litellm-response-cost").and_then(|cost| cost.parse().ok()).expect("a cost");
    let spent: f64 = reply.header("x-litellm-key-spend").and_then(|spent| spent.parse().ok()).expect("a spend");
    assert!((cost - spent).abs() < 1e-12, "{cost} {spent}");
    let rows = stage.finish().await;
    assert_eq!(rows.len(), 1);
}
