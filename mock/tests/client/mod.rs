//! A raw HTTP/1.1 client for the mock's own tests: it sees each byte, which libraries hide.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollgate_mock::{Mock, Options};

/// An answer, read to the end of the connection.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Head as text, without the last blank line.
    pub head: String,
    /// Body without chunk framing.
    pub body: Vec<u8>,
    /// The body ended as its framing promises.
    pub whole: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a UTF-8 body")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split(':').next().is_some_and(|known| known.eq_ignore_ascii_case(name));
        self.head.lines().skip(1).find(named).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    /// The `data:` lines as JSON, `[DONE]` as a string; panics on what is not SSE with plain newlines.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        assert!(text.ends_with("\n\n"), "{text}");
        let blocks = text.trim_end_matches('\n').split("\n\n");
        blocks
            .map(|block| {
                let mut name = None;
                let mut data = None;
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("event", value)) => name = Some(value),
                        Some(("data", value)) => data = Some(value),
                        _ => panic!("not a line of a stream: {line}"),
                    }
                }
                let data = data.expect("each event has data");
                let data = if data == "[DONE]" { Value::from(data) } else { serde_json::from_str(data).expect("JSON") };
                assert!(name.is_none() || data["type"] == name.unwrap(), "the name repeats the type: {block}");
                data
            })
            .collect()
    }
}

pub async fn mock() -> Mock {
    Mock::start(Options::default()).await.expect("a free port")
}

pub fn head(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: mock\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

/// Connects and sends a request; the answer is still to be read.
pub async fn open(addr: SocketAddr, path: &str, headers: &[(&str, &str)], body: &Value) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.expect("the mock listens");
    let headers = [headers, &[("connection", "close")]].concat();
    socket.write_all(&head("POST", path, &headers, body.to_string().as_bytes())).await.expect("sent");
    socket
}

/// Reads until `marker` was seen; gives all that was read.
pub async fn read_until(socket: &mut TcpStream, marker: &str) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.windows(marker.len()).any(|window| window == marker.as_bytes()) {
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer).await.expect("readable");
        assert!(count > 0, "the connection ended before {marker:?}: {}", String::from_utf8_lossy(&read));
        read.extend(&buffer[..count]);
    }
    read
}

/// Reads to the end of the connection.
pub async fn read_all(mut socket: TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

pub fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a text head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    let rest = &bytes[end + 4..];
    let mut answer = Answer { status, head, body: Vec::new(), whole: false };
    if answer.header("transfer-encoding") == Some("chunked") {
        (answer.body, answer.whole) = unchunk(rest);
    } else {
        answer.body = rest.to_vec();
        answer.whole = answer.header("content-length") == Some(rest.len().to_string().as_str());
    }
    answer
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).expect("hex"), 16).expect("hex");
        if size == 0 {
            return (body, true);
        }
        let data = &rest[line + 2..];
        body.extend(&data[..size.min(data.len())]);
        if data.len() < size + 2 {
            return (body, false);
        }
        rest = &data[size + 2..];
    }
}

pub async fn post(mock: &Mock, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    parse(&read_all(open(mock.addr(), path, headers, body).await).await.expect("an answer"))
}

pub async fn call(mock: &Mock, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(mock.addr()).await.expect("the mock listens");
    let headers = [headers, &[("connection", "close")]].concat();
    socket.write_all(&head(method, path, &headers, body)).await.expect("sent");
    parse(&read_all(socket).await.expect("an answer"))
}

pub const CHAT: &str = "/v1/chat/completions";
pub const MESSAGES: &str = "/v1/messages";
pub const ANTHROPIC: &[(&str, &str)] = &[("anthropic-version", "2023-06-01"), ("x-api-key", "k")];

/// A chat request with one user message; `extra` is merged in.
pub fn chat(said: &str, extra: Value) -> Value {
    merged(serde_json::json!({"model": "m", "messages": [{"role": "user", "content": said}]}), extra)
}

/// A Messages request with one user message.
pub fn message(said: &str, extra: Value) -> Value {
    merged(serde_json::json!({"model": "c", "max_tokens": 100, "messages": [{"role": "user", "content": said}]}), extra)
}

fn merged(mut body: Value, extra: Value) -> Value {
    for (name, value) in extra.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}
