//! From a request's surface and the script's reply to the finished answer: status, headers, the acts of its body, and
//! what it costs. Pure, but for the prompt cache it is handed.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::body::{Act, Write};
use crate::generation;
use crate::invoice::End;
use crate::openai::{Context, Invalid};
use crate::route::Surface;
use crate::script::{Failure, Reply, UsageScript};
use crate::tokens::Tokens;
use crate::{anthropic, embeddings, gzip, openai, stream};

/// A finished answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub acts: Vec<Act>,
    pub end: End,
    pub stream: bool,
    /// What the whole of it costs; `None`: nothing.
    pub bill: Option<Tokens>,
    /// The `content-length` to claim; `None`: the real one, or none for streams.
    pub claimed_length: Option<u64>,
}

/// A request as an answer needs it.
pub(crate) struct Question<'a> {
    pub surface: Surface,
    pub azure: bool,
    pub model: &'a str,
    pub body: &'a Value,
    pub body_bytes: usize,
    pub seq: u64,
    /// Seconds since 1970.
    pub now: u64,
}

/// What is sent before scripts touch it.
enum Rendered {
    Json { body: Value, usage: bool },
    Events(Vec<stream::Event>),
}

/// Computes the answer.
///
/// # Errors
/// [`Invalid`]: the provider refuses the request with 400.
pub(crate) fn compute(question: &Question<'_>, reply: &Reply, cached: &mut HashSet<u64>) -> Result<Answer, Invalid> {
    let Question { surface, azure, model, body, body_bytes, seq, now } = *question;
    let unary_usage = reply.usage != UsageScript::Missing;
    let (rendered, tokens) = match surface {
        Surface::ChatCompletions | Surface::Completions => {
            let text_completion = surface == Surface::Completions;
            let ask = if text_completion {
                openai::read_completion(body, model, body_bytes)?
            } else {
                openai::read_chat(body, model, body_bytes)?
            };
            let made = generation::generate(&ask, reply, seq);
            let context = Context { created: now, azure, text_completion };
            let rendered = if ask.stream {
                Rendered::Events(openai::render_stream(&made, &ask, reply, &context))
            } else {
                Rendered::Json { body: openai::render(&made, &ask, reply, &context), usage: unary_usage }
            };
            (rendered, Some(made.tokens))
        }
        Surface::Messages => {
            let ask = anthropic::read(body, model, body_bytes, cached)?;
            let made = generation::generate(&ask, reply, seq);
            let rendered = if ask.stream {
                Rendered::Events(anthropic::render_stream(&made, reply))
            } else {
                Rendered::Json { body: anthropic::render(&made, reply), usage: unary_usage }
            };
            (rendered, Some(made.tokens))
        }
        Surface::Embeddings => {
            let ask = embeddings::Ask::read(body)?;
            let tokens = match &reply.usage {
                UsageScript::Tokens(tokens) => *tokens,
                _ => ask.tokens(),
            };
            (Rendered::Json { body: ask.render(model, reply, &tokens), usage: unary_usage }, Some(tokens))
        }
        Surface::CountTokens => {
            let tokens = anthropic::count(body, body_bytes)?;
            (Rendered::Json { body: json!({"input_tokens": tokens.input}), usage: false }, None)
        }
        Surface::Models | Surface::Unknown => (Rendered::Json { body: body.clone(), usage: false }, None),
    };
    Ok(finish(rendered, reply, tokens, question))
}

fn finish(rendered: Rendered, reply: &Reply, tokens: Option<Tokens>, question: &Question<'_>) -> Answer {
    let mut headers = usual_headers(question.surface, question.seq);
    let is_stream = matches!(rendered, Rendered::Events(_));
    let kind = if is_stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if is_stream {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    if let Some(kind) = reply.content_type.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok()) {
        headers.insert(CONTENT_TYPE, kind);
    }
    let server_error = error_body(
        question.surface,
        500,
        "The server had an error while processing your request.",
        None,
        None,
        question.seq,
    );
    let whole = |bytes: Bytes, usage: bool| {
        let bytes = if reply.gzip { gzip::encode(&bytes).into() } else { bytes };
        let output = tokens.map(|tokens| tokens.output);
        let reasoning = tokens.map(|tokens| tokens.reasoning);
        vec![Write { bytes, output, reasoning, usage }]
    };
    let unary_error = |_: &crate::script::Cut| Write { bytes: server_error.to_string().into(), ..Write::default() };
    let (acts, end) = match rendered {
        _ if reply.body.is_some() => {
            let raw = reply.body.clone().unwrap_or_default();
            stream::play(whole(raw.0, false), reply, unary_error)
        }
        Rendered::Json { mut body, usage } => {
            if reply.padding_bytes > 0 && body.is_object() {
                body["padding"] = json!("x".repeat(reply.padding_bytes));
            }
            stream::play(whole(stream::spoil(body.to_string()), usage), reply, unary_error)
        }
        Rendered::Events(events) => {
            let done = !question.surface.is_anthropic();
            stream::acts(events, reply, &tokens.unwrap_or_default(), done, server_error.clone())
        }
    };
    if reply.gzip && (!is_stream || reply.body.is_some()) {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    scripted_headers(&mut headers, &reply.headers);
    Answer {
        status: status(reply.status, StatusCode::OK),
        headers,
        acts,
        end,
        stream: is_stream,
        bill: reply.bill.or(tokens),
        claimed_length: reply.content_length.filter(|_| !is_stream),
    }
}

/// An error as the script or the provider gives it.
pub(crate) fn fail(surface: Surface, seq: u64, failure: &Failure) -> Answer {
    let status = status(failure.status, StatusCode::INTERNAL_SERVER_ERROR);
    let usual = status.canonical_reason().unwrap_or("error").to_lowercase();
    let message = failure.message.clone().unwrap_or_else(|| format!("scripted failure: {usual}"));
    let (kind, code) = (failure.kind.as_deref(), failure.code.as_deref());
    let mut body = error_body(surface, status.as_u16(), &message, kind, code, seq);
    if failure.padding_bytes > 0 {
        body["padding"] = json!("x".repeat(failure.padding_bytes));
    }
    let bytes = match &failure.body {
        Some(raw) => raw.0.clone(),
        None => body.to_string().into(),
    };
    let mut headers = usual_headers(surface, seq);
    let kind = failure.content_type.as_deref().unwrap_or("application/json");
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(CONTENT_TYPE, kind);
    }
    scripted_headers(&mut headers, &failure.headers);
    Answer {
        status,
        headers,
        acts: vec![Act::Write(Write { bytes, ..Write::default() })],
        end: End::Completed,
        stream: false,
        bill: failure.bill,
        claimed_length: None,
    }
}

/// A refusal of the provider itself, with 400.
pub(crate) fn refuse(surface: Surface, seq: u64, invalid: &Invalid) -> Answer {
    let mut answer = fail(
        surface,
        seq,
        &Failure { status: Some(400), message: Some(invalid.message.clone()), ..Failure::default() },
    );
    if !surface.is_anthropic() {
        let body = openai::error(400, &invalid.message, None, None, invalid.param);
        answer.acts = vec![Act::Write(Write { bytes: body.to_string().into(), ..Write::default() })];
    }
    answer
}

/// A redirect.
pub(crate) fn redirect(surface: Surface, seq: u64, redirect: &crate::script::Redirect) -> Answer {
    let failure = Failure {
        status: Some(redirect.status.unwrap_or(302)),
        body: Some(Bytes::new().into()),
        headers: BTreeMap::from([("location".to_string(), redirect.location.clone())]),
        ..Failure::default()
    };
    fail(surface, seq, &failure)
}

fn error_body(surface: Surface, status: u16, message: &str, kind: Option<&str>, code: Option<&str>, seq: u64) -> Value {
    if surface.is_anthropic() {
        anthropic::error(status, message, kind, seq)
    } else {
        openai::error(status, message, kind, code, None)
    }
}

fn status(scripted: Option<u16>, usual: StatusCode) -> StatusCode {
    scripted.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(usual)
}

fn usual_headers(surface: Surface, seq: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let id = HeaderValue::try_from(format!("req_mock{seq:08}")).expect("digits and letters");
    let name = if surface.is_anthropic() { "request-id" } else { "x-request-id" };
    headers.insert(HeaderName::from_static(name), id);
    headers.insert(HeaderName::from_static("server"), HeaderValue::from_static("tollgate-mock"));
    headers
}

/// Adds what the script says; names or values that no header can have are left out.
fn scripted_headers(headers: &mut HeaderMap, scripted: &BTreeMap<String, String>) {
    for (name, value) in scripted {
        match (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
            }
            _ => tracing::warn!("the scripted header `{name}` cannot be sent"),
        }
    }
}
