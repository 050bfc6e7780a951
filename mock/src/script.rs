//! What a test tells the mock to do: a [`Step`] per request, as Rust values or as JSON. Pure data. JSON steps are
//! `{"reply": {"text": "hi"}}`, `{"error": {"status": 429}, "repeat": 2}`, `{"hang": {}}`, `{"close": {}}`, ...

use std::collections::BTreeMap;

use base64::Engine;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::tokens::Tokens;

/// What happens to one request, or to `repeat` requests in a row.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "StepJson")]
pub struct Step {
    pub action: Action,
    /// How many requests take this step. Default 1.
    pub repeat: u32,
    /// The request waits, before any header, until the test opens the gate of this name.
    pub gate: Option<String>,
    /// Wait before headers. Milliseconds.
    pub delay_ms: u64,
}

/// The kinds of step.
#[derive(Clone, Debug)]
pub enum Action {
    /// A computed answer, with whatever is said about it.
    Reply(Box<Reply>),
    /// An HTTP error.
    Error(Failure),
    /// Nothing is sent until the client leaves.
    Hang,
    /// The connection closes (FIN) before any header.
    Close,
    /// The connection is reset (RST) before any header.
    Reset,
    Redirect(Redirect),
    /// These bytes go to the socket as they are, then the connection closes.
    Raw(RawResponse),
}

/// A step in JSON: one action beside the fields of every step. Flat, so that a misspelt field is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepJson {
    reply: Option<Box<Reply>>,
    error: Option<Failure>,
    hang: Option<Nothing>,
    close: Option<Nothing>,
    reset: Option<Nothing>,
    redirect: Option<Redirect>,
    raw: Option<RawResponse>,
    repeat: Option<u32>,
    gate: Option<String>,
    #[serde(default)]
    delay_ms: u64,
}

/// `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl TryFrom<StepJson> for Step {
    type Error = &'static str;

    fn try_from(json: StepJson) -> Result<Step, &'static str> {
        let StepJson { reply, error, hang, close, reset, redirect, raw, repeat, gate, delay_ms } = json;
        let actions = [
            reply.map(Action::Reply),
            error.map(Action::Error),
            hang.map(|Nothing {}| Action::Hang),
            close.map(|Nothing {}| Action::Close),
            reset.map(|Nothing {}| Action::Reset),
            redirect.map(Action::Redirect),
            raw.map(Action::Raw),
        ];
        let mut actions = actions.into_iter().flatten();
        match (actions.next(), actions.next()) {
            (Some(action), None) => Ok(Step { action, repeat: repeat.unwrap_or(1), gate, delay_ms }),
            _ => Err("a step has exactly one of reply, error, hang, close, reset, redirect, raw"),
        }
    }
}

/// A computed answer. Every field that is left out means what a real provider does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    /// What the model says.
    pub text: Option<String>,
    /// What the model thinks first: thinking blocks, or `reasoning_content` on OpenAI surfaces.
    pub thinking: Option<String>,
    /// Tools the model calls, one entry a call: more than one makes parallel calls.
    pub tool_calls: Vec<ToolCall>,
    /// Wire value of the finish or stop reason.
    pub finish_reason: Option<String>,
    /// The model's name in the answer; default: the one requested.
    pub model: Option<String>,
    /// What the answer says about usage.
    pub usage: UsageScript,
    /// Where a stream says it.
    pub usage_at: UsageAt,
    /// What is billed, where that differs from what the answer says.
    pub bill: Option<Tokens>,
    /// HTTP status; default 200.
    pub status: Option<u16>,
    pub headers: BTreeMap<String, String>,
    pub content_type: Option<String>,
    /// Extra top-level fields of the body and of each OpenAI chunk.
    pub extra: Map<String, Value>,
    /// These bytes instead of the rendered body or stream.
    pub body: Option<RawBody>,
    /// Pieces the text is streamed in; default: one per token.
    pub chunks: Option<usize>,
    /// Wait between stream events. Milliseconds.
    pub chunk_delay_ms: u64,
    /// Largest write to the socket, headers and framing included; 1 is a drip. Bytes.
    pub write_bytes: Option<usize>,
    /// Wait after each such write. Milliseconds.
    pub write_delay_ms: u64,
    /// Ends the body early.
    pub cut: Option<Cut>,
    /// How many `[DONE]` end an OpenAI stream.
    pub done: Option<u32>,
    /// Data after the last `[DONE]`, sent as one more event.
    pub after_done: Option<String>,
    pub separator: Separator,
    /// A comment line of this text before each event.
    pub comment: Option<String>,
    /// One field of this size in the body, or in the first event of a stream. Bytes.
    pub padding_bytes: usize,
    /// A byte that is not UTF-8 in the text.
    pub invalid_utf8: bool,
    /// The body is really compressed and says so. (To only say so, set the header.)
    pub gzip: bool,
    /// A `content-length` that is not the body's; the connection closes afterwards. Unary answers only.
    pub content_length: Option<u64>,
}

/// A tool call that the model makes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolCall {
    pub name: String,
    /// Default: an instance of the tool's schema.
    pub arguments: Option<Value>,
    pub id: Option<String>,
}

/// What an answer says about its usage.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageScript {
    /// What was counted.
    #[default]
    Counted,
    /// Nothing: the field is missing.
    Missing,
    /// These figures, and they are billed.
    Tokens(Tokens),
    /// This JSON, however absurd; what was counted is billed.
    Raw(Value),
}

/// Where a stream carries its usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageAt {
    /// OpenAI: its own last chunk, if the client asked. Anthropic: `message_start` and `message_delta`.
    #[default]
    Usual,
    /// Only in the first chunk or event.
    First,
    /// In every chunk, asked or not.
    Every,
    /// The last chunk or event comes twice.
    Twice,
}

/// Ends a body early: after so many stream events or bytes (neither: right after the headers).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cut {
    /// Events of the stream, all kinds counted.
    pub after_events: Option<usize>,
    pub after_bytes: Option<usize>,
    pub how: CutHow,
    /// For `error`: the event's data; default: a server error in the surface's shape.
    pub error: Option<Value>,
}

/// How a body ends early.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutHow {
    /// FIN, the HTTP body unfinished.
    #[default]
    Close,
    /// RST.
    Reset,
    /// Nothing more until the client leaves.
    Hang,
    /// The HTTP body ends properly, but the stream in it does not.
    Finish,
    /// An error event, then the HTTP body ends properly.
    Error,
    /// Nothing more until the test opens the gate of this name; then the rest follows.
    Gate(String),
}

/// What separates the lines of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    #[default]
    Lf,
    CrLf,
    Cr,
}

impl Separator {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Separator::Lf => "\n",
            Separator::CrLf => "\r\n",
            Separator::Cr => "\r",
        }
    }
}

/// An HTTP error.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failure {
    /// Default 500.
    pub status: Option<u16>,
    pub message: Option<String>,
    /// `error.type`; default: what the status implies on the surface.
    pub kind: Option<String>,
    /// `error.code` on OpenAI surfaces.
    pub code: Option<String>,
    pub headers: BTreeMap<String, String>,
    /// The whole body (HTML, nonsense) instead of the surface's JSON.
    pub body: Option<RawBody>,
    pub content_type: Option<String>,
    /// One field of this size in the JSON body. Bytes.
    pub padding_bytes: usize,
    /// What the provider bills despite the error.
    pub bill: Option<Tokens>,
}

/// A redirect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    pub location: String,
    /// Default 302.
    #[serde(default)]
    pub status: Option<u16>,
}

/// Bytes for the socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawResponse {
    pub bytes: RawBody,
    /// What the provider bills for it.
    #[serde(default)]
    pub bill: Option<Tokens>,
}

/// Bytes; in JSON a string, or `{"base64": "..."}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawBody(pub Bytes);

impl<T: Into<Bytes>> From<T> for RawBody {
    fn from(bytes: T) -> RawBody {
        RawBody(bytes.into())
    }
}

impl<'de> Deserialize<'de> for RawBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawBody, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Shape {
            Text(String),
            Encoded { base64: String },
        }
        match Shape::deserialize(deserializer)? {
            Shape::Text(text) => Ok(RawBody(text.into())),
            Shape::Encoded { base64 } => base64::engine::general_purpose::STANDARD
                .decode(base64)
                .map(|bytes| RawBody(bytes.into()))
                .map_err(serde::de::Error::custom),
        }
    }
}

impl From<Action> for Step {
    fn from(action: Action) -> Step {
        Step { action, repeat: 1, gate: None, delay_ms: 0 }
    }
}

impl From<Reply> for Step {
    fn from(reply: Reply) -> Step {
        Action::Reply(Box::new(reply)).into()
    }
}

impl From<Failure> for Step {
    fn from(failure: Failure) -> Step {
        Action::Error(failure).into()
    }
}

impl Step {
    /// Answers this text.
    pub fn text(text: impl Into<String>) -> Step {
        Reply { text: Some(text.into()), ..Reply::default() }.into()
    }

    /// Answers this text and says, and bills, this usage.
    pub fn usage(text: impl Into<String>, tokens: Tokens) -> Step {
        Reply { text: Some(text.into()), usage: UsageScript::Tokens(tokens), ..Reply::default() }.into()
    }

    /// Fails with this status, in the shape of the surface.
    pub fn error(status: u16) -> Step {
        Failure { status: Some(status), ..Failure::default() }.into()
    }

    /// Sends nothing until the client leaves.
    pub fn hang() -> Step {
        Action::Hang.into()
    }

    /// Closes before headers.
    pub fn close() -> Step {
        Action::Close.into()
    }

    /// Resets before headers.
    pub fn reset() -> Step {
        Action::Reset.into()
    }

    /// What happens by default, without a script; useful with [`Step::gate`].
    pub fn usual() -> Step {
        Reply::default().into()
    }

    /// Sends these bytes as they are and closes.
    pub fn raw(bytes: impl Into<Bytes>) -> Step {
        Action::Raw(RawResponse { bytes: RawBody(bytes.into()), bill: None }).into()
    }

    /// The same for `count` requests in a row.
    pub fn repeat(self, count: u32) -> Step {
        Step { repeat: count, ..self }
    }

    /// Waits for [`Mock::open_gate`](crate::Mock::open_gate) before any header.
    pub fn gate(self, name: impl Into<String>) -> Step {
        Step { gate: Some(name.into()), ..self }
    }

    /// Waits before headers.
    pub fn delay_ms(self, delay_ms: u64) -> Step {
        Step { delay_ms, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(json: &str) -> Result<Step, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn json_says_what_rust_says() {
        let read = step(r#"{"reply":{"text":"hi","usage":{"tokens":{"input":3}}},"repeat":2,"gate":"g"}"#).unwrap();
        assert_eq!((read.repeat, read.gate.as_deref()), (2, Some("g")));
        let Action::Reply(reply) = read.action else { panic!("a reply") };
        assert_eq!(reply.text.as_deref(), Some("hi"));
        assert_eq!(reply.usage, UsageScript::Tokens(Tokens::new(3, 0)));

        assert!(matches!(step(r#"{"hang":{}}"#).unwrap().action, Action::Hang));
        assert!(matches!(step(r#"{"reset":{}}"#).unwrap().action, Action::Reset));
        let cut = r#"{"reply":{"cut":{"after_events":2,"how":{"gate":"g"}},"usage":"missing","separator":"cr_lf"}}"#;
        let Action::Reply(reply) = step(cut).unwrap().action else { panic!("a reply") };
        assert_eq!(reply.cut.unwrap().how, CutHow::Gate("g".into()));
        assert_eq!(reply.usage, UsageScript::Missing);
    }

    #[test]
    fn bytes_may_come_in_base64() {
        let Action::Raw(raw) = step(r#"{"raw":{"bytes":{"base64":"/w=="}}}"#).unwrap().action else { panic!("raw") };
        assert_eq!(raw.bytes, RawBody(Bytes::from_static(&[0xff])));
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        assert!(step(r#"{"reply":{"txt":"hi"}}"#).is_err());
        assert!(step(r#"{"replay":{}}"#).is_err());
        assert!(step(r#"{"hang":{},"repeate":2}"#).is_err());
    }

    #[test]
    fn a_step_has_one_action() {
        assert!(step(r#"{"hang":{},"close":{}}"#).is_err());
        assert!(step(r#"{"repeat":2}"#).is_err());
    }
}
