//! What is said in a run: the prompts that clients send and the replies that the scripted provider gives. Pure bytes,
//! made once before a cell, so that neither side computes anything while the clock runs.

use std::fmt::Write as _;

/// The model that the provider names in its replies. A gateway may put the public name in its place, see [`Reply`].
pub const REPLY_MODEL: &str = "gpt-bench-2026-01-01";
/// What the provider expects as its own credential.
pub const PROVIDER_KEY: &str = "sk-provider-0123456789abcdef";
/// Begins the provider's own id of each model; the upstream counts requests that carry it.
pub const PROVIDER_MODEL_PREFIX: &str = "provider-model-";

/// Where the `model` field stands in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModelField {
    First,
    Last,
}

/// How requests and replies look. The defaults are the public cells; the rest is for finding out what a shortcut for
/// these cells would cost elsewhere.
#[derive(Clone, Debug, clap::Args)]
pub struct Shape {
    /// Where `model` stands in the request body
    #[arg(long, value_enum, default_value = "first")]
    pub model_field: ModelField,
    /// Fill the prompt with escapes (\", \n, \u00e9) instead of plain words
    #[arg(long)]
    pub escapes: bool,
    /// Send request bodies chunked, without content-length
    #[arg(long)]
    pub chunked: bool,
    /// Bytes of a unary reply body
    #[arg(long, default_value_t = 700)]
    pub reply_bytes: usize,
    /// Milliseconds that the provider thinks before its reply or first event
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// Bytes of one server-sent event
    #[arg(long, default_value_t = 230)]
    pub event_bytes: usize,
    /// End the lines of events with CRLF
    #[arg(long)]
    pub crlf: bool,
    /// Send each event in two segments, one millisecond apart
    #[arg(long)]
    pub split: bool,
    /// Clients ask for the usage event of streams themselves (else only the gateway does)
    #[arg(long)]
    pub ask_usage: bool,
}

/// The fixed part of a request; the rest (key, model) is picked per request.
#[derive(Clone, Debug)]
pub struct Prompt {
    pub stream: bool,
    model_field: ModelField,
    chunked: bool,
    host: String,
    /// Body between the model field and its other end.
    pub middle: Vec<u8>,
}

impl Prompt {
    /// A chat completion request whose body is `body_bytes` long, give or take the length of a model name.
    pub fn new(shape: &Shape, body_bytes: usize, stream: bool, host: &str) -> Self {
        let mut fields =
            String::from(r#""messages":[{"role":"system","content":"You are terse."},{"role":"user","content":""#);
        let end = match (stream, shape.ask_usage) {
            (false, _) => r#""}],"temperature":0.7,"max_tokens":64"#,
            (true, false) => r#""}],"temperature":0.7,"max_tokens":400,"stream":true"#,
            (true, true) => {
                r#""}],"temperature":0.7,"max_tokens":400,"stream":true,"stream_options":{"include_usage":true}"#
            }
        };
        let words: &[&str] = if shape.escapes {
            &["say \\\"hi\\\" ", "line\\n", "caf\\u00e9 ", "back\\\\slash "]
        } else {
            &["the ", "quick ", "brown ", "fox ", "jumps ", "over ", "a ", "lazy ", "dog "]
        };
        let target = body_bytes.saturating_sub(end.len() + 24);
        let mut next = 0;
        while fields.len() + words[next].len() <= target {
            fields.push_str(words[next]);
            next = (next + 1) % words.len();
        }
        fields.push_str(end);
        Self {
            stream,
            model_field: shape.model_field,
            chunked: shape.chunked,
            host: host.to_owned(),
            middle: fields.into_bytes(),
        }
    }

    /// Fills what comes before and behind [`Prompt::middle`] on the wire.
    pub fn frame(&self, key: &str, model: &str, before: &mut String, behind: &mut String) {
        before.clear();
        behind.clear();
        let (open, close) = match self.model_field {
            ModelField::First => (("{\"model\":\"", model, "\","), ("}", "", "")),
            ModelField::Last => (("{", "", ""), (",\"model\":\"", model, "\"}")),
        };
        let length = |part: (&str, &str, &str)| part.0.len() + part.1.len() + part.2.len();
        let body = length(open) + self.middle.len() + length(close);
        let accept = if self.stream { "text/event-stream" } else { "application/json" };
        write!(
            before,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nUser-Agent: OpenAI/Python 2.8.1\r\n\
             Authorization: Bearer {key}\r\nContent-Type: application/json\r\n",
            self.host
        )
        .expect("a String takes every write");
        let end = if self.chunked {
            write!(before, "Transfer-Encoding: chunked\r\n\r\n{body:x}\r\n").expect("a String takes every write");
            "\r\n0\r\n\r\n"
        } else {
            write!(before, "Content-Length: {body}\r\n\r\n").expect("a String takes every write");
            ""
        };
        for part in [open.0, open.1, open.2] {
            before.push_str(part);
        }
        for part in [close.0, close.1, close.2, end] {
            behind.push_str(part);
        }
    }
}

/// What a client must receive, to the byte. A gateway that puts the public model name into replies changes the length
/// in one known way; that is accepted too, anything else is a failure.
#[derive(Clone, Debug)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub renamed_len: usize,
    /// Lines of the body: two per event; 0 in a unary reply.
    pub events: u64,
}

impl Reply {
    /// The last bytes, which a renaming leaves as they are.
    pub fn tail(&self) -> &[u8] {
        &self.bytes[self.bytes.len().saturating_sub(16)..]
    }
}

/// The provider's unary reply, on the wire and as the client must see it.
pub fn unary(shape: &Shape, public_model_len: usize) -> (Vec<u8>, Reply) {
    let start = format!(
        r#"{{"id":"chatcmpl-bench0123456789abcdef","object":"chat.completion","created":1767225600,"model":"{REPLY_MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    );
    let end = r#"","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":230,"completion_tokens":58,"total_tokens":288,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_0123456789"}"#;
    let fill = shape.reply_bytes.saturating_sub(start.len() + end.len());
    let content: String = "word and ".chars().cycle().take(fill).collect();
    let body = format!("{start}{content}{end}").into_bytes();
    let mut wire = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench0123456789\r\n\
         openai-processing-ms: 12\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    wire.extend_from_slice(&body);
    let renamed_len = body.len() + public_model_len - REPLY_MODEL.len();
    (wire, Reply { bytes: body, renamed_len, events: 0 })
}

/// The provider's stream: each event framed as one chunk, and what the client must see of it all.
#[derive(Clone, Debug)]
pub struct Stream {
    pub head: Vec<u8>,
    pub events: Vec<Vec<u8>>,
    /// Usage (only sent when asked for), then `[DONE]` and the last chunk.
    pub usage: Vec<u8>,
    pub done: Vec<u8>,
}

/// A stream of `events` content events.
pub fn stream(shape: &Shape, events: usize, public_model_len: usize) -> (Stream, Reply) {
    let line = if shape.crlf { "\r\n" } else { "\n" };
    let start = format!(
        r#"{{"id":"chatcmpl-bench0123456789abcdef","object":"chat.completion.chunk","created":1767225600,"model":"{REPLY_MODEL}","choices":["#
    );
    let mut payloads: Vec<String> = (0..events)
        .map(|number| {
            let last = number + 1 == events;
            let choice = match number {
                0 => r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
                    .to_owned(),
                _ if last => r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}"#.to_owned(),
                _ => {
                    let word = format!(" word{}", number % 10);
                    let open = r#"{"index":0,"delta":{"content":""#;
                    let close = r#""},"logprobs":null,"finish_reason":null}]}"#;
                    let framing = "data: ".len() + 2 * line.len();
                    let used = framing + start.len() + open.len() + word.len() + close.len();
                    let pad = "x".repeat(shape.event_bytes.saturating_sub(used));
                    format!("{open}{word}{pad}{close}")
                }
            };
            format!("data: {start}{choice}{line}{line}")
        })
        .collect();
    let usage = format!(
        "data: {start}],\"usage\":{{\"prompt_tokens\":230,\"completion_tokens\":{events},\"total_tokens\":{},\
         \"prompt_tokens_details\":{{\"cached_tokens\":0}}}}}}{line}{line}",
        230 + events
    );
    let done = format!("data: [DONE]{line}{line}");
    let wire_events = payloads.iter().map(|payload| chunk(payload)).collect();
    let wire = Stream {
        head: b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_bench0123456789\r\n\
               cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec(),
        events: wire_events,
        usage: chunk(&usage),
        done: [chunk(&done), b"0\r\n\r\n".to_vec()].concat(),
    };
    if shape.ask_usage {
        payloads.push(usage);
    }
    let named = payloads.len();
    payloads.push(done);
    let bytes = payloads.concat().into_bytes();
    let renamed_len = bytes.len() + named * public_model_len - named * REPLY_MODEL.len();
    (wire, Reply { bytes, renamed_len, events: payloads.len() as u64 })
}

fn chunk(payload: &str) -> Vec<u8> {
    format!("{:x}\r\n{payload}\r\n", payload.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Decoder, Side};

    fn shape() -> Shape {
        Shape {
            model_field: ModelField::First,
            escapes: false,
            chunked: false,
            reply_bytes: 700,
            delay_ms: 0,
            event_bytes: 230,
            crlf: false,
            split: false,
            ask_usage: false,
        }
    }

    #[test]
    fn requests_decode_to_a_body_of_the_promised_size_in_every_shape() {
        for (chunked, model_field, size) in
            [(false, ModelField::First, 1024), (true, ModelField::Last, 1024), (false, ModelField::Last, 200 * 1024)]
        {
            let shape = Shape { chunked, model_field, ..shape() };
            let prompt = Prompt::new(&shape, size, true, "h");
            let (mut before, mut behind) = (String::new(), String::new());
            prompt.frame("sk-a", "model-001", &mut before, &mut behind);
            let wire = [before.as_bytes(), &prompt.middle, behind.as_bytes()].concat();
            let mut body = Vec::new();
            assert_eq!(Decoder::new(Side::Request).feed(&wire, &mut body), Ok(true));
            assert!(body.len().abs_diff(size) < 40, "{} is not about {size}", body.len());
            assert!(body.starts_with(b"{") && body.ends_with(b"}"));
            assert!(String::from_utf8(body).unwrap().contains(r#""model":"model-001""#));
        }
    }

    #[test]
    fn the_wire_of_a_stream_decodes_to_what_the_client_must_see() {
        for ask_usage in [false, true] {
            let (wire, reply) = stream(&Shape { ask_usage, ..shape() }, 20, 9);
            let usage = if ask_usage { wire.usage.clone() } else { Vec::new() };
            let all = [wire.head.clone(), wire.events.concat(), usage, wire.done.clone()].concat();
            let mut body = Vec::new();
            assert_eq!(Decoder::new(Side::Response).feed(&all, &mut body), Ok(true));
            assert_eq!(body, reply.bytes);
            assert_eq!(memchr::memmem::find_iter(&body, b"data: ").count() as u64, reply.events);
        }
    }

    #[test]
    fn replies_have_the_asked_size() {
        let (_, reply) = unary(&shape(), 9);
        assert_eq!(reply.bytes.len(), 700);
        let (wire, _) = stream(&shape(), 20, 9);
        assert_eq!(wire.events[5].len(), 230 + "e6\r\n\r\n".len());
    }
}
