//! Third stage: what is asked. Reads the body into one buffer (bounded in size, time and total memory), scans it once,
//! and gathers the options that clients set by header. Nothing here knows which deployment will serve.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use tollgate_dialects::estimate::body_tokens;
use tollgate_dialects::head::{self, Head, Operation};
use tollgate_dialects::json::{self, Kind};

use crate::core::{BodyShare, Core};
use crate::error::{GatewayError, Result};
use crate::server::{BodyUnread, RequestBody};

/// A decoded request.
pub struct Call {
    pub operation: Operation,
    pub body: Bytes,
    pub head: Head,
    /// About how many tokens the input has.
    pub input_estimate: u64,
    pub stream: bool,
    /// As the client wrote it: in the path (Azure and engines), which wins over the body.
    pub model: Option<Box<str>>,
    pub service_tier: Option<Box<str>>,
    /// Names the model may be replaced by, in the client's own words.
    pub fallbacks: Vec<String>,
    pub options: Options,
    /// `anthropic-beta` and `anthropic-version`, forwarded as they are.
    pub forwarded: Vec<(HeaderName, http::HeaderValue)>,
    /// Kept for conditions on headers.
    pub headers: HeaderMap,
    pub memory: BodyShare,
}

/// What clients may set by `x-litellm-*` headers (LiteLLM AUTH-2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub timeout: Option<Duration>,
    pub stream_timeout: Option<Duration>,
    pub num_retries: Option<u32>,
    pub tags: Vec<String>,
    pub end_user: Option<String>,
    /// The client's own id for the call.
    pub call_id: Option<http::HeaderValue>,
    pub keepalive: Option<Duration>,
}

/// Characters of a client's field name that an error repeats.
const MAX_SHOWN_NAME: usize = 64;

/// The longest timeout a client may ask for: a day.
const MAX_TIMEOUT_SECONDS: f64 = 86_400.0;

impl Options {
    /// Reads the headers; what cannot be read is as if it were not there.
    pub fn read(headers: &HeaderMap) -> Options {
        let mut options = Options::default();
        for (name, value) in headers {
            let Some(option) = name.as_str().strip_prefix("x-litellm-") else { continue };
            let text = header_text(value.as_bytes());
            let text = text.trim();
            match option {
                "timeout" => options.timeout = seconds(text),
                "stream-timeout" => options.stream_timeout = seconds(text),
                "num-retries" => options.num_retries = text.parse().ok(),
                "tags" => {
                    options.tags =
                        text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
                }
                "end-user-id" | "customer-id" if !text.is_empty() => options.end_user = Some(text.to_owned()),
                "call-id" if (1..=128).contains(&text.len()) => options.call_id = Some(value.clone()),
                "keepalive-seconds" => {
                    options.keepalive = seconds(text).filter(|every| *every >= Duration::from_secs(1))
                }
                _ => {}
            }
        }
        options
    }
}

/// The text of a header: UTF-8, else Latin-1, which any bytes are (RFC 9110, 5.5). A name that is not ASCII is a name.
pub fn header_text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (seconds > 0.0 && seconds <= MAX_TIMEOUT_SECONDS).then(|| Duration::from_secs_f64(seconds))
}

/// Reads and scans a request.
///
/// # Errors
/// 400 for what is not the operation's JSON, 408, 413, 415, 503 when bodies fill the memory set aside for them.
/// Cancelling drops what was read.
pub async fn decode(
    core: &Rc<Core>,
    operation: Operation,
    path_model: Option<String>,
    headers: HeaderMap,
    body: RequestBody,
) -> Result<Box<Call>> {
    if let Some(encoding) = headers.get(http::header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
        return Err(GatewayError::EncodingUnsupported { encoding }.into());
    }
    let (body, memory) = read_body(core, body).await?;
    scan(operation, path_model, headers, body, memory)
}

/// What a body that was read asks for.
///
/// # Errors
/// 400 for what is not the operation's JSON.
pub fn scan(
    operation: Operation,
    path_model: Option<String>,
    headers: HeaderMap,
    body: Bytes,
    memory: BodyShare,
) -> Result<Box<Call>> {
    let (head, body) = outline(operation, body)?;
    // Clients choose neither where a call goes nor with which credential, and stage no faults (AUTH-4, AUTH-5).
    if let Some(field) = head.api_base.or(head.base_url).or(head.api_key).or(head.mock_testing) {
        let name = String::from_utf8_lossy(Head::key_of(field, &body));
        return Err(GatewayError::ParameterRefused { param: name.chars().take(MAX_SHOWN_NAME).collect() }.into());
    }
    let mut forwarded = Vec::new();
    if matches!(operation, Operation::Messages | Operation::CountTokens) {
        for name in ["anthropic-version", "anthropic-beta"] {
            let name = HeaderName::from_static(name);
            forwarded.extend(headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    let mut options = Options::read(&headers);
    if head.num_retries.is_some() || head.timeout.is_some() {
        options.num_retries =
            options.num_retries.or(head.num_retries_value.map(|retries| retries.min(u64::from(u32::MAX)) as u32));
        let timeout = head.timeout.and_then(|field| std::str::from_utf8(field.of(&body)).ok());
        options.timeout = options.timeout.or(timeout.and_then(seconds));
    }
    let stream = head.streams();
    let model = path_model.map(String::into_boxed_str).or_else(|| head.model(&body).map(|model| model.into()));
    let service_tier = head.service_tier(&body).map(|tier| tier.into());
    let fallbacks = head.fallbacks.map(|list| json::strings(list.of(&body))).unwrap_or_default();
    let fallbacks = fallbacks.into_iter().map(|name| name.into_owned()).collect();
    let input_estimate = body_tokens(&body, &head.modalities);
    Ok(Box::new(Call {
        operation,
        input_estimate,
        stream,
        model,
        service_tier,
        fallbacks,
        head,
        options,
        forwarded,
        headers,
        memory,
        body,
    }))
}

/// The outline of a body, and the body that it is of: with words spelled out that hid behind escapes. The provider reads
/// such words all the same, and so must all that looks for words.
fn outline(operation: Operation, body: Bytes) -> Result<(Head, Bytes)> {
    let read = |body: &[u8]| -> Result<Head> {
        head::read_head(operation, body).map_err(|error| {
            GatewayError::BadRequest { param: error.param().to_owned(), message: error.message() }.into()
        })
    };
    let head = read(&body)?;
    if !head.is_veiled {
        return Ok((head, body));
    }
    let body = Bytes::from(json::spelled_out(&body));
    Ok((read(&body)?, body))
}

async fn read_body(core: &Rc<Core>, mut body: RequestBody) -> Result<(Bytes, BodyShare)> {
    let settings = &core.shared.settings;
    let limit_bytes = settings.max_body_bytes;
    let too_large = || Box::new(GatewayError::BodyTooLarge { limit_bytes });
    let full = || Box::new(GatewayError::Overloaded { reason: "memory for request bodies" });
    let expected = body.expected();
    if expected.is_some_and(|length| length > limit_bytes as u64) {
        return Err(too_large());
    }
    let mut memory = BodyShare::take(&core.shared, expected.unwrap_or(0) as usize).ok_or_else(full)?;
    let mut first = Bytes::new();
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data(settings.body_idle_timeout).await.transpose() {
        let data = data.map_err(|unread| match unread {
            BodyUnread::TooSlow => GatewayError::BodyTimeout,
            BodyUnread::Broken => GatewayError::BodyBroken,
        })?;
        let have = first.len() + buffer.len();
        if have + data.len() > limit_bytes {
            return Err(too_large());
        }
        if expected.is_none() && !memory.grow(data.len()) {
            return Err(full());
        }
        if have == 0 {
            // Bodies of known length come whole: kept as they were received.
            first = data;
            continue;
        }
        buffer.extend_from_slice(&std::mem::take(&mut first));
        buffer.extend_from_slice(&data);
    }
    let body = if buffer.is_empty() { first } else { buffer.freeze() };
    Ok((body, memory))
}

impl Call {
    /// The name of the model as the client wrote it.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Who the client says is behind the call.
    pub fn end_user(&self) -> Option<Cow<'_, str>> {
        let named = self.options.end_user.as_deref().map(Cow::Borrowed);
        named.or_else(|| self.head.end_user(&self.body))
    }

    /// Whether the body has this field, and anything in it. `outer.inner`: one within another.
    pub fn has_field(&self, name: &str) -> bool {
        has_field(&self.body, name)
    }

    /// Whether the client lets the model search the web, which costs by the search.
    pub fn may_search(&self) -> bool {
        let tools = self.head.tools.map(|tools| tools.of(&self.body)).unwrap_or_default();
        let content = self.head.content.map_or(0..0, |content| content.value.range());
        let around = [&self.body[..content.start], &self.body[content.end..]];
        memchr::memmem::find(tools, b"web_search").is_some()
            || around.iter().any(|part| memchr::memmem::find(part, b"\"web_search_options\"").is_some())
    }
}

fn has_field(body: &[u8], name: &str) -> bool {
    let (name, inner) = name.split_once('.').map_or((name, None), |(name, inner)| (name, Some(inner)));
    if memchr::memmem::find(body, name.as_bytes()).is_none() {
        return false;
    }
    let mut found = false;
    // The body was read before.
    let _ = json::fields(body, |key, field| {
        let is_empty = matches!(field.kind, Kind::Null | Kind::False) || json::is_empty_array(field.of(body));
        let has_inner = || inner.is_none_or(|inner| field.kind == Kind::Object && has_field(field.of(body), inner));
        found |= key == name.as_bytes() && !is_empty && has_inner();
    });
    found
}

/// Web searches one call may make when it names a search tool without a number of its own.
const WEB_SEARCHES: u64 = 10;

impl Call {
    /// How many searches the call may cost at most. `or_else`: its deployment adds the tool.
    pub fn searches(&self, or_else: bool) -> u64 {
        if !self.may_search() && !or_else {
            return 0;
        }
        let tools = self.head.tools.map(|tools| tools.of(&self.body)).unwrap_or_default();
        most_uses(tools).max(WEB_SEARCHES)
    }
}

/// Sum of all `max_uses` in a list of tools.
fn most_uses(tools: &[u8]) -> u64 {
    const NAME: &[u8] = b"\"max_uses\"";
    memchr::memmem::find_iter(tools, NAME)
        .filter_map(|at| tools[at + NAME.len()..].trim_ascii_start().strip_prefix(b":"))
        .map(|value| value.trim_ascii_start())
        .filter_map(|value| json::unsigned(&value[..value.iter().take_while(|byte| byte.is_ascii_digit()).count()]))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_tool_says_how_often_it_may_be_used() {
        for (tools, uses) in [
            (&br#"[{"type":"web_search_20250305","name":"web_search","max_uses":50}]"#[..], 50),
            (br#"[{"max_uses" : 5 },{"max_uses":7}]"#, 12),
            (br#"[{"type":"web_search_20250305"},{"max_uses":null},{"description":"\"max_uses\":9"}]"#, 0),
            (b"", 0),
        ] {
            assert_eq!(most_uses(tools), uses, "{}", String::from_utf8_lossy(tools));
        }
    }

    #[test]
    fn names_in_headers_are_utf_8_or_latin_1() {
        let mut headers = HeaderMap::new();
        headers.insert("x-litellm-end-user-id", HeaderValue::from_bytes("José 你好".as_bytes()).unwrap());
        headers.insert("x-litellm-tags", HeaderValue::from_bytes(b"gr\xf6\xdfe, plain").unwrap());
        let options = Options::read(&headers);
        assert_eq!(
            (options.end_user.as_deref(), &*options.tags),
            (Some("José 你好"), &["größe".into(), "plain".into()][..])
        );
        headers.insert("x-litellm-customer-id", HeaderValue::from_bytes(b"Jos\xe9").unwrap());
        assert_eq!(Options::read(&headers).end_user.as_deref(), Some("José"));
    }

    #[test]
    fn a_field_is_there_at_the_top_with_something_in_it() {
        for (body, expected) in [
            (r#"{"models":["x"]}"#, true),
            (r#"{"a":1,"models":{}}"#, true),
            (r#"{"models":[],"models":["x"]}"#, true),
            (r#"{"models":null}"#, false),
            (r#"{"models":[ ]}"#, false),
            (r#"{"models":false}"#, false),
            (r#"{"metadata":{"models":["x"]},"user":"models"}"#, false),
            (r#"{"model":"x"}"#, false),
        ] {
            assert_eq!(has_field(body.as_bytes(), "models"), expected, "{body}");
        }
        for (body, expected) in [
            (r#"{"options":{"a":1,"kind":"pro"}}"#, true),
            (r#"{"options":{"a":1},"options":{"kind":"pro"}}"#, true),
            (r#"{"options":{"kind":null}}"#, false),
            (r#"{"options":"kind"}"#, false),
            (r#"{"kind":"pro","options":{}}"#, false),
        ] {
            assert_eq!(has_field(body.as_bytes(), "options.kind"), expected, "{body}");
        }
    }

    #[test]
    fn what_is_written_with_escapes_counts_as_what_it_says() {
        let part = |part: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#);
        for (written, images, files) in [
            (part(r#"{"type":"image\u005furl"}"#), 1, 0),
            (part(r#"{"typ\u0065":"image"}"#), 1, 0),
            (part(r#"{"\u0074\u0079\u0070\u0065":"\u0066ile"},{"type":"docum\u0065nt"}"#), 0, 2),
            (part(r#"{"type":"text","text":"\u00e9 \u003c \\u0061"}"#), 0, 0),
        ] {
            let (head, body) = outline(Operation::Chat, Bytes::copy_from_slice(written.as_bytes())).expect("a request");
            assert_eq!((head.modalities.images, head.modalities.files), (images, files), "{written}");
            let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
            assert_eq!(value(&body), value(written.as_bytes()));
            assert_eq!(body == written.as_bytes(), images + files == 0, "only what hides words is written anew");
        }
    }

    #[test]
    fn options_are_read_from_headers_and_nonsense_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert("x-litellm-timeout", HeaderValue::from_static("2.5"));
        headers.insert("x-litellm-num-retries", HeaderValue::from_static("0"));
        headers.insert("x-litellm-tags", HeaderValue::from_static("a, b,,"));
        headers.insert("x-litellm-stream-timeout", HeaderValue::from_static("-1"));
        headers.insert("x-litellm-end-user-id", HeaderValue::from_static("u1"));
        let options = Options::read(&headers);
        assert_eq!(
            options,
            Options {
                timeout: Some(Duration::from_millis(2500)),
                num_retries: Some(0),
                tags: vec!["a".into(), "b".into()],
                end_user: Some("u1".into()),
                ..Options::default()
            }
        );
    }
}
