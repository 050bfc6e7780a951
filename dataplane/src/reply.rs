//! What goes back: bodies, the headers that clients and their scripts know, and errors in the client's dialect. The one
//! place that turns a [`GatewayError`] into bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tollgate_dialects::Dialect;
use tollgate_dialects::error::{ErrorBody, encode_error};

use crate::error::GatewayError;
use crate::relay::Relay;

/// Body of a response.
pub enum ReplyBody {
    Full(Option<Bytes>),
    Stream(Box<Relay>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = crate::relay::Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            ReplyBody::Full(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            ReplyBody::Stream(relay) => relay.poll_data(cx).map(|data| data.map(|data| data.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            ReplyBody::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ReplyBody::Stream(_) => SizeHint::default(),
        }
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
        MODEL_ID = "x-litellm-model-id",
        MODEL_NAME = "x-litellm-model-name",
        MODEL_GROUP = "x-litellm-model-group",
        MODEL_API_BASE = "x-litellm-model-api-base",
        MODEL_REGION = "x-litellm-model-region",
        VERSION = "x-litellm-version",
        RESPONSE_COST = "x-litellm-response-cost",
        RESPONSE_COST_ORIGINAL = "x-litellm-response-cost-original",
        RESPONSE_COST_INPUT = "x-litellm-response-cost-input",
        RESPONSE_COST_OUTPUT = "x-litellm-response-cost-output",
        RESPONSE_COST_CACHE_READ = "x-litellm-response-cost-cache-read",
        RESPONSE_COST_CACHE_CREATION = "x-litellm-response-cost-cache-creation",
        RESPONSE_COST_REASONING = "x-litellm-response-cost-reasoning",
        RESPONSE_COST_TOOL_USAGE = "x-litellm-response-cost-tool-usage",
        KEY_SPEND = "x-litellm-key-spend",
        KEY_MAX_BUDGET = "x-litellm-key-max-budget",
        KEY_TPM_LIMIT = "x-litellm-key-tpm-limit",
        KEY_RPM_LIMIT = "x-litellm-key-rpm-limit",
        RESPONSE_DURATION = "x-litellm-response-duration-ms",
        OVERHEAD_DURATION = "x-litellm-overhead-duration-ms",
        ATTEMPTED_RETRIES = "x-litellm-attempted-retries",
        MAX_RETRIES = "x-litellm-max-retries",
        ATTEMPTED_FALLBACKS = "x-litellm-attempted-fallbacks",
        TIMEOUT = "x-litellm-timeout",
        FRAME_OPTIONS = "x-frame-options",
        CONTENT_TYPE_OPTIONS = "x-content-type-options",
        ACCEL_BUFFERING = "x-accel-buffering",
        RATE_LIMIT_TYPE = "rate_limit_type",
        RESET_AT = "reset_at",
        LIMIT_REQUESTS = "x-ratelimit-limit-requests",
        REMAINING_REQUESTS = "x-ratelimit-remaining-requests",
        RESET_REQUESTS = "x-ratelimit-reset-requests",
        LIMIT_TOKENS = "x-ratelimit-limit-tokens",
        REMAINING_TOKENS = "x-ratelimit-remaining-tokens",
        RESET_TOKENS = "x-ratelimit-reset-tokens",
    }

    /// Whether it is one of OpenAI's six headers about rate limits.
    pub fn is_rate_limit(name: &HeaderName) -> bool {
        let Some(rest) = name.as_str().strip_prefix("x-ratelimit-") else { return false };
        let Some((what, kind)) = rest.split_once('-') else { return false };
        matches!(what, "limit" | "remaining" | "reset") && matches!(kind, "requests" | "tokens")
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

/// A number as a header value, without going through `String`.
pub fn number(value: u64) -> HeaderValue {
    // Counts of retries and the like: nearly always one of these, and then nothing is allocated.
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match DIGITS.get(value as usize) {
        Some(digit) if value < 10 => HeaderValue::from_static(digit),
        _ => HeaderValue::from(value),
    }
}

/// A duration in milliseconds, with the microseconds behind the point.
pub fn milliseconds(duration: std::time::Duration) -> HeaderValue {
    // Microseconds are a thousandth of a millisecond as nano-USD are of a micro-USD: the same text.
    let us = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 1_000_000);
    let text = tollgate_snapshot::money::NanoUsd(us.saturating_mul(1_000_000)).to_decimal_text();
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Seconds as OpenAI writes them: `42s`.
pub fn seconds(seconds: u64) -> HeaderValue {
    HeaderValue::try_from(format!("{seconds}s")).unwrap_or_else(|_| HeaderValue::from_static("60s"))
}

/// Names of the rate-limit headers of one scope (LiteLLM HDR-7).
pub struct ScopeNames {
    pub limit_requests: HeaderName,
    pub remaining_requests: HeaderName,
    pub limit_tokens: HeaderName,
    pub remaining_tokens: HeaderName,
}

macro_rules! scope_names {
    ($scope:literal) => {
        ScopeNames {
            limit_requests: HeaderName::from_static(concat!("x-ratelimit-", $scope, "-limit-requests")),
            remaining_requests: HeaderName::from_static(concat!("x-ratelimit-", $scope, "-remaining-requests")),
            limit_tokens: HeaderName::from_static(concat!("x-ratelimit-", $scope, "-limit-tokens")),
            remaining_tokens: HeaderName::from_static(concat!("x-ratelimit-", $scope, "-remaining-tokens")),
        }
    };
}

/// Name of the header that says what a key has left of its limit for one model (LiteLLM HDR-7). `kind`: `requests` or
/// `tokens`. `None`: the model's name holds what header names may not.
pub fn key_remaining(kind: &str, model: &str) -> Option<HeaderName> {
    HeaderName::try_from(format!("x-litellm-key-remaining-{kind}-{}", model.replace(['/', ':'], "-"))).ok()
}

pub static API_KEY: ScopeNames = scope_names!("api_key");
pub static TEAM: ScopeNames = scope_names!("team");
pub static MODEL_PER_KEY: ScopeNames = scope_names!("model_per_key");

/// A complete response.
pub fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Full(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Headers of an event stream.
pub fn add_stream_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(names::ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
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
        headers.insert(RETRY_AFTER, number(seconds));
    }
    if let GatewayError::RateLimited { limit_type, scope, limit, remaining, resets_in, .. } = error {
        headers.insert(names::RATE_LIMIT_TYPE.clone(), HeaderValue::from_static(limit_type.as_str()));
        let at = jiff::Timestamp::now().as_second() + *resets_in as i64;
        headers.insert(names::RESET_AT.clone(), HeaderValue::from(at));
        let kind = limit_type.as_str();
        for (what, value) in [("limit", *limit), ("remaining", *remaining)] {
            if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{scope}-{what}-{kind}")) {
                headers.insert(name, number(value));
            }
            if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{what}-{kind}")) {
                headers.insert(name, number(value));
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
