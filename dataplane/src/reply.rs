//! What goes back: bodies, the headers that clients and their scripts know, and errors in the client's dialect. The one
//! place that turns a [`GatewayError`] into bytes.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tollgate_dialects::Dialect;
use tollgate_dialects::error::{ErrorBody, encode_error};
use tollgate_dialects::splice::Pieces;

use crate::error::{GatewayError, utc_in};
use crate::limits::LimitType;
use crate::relay::Relay;

/// Body of a response.
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, once a call: a box would cost more")]
pub enum ReplyBody {
    Full(Pieces),
    Stream(Box<Relay>),
}

/// An answer on its way out.
pub struct Reply {
    pub response: Response<ReplyBody>,
    /// Status line and header fields as they are sent, the date among them, in the place of the response's.
    pub head: Option<Vec<u8>>,
    /// When it was ready.
    pub at: Instant,
}

impl From<Response<ReplyBody>> for Reply {
    fn from(response: Response<ReplyBody>) -> Reply {
        Reply { response, head: None, at: Instant::now() }
    }
}

/// Names of the headers we set.
pub mod names {
    use http::HeaderName;

    macro_rules! names {
        ($($constant:ident = $text:literal),* $(,)?) => {
            $(pub static $constant: HeaderName = HeaderName::from_static($text);)*
        };
    }

    names! {
        REQUEST_ID = "x-request-id",
        ANTHROPIC_REQUEST_ID = "request-id",
        SHOULD_RETRY = "x-should-retry",
        ERROR_CODE = "x-tollgate-error",
        CALL_ID = "x-litellm-call-id",
        VERSION = "x-litellm-version",
        RESPONSE_COST = "x-litellm-response-cost",
        FRAME_OPTIONS = "x-frame-options",
        CONTENT_TYPE_OPTIONS = "x-content-type-options",
        RATE_LIMIT_TYPE = "rate_limit_type",
        RESET_AT = "reset_at",
        LIMIT_REQUESTS = "x-ratelimit-limit-requests",
        REMAINING_REQUESTS = "x-ratelimit-remaining-requests",
        RESET_REQUESTS = "x-ratelimit-reset-requests",
        LIMIT_TOKENS = "x-ratelimit-limit-tokens",
        REMAINING_TOKENS = "x-ratelimit-remaining-tokens",
        RESET_TOKENS = "x-ratelimit-reset-tokens",
    }

    /// The one of OpenAI's six headers about rate limits that this is, as it was received.
    pub fn rate_limit(name: &[u8]) -> Option<&'static HeaderName> {
        const LONGEST: usize = "x-ratelimit-remaining-requests".len();
        if name.len() > LONGEST || !name.get(..12)?.eq_ignore_ascii_case(b"x-ratelimit-") {
            return None;
        }
        let all =
            [&LIMIT_REQUESTS, &REMAINING_REQUESTS, &RESET_REQUESTS, &LIMIT_TOKENS, &REMAINING_TOKENS, &RESET_TOKENS];
        all.into_iter().find(|own| own.as_str().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// Headers that every response of ours carries (LiteLLM HDR-8).
pub fn add_common(headers: &mut HeaderMap, call_id: &HeaderValue) {
    headers.insert(names::REQUEST_ID.clone(), call_id.clone());
    headers.insert(names::CALL_ID.clone(), call_id.clone());
    headers.insert(names::VERSION.clone(), HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.insert(names::FRAME_OPTIONS.clone(), HeaderValue::from_static("DENY"));
    headers.insert(http::header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'"));
    headers.insert(names::CONTENT_TYPE_OPTIONS.clone(), HeaderValue::from_static("nosniff"));
}

/// The beginning of a good answer: the same fields but for the call's id, as they are sent.
pub const COMMON_LINES: &[u8] = concat!(
    "HTTP/1.1 200 OK\r\nx-litellm-version: ",
    env!("CARGO_PKG_VERSION"),
    "\r\nx-frame-options: DENY\r\ncontent-security-policy: frame-ancestors 'none'\r\nx-content-type-options: nosniff\r\n"
)
.as_bytes();

/// Name of the header that says what a key has left of its limit for one model (LiteLLM HDR-7). `kind`: `requests` or
/// `tokens`. `None`: the model's name holds what header names may not.
pub fn key_remaining(kind: &str, model: &str) -> Option<HeaderName> {
    HeaderName::try_from(format!("x-litellm-key-remaining-{kind}-{}", model.replace(['/', ':'], "-"))).ok()
}

/// How the names of Anthropic's headers about rate limits begin; the kind follows, and `-limit`, `-remaining` or `-reset`.
pub const ANTHROPIC_LIMITS: &str = "anthropic-ratelimit-";

/// How these headers name a limit.
pub fn anthropic_kind(limit_type: LimitType) -> Option<&'static str> {
    match limit_type {
        LimitType::Requests => Some("requests"),
        LimitType::Tokens => Some("tokens"),
        LimitType::InputTokens => Some("input-tokens"),
        LimitType::OutputTokens => Some("output-tokens"),
        LimitType::MaxParallelRequests => None,
    }
}

/// A time as these headers tell it: so many seconds after `now`, Unix seconds.
pub fn anthropic_time(now: i64, seconds: u64) -> Option<String> {
    jiff::Timestamp::from_second(now.saturating_add(seconds as i64)).ok().map(|at| at.to_string())
}

/// A complete response.
pub fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<ReplyBody> {
    let body: Bytes = body.into();
    let mut response = Response::new(ReplyBody::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error as a complete response in the client's dialect.
pub fn error(error: &GatewayError, dialect: Dialect, call_id: &HeaderValue) -> Response<ReplyBody> {
    let facts = error.facts();
    let body = error_body(error, dialect, call_id);
    let status = StatusCode::from_u16(facts.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = full(status, "application/json", body);
    let headers = response.headers_mut();
    add_common(headers, call_id);
    if dialect == Dialect::Anthropic {
        headers.insert(names::ANTHROPIC_REQUEST_ID.clone(), call_id.clone());
    }
    headers.insert(names::ERROR_CODE.clone(), HeaderValue::from_static(facts.code));
    headers.insert(names::RESPONSE_COST.clone(), HeaderValue::from_static("0"));
    if let Some(retry) = facts.retry {
        headers.insert(names::SHOULD_RETRY.clone(), HeaderValue::from_static(if retry { "true" } else { "false" }));
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let GatewayError::RateLimited { limit_type, resets_in, .. }
    | GatewayError::DeploymentsFull { limit_type, resets_in, .. } = error
    {
        headers.insert(names::RATE_LIMIT_TYPE.clone(), HeaderValue::from_static(limit_type.as_str()));
        if let Ok(at) = HeaderValue::try_from(utc_in(*resets_in)) {
            headers.insert(names::RESET_AT.clone(), at);
        }
    }
    if let GatewayError::RateLimited { limit_type, scope, limit, remaining, resets_in, .. } = error {
        let (scope, kind) = (scope.as_str(), limit_type.as_str());
        for (what, value) in [("limit", *limit), ("remaining", *remaining)] {
            if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{scope}-{what}-{kind}")) {
                headers.insert(name, HeaderValue::from(value));
            }
            if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{what}-{kind}")) {
                headers.insert(name, HeaderValue::from(value));
            }
        }
        let reset = match limit_type {
            LimitType::Requests => Some(&names::RESET_REQUESTS),
            LimitType::Tokens => Some(&names::RESET_TOKENS),
            LimitType::InputTokens | LimitType::OutputTokens | LimitType::MaxParallelRequests => None,
        };
        if let Some((name, after)) = reset.zip(HeaderValue::try_from(format!("{resets_in}s")).ok()) {
            headers.insert(name.clone(), after);
        }
        if let Some(kind) = anthropic_kind(*limit_type).filter(|_| dialect == Dialect::Anthropic) {
            let resets_at = anthropic_time(jiff::Timestamp::now().as_second(), *resets_in);
            let (limit, remaining) = (limit.to_string(), remaining.to_string());
            for (what, value) in [("limit", Some(limit)), ("remaining", Some(remaining)), ("reset", resets_at)] {
                let name = HeaderName::try_from(format!("{ANTHROPIC_LIMITS}{kind}-{what}"));
                if let (Ok(name), Some(value)) = (name, value.and_then(|value| HeaderValue::try_from(value).ok())) {
                    headers.insert(name, value);
                }
            }
        }
    }
    if let GatewayError::Upstream(failure) = error {
        for (name, value) in &failure.headers {
            headers.append(name.clone(), value.clone());
        }
    }
    if facts.status == 401 && facts.fault == crate::error::Fault::Client {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // What was not read, or not understood, would be taken for the next request.
    let is_out_of_step = matches!(
        error,
        GatewayError::BodyTooLarge { .. }
            | GatewayError::BodyTimeout
            | GatewayError::BodyBroken
            | GatewayError::HeadRefused { .. }
    );
    if is_out_of_step {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The JSON of an error in a dialect.
pub fn error_body(error: &GatewayError, dialect: Dialect, call_id: &HeaderValue) -> Vec<u8> {
    let facts = error.facts();
    let body = ErrorBody {
        status: facts.status,
        kind: error.kind(),
        code: error.body_code().to_owned(),
        message: error.message(),
        param: error.param().map(str::to_owned),
        type_name: Some(facts.error_type),
    };
    let mut json = encode_error(dialect, &body, call_id.to_str().unwrap_or_default());
    // LiteLLM's clients look for `detail` here (ERR-14), OpenAI's for `error`.
    let is_routing = matches!(error, GatewayError::RouteNotFound | GatewayError::MethodNotAllowed);
    if dialect == Dialect::OpenAi && is_routing && json.pop() == Some(b'}') {
        json.extend_from_slice(b",\"detail\":");
        tollgate_dialects::json::push_quoted(&mut json, &body.message);
        json.push(b'}');
    }
    json
}
