//! Every step of a script, seen from the socket.

mod client;

use std::io::ErrorKind;

use client::{ANTHROPIC, CHAT, MESSAGES, chat, head, message, mock, open, parse, post, read_all, read_until};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tollgate_mock::{
    Action, Cut, CutHow, Failure, Mock, Redirect, Reply, Separator, Step, Tokens, UsageAt, UsageScript,
};

fn stream() -> Value {
    chat("hi", json!({"stream": true, "stream_options": {"include_usage": true}}))
}

async fn reply(reply: Reply, body: &Value) -> client::Answer {
    let mock = mock().await;
    mock.script("m", [reply]);
    post(&mock, CHAT, &[], body).await
}

async fn cut(cut: Cut) -> (Mock, std::io::Result<Vec<u8>>) {
    let mock = mock().await;
    mock.script("*", [Reply { cut: Some(cut), ..Reply::default() }]);
    let socket = open(mock.addr(), CHAT, &[], &stream()).await;
    (mock, read_all(socket).await)
}

#[tokio::test]
async fn errors_take_the_shape_of_the_surface() {
    let mock = mock().await;
    let failure = Failure {
        status: Some(429),
        headers: [("retry-after".to_string(), "7".to_string())].into(),
        ..Failure::default()
    };
    mock.script("*", [Step::from(failure).repeat(2)]);
    let openai = post(&mock, CHAT, &[], &chat("hi", json!({}))).await;
    assert_eq!((openai.status, openai.header("retry-after")), (429, Some("7")));
    assert_eq!(openai.json()["error"]["code"], "rate_limit_exceeded");
    let anthropic = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({}))).await;
    assert_eq!(anthropic.json()["error"]["type"], "rate_limit_error");
    assert_eq!(mock.scripted(), 0);
    let html = Failure {
        status: Some(502),
        body: Some("<html>bad gateway</html>".into()),
        content_type: Some("text/html".into()),
        bill: Some(Tokens::new(3, 0)),
        ..Failure::default()
    };
    mock.script("m", [html]);
    let page = post(&mock, CHAT, &[], &chat("hi", json!({}))).await;
    assert_eq!((page.status, page.text().as_str()), (502, "<html>bad gateway</html>"));
    let rows = mock.wait_for_invoice(3).await;
    assert_eq!(rows.iter().map(|row| row.billed).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(rows[2].input_tokens, 3);
}

#[tokio::test]
async fn the_model_outranks_the_path_and_the_path_the_star() {
    let mock = mock().await;
    mock.script("*", [Step::text("star").repeat(2)]);
    mock.script(CHAT, [Step::text("path")]);
    mock.script("m", [Step::text("model")]);
    let mut said = Vec::new();
    for _ in 0..5 {
        let body = post(&mock, CHAT, &[], &chat("hi", json!({}))).await.json();
        said.push(body["choices"][0]["message"]["content"].as_str().unwrap().to_string());
    }
    assert_eq!(said[..4], ["model", "path", "star", "star"]);
    assert!(said[4].starts_with("Hello!"));
}

#[tokio::test]
async fn hang_close_and_reset_before_headers_send_nothing() {
    let mock = mock().await;
    mock.script("m", [Step::close(), Step::reset(), Step::hang()]);
    let body = chat("hi", json!({}));
    assert_eq!(read_all(open(mock.addr(), CHAT, &[], &body).await).await.unwrap(), b"");
    let reset = read_all(open(mock.addr(), CHAT, &[], &body).await).await.unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    let hanging = open(mock.addr(), CHAT, &[], &body).await;
    mock.wait_for_requests(3).await;
    assert_eq!(mock.in_flight(), 1);
    drop(hanging);
    let rows = mock.wait_for_invoice(3).await;
    assert!(rows.iter().all(|row| !row.billed && !row.completed && row.status.is_none()));
    assert_eq!(rows.iter().map(|row| row.client_gone).collect::<Vec<_>>(), [false, false, true]);
}

#[tokio::test]
async fn a_stream_can_end_after_any_event_in_every_way() {
    let at = |after_events, how| Cut { after_events: Some(after_events), how, ..Cut::default() };
    let (_, closed) = cut(at(3, CutHow::Close)).await;
    let closed = parse(&closed.unwrap());
    assert_eq!((closed.events().len(), closed.whole), (3, false));

    let (_, reset) = cut(at(3, CutHow::Reset)).await;
    assert_eq!(reset.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (_, finished) = cut(at(3, CutHow::Finish)).await;
    let finished = parse(&finished.unwrap());
    assert_eq!((finished.events().len(), finished.whole), (3, true));

    let (mock, failed) = cut(at(2, CutHow::Error)).await;
    let failed = parse(&failed.unwrap());
    let events = failed.events();
    assert_eq!((events.len(), &events[2]["error"]["type"]), (3, &json!("server_error")));
    let row = mock.wait_for_invoice(1).await.remove(0);
    // Of two events the first names the role and the second brings one of ten tokens.
    assert_eq!((row.completed, row.client_gone, row.billed, row.output_tokens), (false, false, true, 1));
    assert!(!row.usage_sent);
}

#[tokio::test]
async fn headers_can_be_all_that_is_sent() {
    let mock = mock().await;
    let hang = Cut { how: CutHow::Hang, ..Cut::default() };
    mock.script("*", [Reply { cut: Some(hang), ..Reply::default() }]);
    let mut socket = open(mock.addr(), CHAT, &[], &stream()).await;
    let head = read_until(&mut socket, "\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 200") && head.ends_with(b"\r\n\r\n"));
    drop(socket);
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert!(row.client_gone && row.billed && row.output_tokens == 0 && row.input_tokens == 4);
}

#[tokio::test]
async fn a_cut_after_bytes_sends_exactly_those() {
    let whole =
        parse(&cut(Cut { after_bytes: Some(usize::MAX), how: CutHow::Finish, ..Cut::default() }).await.1.unwrap());
    for after_bytes in [0, 1, 7, whole.body.len() - 1] {
        let (mock, bytes) = cut(Cut { after_bytes: Some(after_bytes), ..Cut::default() }).await;
        let torn = parse(&bytes.unwrap());
        assert_eq!(torn.body.len(), after_bytes);
        assert!(!torn.whole);
        assert_eq!(mock.wait_for_invoice(1).await[0].bytes_sent, after_bytes as u64);
    }
    let unary = Reply { cut: Some(Cut { after_bytes: Some(10), ..Cut::default() }), ..Reply::default() };
    assert_eq!(reply(unary, &chat("hi", json!({}))).await.body.len(), 10);
}

#[tokio::test]
async fn anthropic_streams_break_with_a_named_error_event() {
    let mock = mock().await;
    let cut = Cut { after_events: Some(4), how: CutHow::Error, ..Cut::default() };
    mock.script("c", [Reply { cut: Some(cut), ..Reply::default() }]);
    let events = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({"stream": true}))).await.events();
    assert_eq!((&events[4]["type"], &events[4]["error"]["type"]), (&json!("error"), &json!("api_error")));
}

#[tokio::test]
async fn done_can_be_missing_doubled_or_followed() {
    let none = reply(Reply { done: Some(0), ..Reply::default() }, &stream()).await;
    assert!(!none.text().contains("[DONE]") && none.whole);
    let two = Reply { done: Some(2), after_done: Some("{\"late\":1}".into()), ..Reply::default() };
    assert!(reply(two, &stream()).await.text().ends_with("data: [DONE]\n\ndata: [DONE]\n\ndata: {\"late\":1}\n\n"));
}

#[tokio::test]
async fn usage_can_be_missing_absurd_early_or_doubled() {
    let missing = reply(Reply { usage: UsageScript::Missing, ..Reply::default() }, &chat("hi", json!({}))).await;
    assert_eq!(missing.json().get("usage"), None);
    for absurd in
        [json!(null), json!({"prompt_tokens": -1}), json!({"prompt_tokens": 1e300}), json!("many"), json!(1.5)]
    {
        let mock = mock().await;
        mock.script("m", [Reply { usage: UsageScript::Raw(absurd.clone()), ..Reply::default() }]);
        assert_eq!(post(&mock, CHAT, &[], &chat("hi", json!({}))).await.json()["usage"], absurd);
        assert_eq!(mock.wait_for_invoice(1).await[0].output_tokens, 10, "what was generated is billed");
    }
    let told = |events: &[Value]| events.iter().map(|event| event["usage"].is_object()).collect::<Vec<_>>();
    let first = reply(Reply { usage_at: UsageAt::First, ..Reply::default() }, &stream()).await.events();
    let told_first = told(&first);
    assert!(told_first[0] && told_first[1..].iter().all(|told| !told));
    let twice = reply(Reply { usage_at: UsageAt::Twice, ..Reply::default() }, &stream()).await.events();
    assert_eq!(told(&twice)[twice.len() - 4..], [false, true, true, false]);
}

#[tokio::test]
async fn lines_can_end_otherwise_and_carry_comments() {
    for (separator, newline) in [(Separator::CrLf, "\r\n"), (Separator::Cr, "\r")] {
        let scripted = Reply { separator, comment: Some("ping".into()), ..Reply::default() };
        let text = reply(scripted, &stream()).await.text();
        assert!(text.starts_with(&format!(": ping{newline}{newline}data: {{")), "{text}");
        assert!(text.ends_with(&format!("data: [DONE]{newline}{newline}")), "{text}");
        assert_eq!(text.replace(newline, "").matches(['\r', '\n']).count(), 0);
    }
}

#[tokio::test]
async fn a_drip_changes_no_byte() {
    for body in [stream(), chat("hi", json!({}))] {
        let drip = reply(Reply { write_bytes: Some(1), ..Reply::default() }, &body).await;
        assert!(drip.whole && drip.status == 200);
        assert_eq!(drip.body.len(), reply(Reply::default(), &body).await.body.len());
    }
}

#[tokio::test]
async fn lines_and_bodies_can_be_huge() {
    const SIZE: usize = 10 << 20;
    for body in [stream(), chat("hi", json!({}))] {
        let huge = reply(Reply { padding_bytes: SIZE, ..Reply::default() }, &body).await;
        assert!(huge.whole && huge.body.len() > SIZE);
    }
    let mock = mock().await;
    mock.script("m", [Failure { padding_bytes: SIZE, ..Failure::default() }]);
    assert!(post(&mock, CHAT, &[], &stream()).await.body.len() > SIZE);
}

#[tokio::test]
async fn text_can_hold_bytes_that_are_no_utf8() {
    for body in [stream(), chat("hi", json!({}))] {
        let spoilt = reply(Reply { invalid_utf8: true, ..Reply::default() }, &body).await;
        assert!(spoilt.whole);
        assert!(String::from_utf8(spoilt.body).is_err());
    }
}

#[tokio::test]
async fn redirects_raw_bytes_gzip_and_wrong_lengths_are_sent() {
    let mock = mock().await;
    let body = chat("hi", json!({}));
    let redirect = Redirect { location: "http://elsewhere/".into(), status: None };
    mock.script("m", [Action::Redirect(redirect)]);
    let answer = post(&mock, CHAT, &[], &body).await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://elsewhere/")));

    mock.script("m", [Step::raw("nonsense\r\n\r\n")]);
    let raw = read_all(open(mock.addr(), CHAT, &[], &body).await).await.unwrap();
    assert_eq!(raw, b"nonsense\r\n\r\n");

    mock.script("m", [Reply { gzip: true, ..Reply::default() }]);
    let gzip = post(&mock, CHAT, &[], &body).await;
    assert_eq!((gzip.header("content-encoding"), &gzip.body[..2]), (Some("gzip"), &[0x1f, 0x8b][..]));

    mock.script("m", [Reply { content_length: Some(100_000), ..Reply::default() }]);
    let long = post(&mock, CHAT, &[], &body).await;
    assert!(!long.whole && long.json()["id"].is_string());
    mock.script("m", [Reply { content_length: Some(5), ..Reply::default() }]);
    let short = post(&mock, CHAT, &[], &body).await;
    assert_eq!(short.body.len(), 5);
    assert_eq!(mock.wait_for_invoice(5).await.iter().filter(|row| row.completed).count(), 2);
}

#[tokio::test]
async fn bodies_types_fields_and_names_can_be_replaced() {
    let mock = mock().await;
    let scripted = Reply {
        status: Some(201),
        model: Some("other".into()),
        extra: json!({"extra_field": 1}).as_object().unwrap().clone(),
        content_type: Some("text/plain".into()),
        finish_reason: Some("content_filter".into()),
        thinking: Some("let me see".into()),
        ..Reply::default()
    };
    mock.script("m", [scripted]);
    let answer = post(&mock, CHAT, &[], &chat("hi", json!({}))).await;
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("text/plain")));
    let body = answer.json();
    assert_eq!((&body["model"], &body["extra_field"]), (&json!("other"), &json!(1)));
    assert_eq!(body["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(body["choices"][0]["message"]["reasoning_content"], "let me see");
    mock.script("m", [Reply { body: Some("data: {}\n\n".into()), ..Reply::default() }]);
    let raw = post(&mock, CHAT, &[], &stream()).await;
    assert_eq!(raw.text(), "data: {}\n\n");
    assert_eq!(raw.header("content-type"), Some("text/event-stream; charset=utf-8"));
}

#[tokio::test(start_paused = true)]
async fn delays_are_kept() {
    let mock = mock().await;
    let reply = Reply { chunk_delay_ms: 60_000, text: Some("a b c".into()), ..Reply::default() };
    mock.script("m", [Step::from(reply).delay_ms(60_000)]);
    let start = tokio::time::Instant::now();
    let answer = post(&mock, CHAT, &[], &chat("hi", json!({"stream": true}))).await;
    // Headers after one delay; then role, a, b, c, finish and [DONE] with five between them.
    assert_eq!(answer.events().len(), 6);
    assert!(start.elapsed().as_secs() >= 360, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_gate_holds_the_answer_until_it_opens() {
    let mock = mock().await;
    let cut = Cut { after_events: Some(2), how: CutHow::Gate("middle".into()), ..Cut::default() };
    mock.script("m", [Step::from(Reply { cut: Some(cut), ..Reply::default() }).gate("start")]);
    let mut socket = open(mock.addr(), CHAT, &[], &stream()).await;
    mock.wait_at_gate("start", 1).await;
    assert_eq!((mock.in_flight(), mock.invoice().len()), (1, 0));
    mock.open_gate("start");
    mock.wait_at_gate("middle", 1).await;
    let before = read_until(&mut socket, "Hello!").await;
    assert!(!String::from_utf8(before).unwrap().contains("[DONE]"));
    mock.open_gate("middle");
    read_until(&mut socket, "[DONE]").await;
    assert!(mock.wait_for_invoice(1).await[0].completed);
    mock.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn connections_are_kept_alive_between_requests() {
    let mock = mock().await;
    let mut socket = TcpStream::connect(mock.addr()).await.unwrap();
    for _ in 0..3 {
        socket.write_all(&head("POST", CHAT, &[], stream().to_string().as_bytes())).await.unwrap();
        read_until(&mut socket, "\r\n0\r\n\r\n").await;
    }
    assert_eq!(mock.wait_for_invoice(3).await.len(), 3);
}

#[tokio::test]
async fn stopping_ends_hanging_requests_and_is_not_the_clients_fault() {
    let mock = mock().await;
    mock.script("m", [Step::hang(), Step::usual().gate("never")]);
    let hanging = open(mock.addr(), CHAT, &[], &stream()).await;
    let gated = open(mock.addr(), CHAT, &[], &stream()).await;
    mock.wait_for_requests(2).await;
    let addr = mock.addr();
    mock.stop().await;
    assert_eq!(read_all(hanging).await.unwrap(), b"");
    assert_eq!(read_all(gated).await.unwrap(), b"");
    assert!(TcpStream::connect(addr).await.is_err());
}
