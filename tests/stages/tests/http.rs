//! HTTP/1.1 as clients speak it: interim answers, HTTP/1.0, HEAD, bodies that nobody wanted, answers while a client sends
//! ahead.

use tollgate_harness::{KEY, RawSocket, Stage, Step};

fn call(more: &str, body: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{more}\r\n{body}")
}

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
const STREAM: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;

#[tokio::test]
async fn who_expects_100_continue_gets_it_before_the_body_is_read() {
    let stage = Stage::one().await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    let length = BODY.len();
    socket.send(call(&format!("expect: 100-continue\r\nconnection: close\r\ncontent-length: {length}\r\n"), "")).await;
    socket.read_until("HTTP/1.1 100 Continue\r\n\r\n").await;
    socket.send(BODY).await;
    let text = socket.read_to_end().await;
    assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
    stage.finish().await;
}

#[tokio::test]
async fn a_refused_call_gets_no_100_continue_and_ends_the_connection() {
    let stage = Stage::one().await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket
        .send("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n")
        .await;
    let text = socket.read_to_end().await;
    assert_eq!((socket.responses(), socket.status()), (1, Some(401)), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    stage.finish().await;
}

#[tokio::test]
async fn a_small_body_that_nobody_wanted_does_not_end_the_connection() {
    let stage = Stage::one().await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    let unwanted = "POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\nGET / HTTP/1.1";
    let chunked = "POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let last = call(&format!("connection: close\r\ncontent-length: {}\r\n", BODY.len()), BODY);
    socket.send(format!("{unwanted}{chunked}{last}")).await;
    let text = socket.read_to_end().await;
    assert_eq!(socket.responses(), 3, "{text}");
    assert_eq!((text.matches(" 404 ").count(), text.matches(" 200 ").count()), (2, 1), "{text}");
    stage.finish().await;
}

#[tokio::test]
async fn clients_of_http_1_0_are_answered_to_the_end_of_the_connection() {
    let stage = Stage::one().await;
    for body in [BODY, STREAM] {
        let mut socket = RawSocket::connect(stage.gateway.address()).await;
        let length = body.len();
        socket
            .send(format!(
                "POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        let text = socket.read_to_end().await;
        assert_eq!((socket.responses(), socket.status()), (1, Some(200)), "{text}");
        assert!(!text.contains("transfer-encoding"), "{text}");
        assert!(body == BODY || text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    stage.finish().await;
}

#[tokio::test]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let stage = Stage::one().await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket
        .send("HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    let text = socket.read_to_end().await;
    assert_eq!((socket.responses(), text.matches("content-length: ").count()), (2, 2), "{text}");
    assert_eq!(text.matches("I'm alive!").count(), 1, "{text}");
    stage.finish().await;
}

#[tokio::test]
async fn streams_in_a_row_on_one_connection_are_whole() {
    let stage = Stage::one().await;
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    let one = call(&format!("content-length: {}\r\n", STREAM.len()), STREAM);
    let last = call(&format!("connection: close\r\ncontent-length: {}\r\n", STREAM.len()), STREAM);
    socket.send(format!("{one}{one}{last}")).await;
    let text = socket.read_to_end().await;
    assert_eq!((socket.responses(), text.matches("[DONE]").count()), (3, 3), "{text}");
    assert_eq!(text.matches("\r\n0\r\n\r\n").count(), 3, "{text}");
    stage.finish().await;
}

#[tokio::test]
async fn answers_larger_than_any_buffer_are_whole() {
    const LENGTH: usize = 3_000_000;
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::text("~".repeat(LENGTH)), Step::text("~".repeat(LENGTH))]);
    for body in [BODY, STREAM] {
        let mut socket = RawSocket::connect(stage.gateway.address()).await;
        socket.send(call(&format!("connection: close\r\ncontent-length: {}\r\n", body.len()), body)).await;
        let text = socket.read_to_end().await;
        assert_eq!((socket.status(), text.matches('~').count()), (Some(200), LENGTH));
        assert!(body == BODY || text.ends_with("\r\n0\r\n\r\n"), "{}", &text[text.len() - 100..]);
    }
    stage.finish().await;
}
