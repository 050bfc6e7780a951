//! Errors in every dialect: ours as a client expects them, and what a provider's mean.
//!
//! Pure shapes. Who is at fault and whether to try again is decided by the caller, from the kind.

use serde_json::value::RawValue;

use crate::Dialect;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::write::Members;

/// How much of a provider's error body is looked at, in bytes. Errors are short; a longer body is
/// not one.
const MAX_BODY: usize = 64 << 10;

/// The longest message taken over from a provider, in bytes: some echo the whole prompt.
const MAX_MESSAGE: usize = 2 << 10;

/// What went wrong, the same in every dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    InvalidRequest,
    Authentication,
    Permission,
    NotFound,
    /// The body is too large.
    TooLarge,
    RateLimit,
    /// A budget of ours is spent.
    BudgetExceeded,
    /// The provider's account has no credit left.
    Billing,
    Timeout,
    Overloaded,
    /// The input does not fit into the model's context.
    ContextWindow,
    /// Input or output was refused by a content filter.
    ContentPolicy,
    /// Our fault.
    Internal,
    /// The provider's fault.
    Upstream,
}

/// An error to tell a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// The HTTP status.
    pub status: u16,
    pub kind: ErrorKind,
    /// OpenAI's `code`, a string; when empty, the status is told, as LiteLLM does.
    pub code: String,
    /// Public text.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// OpenAI's `type` where a client knows a more precise one than its kind's, such as
    /// `key_model_access_denied`.
    pub type_name: Option<&'static str>,
}

/// An error a provider told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    /// The HTTP status; 200 for an error within a stream that names none.
    pub status: u16,
    /// The provider's own text, cut at 2 KiB, or ours when it gave none. May quote the prompt, so
    /// it is for the client and not for logs.
    pub message: String,
    pub kind: ErrorKind,
    /// The provider's code, or its type when it has no code.
    pub code: Option<String>,
    pub param: Option<String>,
}

impl ErrorKind {
    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::RateLimit => "rate_limit",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Billing => "billing",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::ContextWindow => "context_window",
            Self::ContentPolicy => "content_policy",
            Self::Internal => "internal",
            Self::Upstream => "upstream",
        }
    }

    /// What a status alone says of an upstream's answer.
    pub const fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Authentication,
            402 => Self::Billing,
            403 => Self::Permission,
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            413 => Self::TooLarge,
            429 => Self::RateLimit,
            503 | 529 => Self::Overloaded,
            400..=499 => Self::InvalidRequest,
            _ => Self::Upstream,
        }
    }

    /// OpenAI's `type`, as LiteLLM's clients see it for the status.
    const fn openai_type(self, status: u16) -> &'static str {
        match self {
            Self::BudgetExceeded => "budget_exceeded",
            Self::Billing => "insufficient_quota",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::RateLimit => "throttling_error",
            Self::InvalidRequest | Self::NotFound | Self::TooLarge | Self::ContextWindow | Self::ContentPolicy => {
                "invalid_request_error"
            }
            Self::Timeout if status == 408 => "invalid_request_error",
            Self::Overloaded if status == 429 => "throttling_error",
            Self::Timeout | Self::Overloaded | Self::Internal | Self::Upstream => "internal_server_error",
        }
    }

    /// Anthropic's `type`.
    const fn anthropic_type(self, status: u16) -> &'static str {
        match self {
            Self::InvalidRequest | Self::ContextWindow | Self::ContentPolicy => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::RateLimit => "rate_limit_error",
            Self::BudgetExceeded if status == 429 => "rate_limit_error",
            Self::BudgetExceeded | Self::Billing => "billing_error",
            Self::Timeout => "timeout_error",
            Self::Overloaded if status == 429 => "rate_limit_error",
            Self::Overloaded => "overloaded_error",
            Self::Internal | Self::Upstream => "api_error",
        }
    }
}

impl ErrorBody {
    pub fn new(status: u16, kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, kind, code: code.into(), message: message.into(), param: None, type_name: None }
    }

    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub fn with_type(mut self, name: &'static str) -> Self {
        self.type_name = Some(name);
        self
    }

    /// OpenAI's `error` object.
    pub(crate) fn openai(&self) -> Members<'_> {
        let code = if self.code.is_empty() { self.status.to_string() } else { self.code.clone() };
        let param = self.param.as_ref().map_or(crate::chat::write::Json::Null, Into::into);
        Members::new()
            .with("message", &self.message)
            .with("type", self.type_name.unwrap_or_else(|| self.kind.openai_type(self.status)))
            .with("param", param)
            .with("code", code)
    }

    /// Anthropic's whole error body, without a request id.
    pub(crate) fn anthropic(&self) -> Members<'_> {
        let error = Members::typed(self.kind.anthropic_type(self.status)).with("message", &self.message);
        Members::typed("error").with("error", error)
    }
}

impl From<&DecodeError> for ErrorBody {
    /// A request we could not read: 400, and the field.
    fn from(error: &DecodeError) -> Self {
        let body = Self::new(400, ErrorKind::InvalidRequest, "", &error.message);
        Self { param: error.param.clone(), ..body }
    }
}

impl From<&crate::chat::EncodeError> for ErrorBody {
    /// A request the provider could not be told: 400.
    fn from(error: &crate::chat::EncodeError) -> Self {
        use crate::chat::EncodeError;
        let param = match error {
            EncodeError::Unsupported { params } => params.first().cloned(),
            EncodeError::Invalid { param, .. } => param.clone(),
        };
        let body = Self::new(400, ErrorKind::InvalidRequest, "", error.to_string());
        Self { param, ..body }
    }
}

impl From<&UpstreamError> for ErrorBody {
    /// The provider's error told on, under its own status; 500 where that says nothing of an error.
    fn from(error: &UpstreamError) -> Self {
        let status = if error.status < 400 { 500 } else { error.status };
        let known = error.code.as_deref().unwrap_or_default();
        let code = match error.kind {
            // Clients shorten their prompt when they see this code, whoever said it in his own words.
            ErrorKind::ContextWindow => "context_length_exceeded",
            ErrorKind::ContentPolicy if !known.starts_with("content_") => "content_policy_violation",
            // The name of a type says no more than the kind.
            _ if known.ends_with("_error") => "",
            _ => known,
        };
        let body = Self::new(status, error.kind, code, &error.message);
        Self { param: error.param.clone(), ..body }
    }
}

/// The body of an error answer, in the client's dialect.
pub fn encode_error(dialect: Dialect, error: &ErrorBody, request_id: &str) -> Vec<u8> {
    match dialect {
        Dialect::OpenAi => Members::new().with("error", error.openai()).to_bytes(),
        Dialect::Anthropic => error.anthropic().with("request_id", request_id).to_bytes(),
    }
}

/// What a provider's error answer means, whatever its body is: JSON of any vendor's shape, HTML,
/// nothing, or bytes without end (only the first 64 KiB are looked at).
pub fn decode_error(dialect: Dialect, status: u16, body: &[u8]) -> UpstreamError {
    // The shapes differ by vendor more than by dialect, so all are looked for in both.
    let (Dialect::OpenAi | Dialect::Anthropic) = dialect;
    let found = Found::read(body);
    let message = match found.message.map(|text| cut(text.trim(), MAX_MESSAGE)) {
        Some(text) if !text.is_empty() => text,
        _ => format!("the provider answered with status {status} and no message"),
    };
    let kind = classify(status, found.code.as_deref(), found.type_name.as_deref(), &message);
    let code = found.code.or(found.type_name).map(|code| cut(&code, 128));
    UpstreamError { status, message, kind, code, param: found.param.map(|param| cut(&param, 256)) }
}

/// The error object within a stream's chunk.
pub(crate) fn decode_stream_error(chunk: &str) -> UpstreamError {
    let found = Found::read(chunk.as_bytes());
    let message = found.message.map(|text| cut(text.trim(), MAX_MESSAGE)).filter(|text| !text.is_empty());
    let message = message.unwrap_or_else(|| "the provider reported an error without a message".to_owned());
    let named = [found.type_name.as_deref(), found.code.as_deref()];
    let status = found.code.as_deref().and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    let status = status.or_else(|| named.iter().flatten().find_map(|name| status_of_type(name))).unwrap_or(200);
    let kind = classify(status, found.code.as_deref(), found.type_name.as_deref(), &message);
    let code = found.code.or(found.type_name).map(|code| cut(&code, 128));
    UpstreamError { status, message, kind, code, param: found.param }
}

impl UpstreamError {
    /// A stream that ended before its end.
    pub(crate) fn cut_stream() -> Self {
        Self {
            status: 200,
            message: "the provider closed the stream before its end".to_owned(),
            kind: ErrorKind::Upstream,
            code: None,
            param: None,
        }
    }

    /// A stream that makes no sense.
    /// An answer or a stream that makes no sense, as [`DecodeError`] says.
    pub fn unreadable(error: &DecodeError) -> Self {
        Self { message: format!("the answer of the provider cannot be read: {error}"), ..Self::cut_stream() }
    }
}

/// What an error body says, before it is judged.
#[derive(Debug, Default)]
struct Found {
    message: Option<String>,
    code: Option<String>,
    type_name: Option<String>,
    param: Option<String>,
}

impl Found {
    fn read(body: &[u8]) -> Self {
        let body = &body[..body.len().min(MAX_BODY)];
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => Self::of_node(&Node::new(raw, ""), 0),
            // A page for people says nothing to a program; a short line of text may.
            Err(_) if text.starts_with('<') || text.starts_with('{') || text.starts_with('[') => Self::default(),
            Err(_) => Self { message: text.lines().next().map(str::to_owned), ..Self::default() },
        }
    }

    /// `depth` bounds wrappers within wrappers.
    fn of_node(node: &Node<'_>, depth: u8) -> Self {
        if node.is_string() {
            return Self { message: node.string().ok(), ..Self::default() };
        }
        // Gemini and FastAPI put errors into arrays.
        if let Ok(items) = node.array() {
            return match items.first() {
                Some(first) if depth < 4 => Self::of_node(first, depth + 1),
                _ => Self::default(),
            };
        }
        let Ok(mut fields) = node.fields() else { return Self::default() };
        if depth < 4 {
            for wrapper in ["error", "errors", "detail"] {
                if let Some(inner) = fields.take(wrapper) {
                    let mut found = Self::of_node(&inner, depth + 1);
                    if found.message.is_some() || found.code.is_some() {
                        found.fill_from(fields);
                        return found;
                    }
                }
            }
        }
        let mut found = Self::default();
        found.fill_from(fields);
        found
    }

    fn fill_from(&mut self, mut fields: Fields<'_>) {
        for key in ["message", "msg", "error_message", "error_description"] {
            self.message = self.message.take().or_else(|| fields.lenient_string(key));
        }
        // Azure says why it filtered one level down.
        let inner = fields.lenient_fields("innererror").and_then(|mut inner| inner.lenient_string("code"));
        let code =
            fields.take("code").and_then(|code| code.string().ok().or_else(|| Some(code.u64().ok()?.to_string())));
        self.code = self.code.take().or(code).or(inner).filter(|code| !code.is_empty());
        self.type_name = self.type_name.take().or_else(|| fields.lenient_string("type"));
        self.param = self.param.take().or_else(|| fields.lenient_string("param"));
    }
}

/// Words by which providers say that the input does not fit, lower case.
const CONTEXT_WINDOW: [&str; 21] = [
    "context_length_exceeded",
    "exceed_context_size",
    "maximum context length",
    "maximum model length",
    "context length exceeded",
    "context window",
    "available context size",
    "exceed context limit",
    "exceeds the context",
    "context size exceeded",
    "model's context length",
    "maximum prompt length",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "string_above_max_length",
    "too many input tokens",
    "too many tokens",
    "exceeds the maximum number of tokens",
    "`inputs` tokens + `max_new_tokens`",
    "reduce the length of the messages",
];

/// Words by which providers say that a filter refused, lower case.
const CONTENT_POLICY: [&str; 14] = [
    "content_policy_violation",
    "content_filter",
    "responsibleaipolicyviolation",
    "content management policy",
    "content filtering policy",
    "content policy",
    "content filter",
    "usage policy",
    "usage policies",
    "safety system",
    "moderation_blocked",
    "flagged as potentially violating",
    "input was flagged",
    "data_inspection_failed",
];

fn classify(status: u16, code: Option<&str>, type_name: Option<&str>, message: &str) -> ErrorKind {
    let quota = ["insufficient_quota", "billing_hard_limit_reached", "billing_error"];
    if [code, type_name].iter().flatten().any(|name| quota.contains(name)) {
        return ErrorKind::Billing;
    }
    // Rate limits speak of "too large" requests and policies too, so only a refused request and an
    // error without a status of its own are read for their words.
    if matches!(status, 200 | 400 | 413 | 422 | 500) {
        let words = [code.unwrap_or(""), type_name.unwrap_or(""), message].join(" ").to_lowercase();
        if CONTEXT_WINDOW.iter().any(|word| words.contains(word)) {
            return ErrorKind::ContextWindow;
        }
        if CONTENT_POLICY.iter().any(|word| words.contains(word)) {
            return ErrorKind::ContentPolicy;
        }
        if words.contains("credit balance is too low") {
            return ErrorKind::Billing;
        }
    }
    ErrorKind::of_status(status)
}

/// The status behind the name of an error, where a stream tells no status.
fn status_of_type(name: &str) -> Option<u16> {
    Some(match name {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" | "rate_limit_exceeded" | "tokens" | "requests" => 429,
        "api_error" | "server_error" | "internal_server_error" => 500,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}

/// `text`, at most `most` bytes of it.
fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kind(status: u16, body: &str) -> ErrorKind {
        decode_error(Dialect::OpenAi, status, body.as_bytes()).kind
    }

    #[test]
    fn an_error_has_openais_or_anthropics_shape() {
        let error = ErrorBody::new(404, ErrorKind::NotFound, "model_not_found", "no \"x\"").with_param("model");
        let told: Value = serde_json::from_slice(&encode_error(Dialect::OpenAi, &error, "r1")).unwrap();
        let expected = json!({"message": "no \"x\"", "type": "invalid_request_error", "param": "model",
            "code": "model_not_found"});
        assert_eq!(told, json!({"error": expected}));
        let told: Value = serde_json::from_slice(&encode_error(Dialect::Anthropic, &error, "r1")).unwrap();
        let expected = json!({"type": "not_found_error", "message": "no \"x\""});
        assert_eq!(told, json!({"type": "error", "error": expected, "request_id": "r1"}));
    }

    #[test]
    fn an_empty_code_is_the_status_and_a_type_may_be_given() {
        let error = ErrorBody::new(403, ErrorKind::Permission, "", "no").with_type("key_model_access_denied");
        let told: Value = serde_json::from_slice(&encode_error(Dialect::OpenAi, &error, "")).unwrap();
        let expected = json!({"message": "no", "type": "key_model_access_denied", "param": null, "code": "403"});
        assert_eq!(told["error"], expected);
    }

    #[test]
    fn types_follow_the_status_of_an_upstream() {
        let cases = [
            (400, "invalid_request_error", "invalid_request_error"),
            (401, "authentication_error", "authentication_error"),
            (403, "permission_error", "permission_error"),
            (404, "invalid_request_error", "not_found_error"),
            (408, "invalid_request_error", "timeout_error"),
            (413, "invalid_request_error", "request_too_large"),
            (422, "invalid_request_error", "invalid_request_error"),
            (429, "throttling_error", "rate_limit_error"),
            (500, "internal_server_error", "api_error"),
            (502, "internal_server_error", "api_error"),
            (503, "internal_server_error", "overloaded_error"),
            (529, "internal_server_error", "overloaded_error"),
        ];
        for (status, openai, anthropic) in cases {
            let kind = ErrorKind::of_status(status);
            assert_eq!((kind.openai_type(status), kind.anthropic_type(status)), (openai, anthropic), "{status}");
        }
        assert_eq!(ErrorKind::BudgetExceeded.openai_type(429), "budget_exceeded");
        assert_eq!(ErrorKind::BudgetExceeded.anthropic_type(429), "rate_limit_error");
    }

    #[test]
    fn a_full_context_window_is_known_by_code_or_words() {
        let bodies = [
            r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 1 + 2 > 2"}}"#,
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000","type":"BadRequestError","param":null,"code":400}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error","n_ctx":512}}"#,
            r#"{"error":{"message":"The decoder prompt (length 9) is longer than the maximum model length of 8."}}"#,
            r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8)."}}]"#,
            "This model's maximum context length is 8192 tokens",
        ];
        for body in bodies {
            assert_eq!(kind(400, body), ErrorKind::ContextWindow, "{body}");
            assert_eq!(kind(429, body), ErrorKind::RateLimit, "only a refused request is read for words: {body}");
        }
    }

    #[test]
    fn a_content_filter_is_known_by_code_or_words() {
        let bodies = [
            r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            r#"{"error":{"message":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            r#"{"error":{"message":"Your request was rejected as a result of our safety system.","code":"content_policy_violation"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}"#,
            r#"{"error":{"message":"Invalid prompt: your prompt was flagged as potentially violating our usage policy.","code":"invalid_prompt"}}"#,
        ];
        for body in bodies {
            assert_eq!(kind(400, body), ErrorKind::ContentPolicy, "{body}");
        }
    }

    #[test]
    fn an_empty_account_is_not_a_rate_limit() {
        assert_eq!(kind(429, r#"{"error":{"message":"x","code":"insufficient_quota"}}"#), ErrorKind::Billing);
        let anthropic =
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#;
        assert_eq!(kind(400, anthropic), ErrorKind::Billing);
        assert_eq!(kind(402, ""), ErrorKind::Billing);
    }

    #[test]
    fn a_message_is_found_in_any_vendors_shape() {
        let cases = [
            (r#"{"error":{"message":"a","param":"p","code":12}}"#, "a", Some("12"), Some("p")),
            (r#"{"error":"a"}"#, "a", None, None),
            (r#"{"message":"a"}"#, "a", None, None),
            (r#"{"detail":"a"}"#, "a", None, None),
            (r#"{"detail":[{"loc":["x"],"msg":"a","type":"missing"}]}"#, "a", Some("missing"), None),
            (r#"{"errors":[{"message":"a"}]}"#, "a", None, None),
            ("upstream connect error\nmore", "upstream connect error", None, None),
            ("<html><body>nginx</body></html>", "the provider answered with status 502 and no message", None, None),
            ("", "the provider answered with status 502 and no message", None, None),
            ("{\"error\":", "the provider answered with status 502 and no message", None, None),
            ("null", "the provider answered with status 502 and no message", None, None),
        ];
        for (body, message, code, param) in cases {
            let error = decode_error(Dialect::OpenAi, 502, body.as_bytes());
            assert_eq!(
                (error.message.as_str(), error.code.as_deref(), error.param.as_deref(), error.status),
                (message, code, param, 502),
                "{body}"
            );
        }
    }

    #[test]
    fn huge_deep_and_broken_bodies_are_cut_or_passed_over() {
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(10_000));
        let error = decode_error(Dialect::Anthropic, 500, long.as_bytes());
        assert_eq!(error.message.len(), MAX_MESSAGE);
        let deep = format!("{}1{}", r#"{"error":"#.repeat(5_000), "}".repeat(5_000));
        for body in [vec![b'x'; 10 << 20], vec![b'['; 1 << 20], deep.into_bytes(), b"\xff\xfe\x00".to_vec()] {
            let error = decode_error(Dialect::Anthropic, 500, &body);
            assert_eq!(error.kind, ErrorKind::Upstream);
            assert!(error.message.len() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn a_stream_error_gets_the_status_of_its_name() {
        let cases = [
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#, 529, ErrorKind::Overloaded),
            (r#"{"error":{"message":"x","code":429}}"#, 429, ErrorKind::RateLimit),
            (r#"{"error":{"message":"x","code":"500","type":"internal_server_error"}}"#, 500, ErrorKind::Upstream),
            (r#"{"error":{"message":"x"}}"#, 200, ErrorKind::Upstream),
            (
                r#"{"error":{"message":"prompt is too long","type":"invalid_request_error"}}"#,
                400,
                ErrorKind::ContextWindow,
            ),
        ];
        for (chunk, status, kind) in cases {
            let error = decode_stream_error(chunk);
            assert_eq!((error.status, error.kind), (status, kind), "{chunk}");
            assert!(ErrorBody::from(&error).status >= 400);
        }
    }

    #[test]
    fn a_providers_error_is_told_on_with_the_code_that_clients_act_on() {
        let cases = [
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}"#,
                "context_length_exceeded",
            ),
            (
                400,
                r#"{"error":{"message":"Output blocked by content filtering policy","type":"api_error"}}"#,
                "content_policy_violation",
            ),
            (400, r#"{"error":{"message":"x","code":"content_filter"}}"#, "content_filter"),
            (429, r#"{"error":{"message":"x","type":"rate_limit_error"}}"#, ""),
            (404, r#"{"error":{"message":"x","code":"model_not_found"}}"#, "model_not_found"),
        ];
        for (status, body, code) in cases {
            let told = ErrorBody::from(&decode_error(Dialect::OpenAi, status, body.as_bytes()));
            assert_eq!((told.status, told.code.as_str()), (status, code), "{body}");
        }
    }
}
