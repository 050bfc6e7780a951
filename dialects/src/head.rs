//! What the gateway must know of a request body before it may be forwarded: found in one pass,
//! as spans, so that the body itself is sent on untouched.
//!
//! A field the gateway acts on must be there once and be of its type, since two readers may
//! otherwise take two meanings from one body. Every other field is the provider's business.

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use crate::json::{self, Field, JsonError, Kind, Layout, Span, Visitor};

/// Counts above this are refused: no model takes or gives as many tokens.
pub const MAX_COUNT: u64 = 1 << 31;

/// What a body asks for; taken from the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// OpenAI `chat/completions`.
    Chat,
    /// OpenAI `completions`.
    Completions,
    /// OpenAI `embeddings`.
    Embeddings,
    /// Anthropic `messages`.
    Messages,
    /// Anthropic `messages/count_tokens`.
    CountTokens,
}

impl Operation {
    /// All, in the order of their numbers.
    pub const ALL: [Operation; 5] =
        [Operation::Chat, Operation::Completions, Operation::Embeddings, Operation::Messages, Operation::CountTokens];
}

impl Operation {
    /// The field that holds what the model is to read.
    pub const fn content_field(self) -> &'static str {
        match self {
            Self::Chat | Self::Messages | Self::CountTokens => "messages",
            Self::Completions => "prompt",
            Self::Embeddings => "input",
        }
    }
}

/// Parts of a request that are not text, counted in what the model is to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modalities {
    pub images: u32,
    pub audio: u32,
    /// Documents of any kind.
    pub files: u32,
    pub videos: u32,
    /// Audio of which the request only says where it is.
    pub elsewhere: u32,
}

/// The outline of a request body. Spans are of the body it was read from; a field that is there
/// as `null` has a place but no meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// A string, or `null` where something else names the model: the path, a client's own habit.
    pub model: Option<Field>,
    pub stream: Option<Field>,
    pub stream_options: Option<Field>,
    /// `stream_options.include_usage`, where it is a boolean.
    pub include_usage: Option<bool>,
    pub max_tokens: Option<Field>,
    pub max_completion_tokens: Option<Field>,
    /// The value of `max_tokens`.
    pub max_tokens_value: Option<u64>,
    /// The value of `max_completion_tokens`.
    pub max_completion_tokens_value: Option<u64>,
    /// How many answers to each prompt; 1 unless asked otherwise.
    pub n: u32,
    /// How many answers are generated to choose from; 1 unless asked otherwise.
    pub best_of: u32,
    /// How many prompts `prompt` holds; 1 for everything but a batch of completions.
    pub prompts: u32,
    /// A text or a number.
    pub user: Option<Field>,
    /// OpenAI's heir of `user`.
    pub safety_identifier: Option<Field>,
    pub metadata: Option<Field>,
    /// LiteLLM's own, beside the `metadata` of the API.
    pub litellm_metadata: Option<Field>,
    /// LiteLLM's request tags outside `metadata`.
    pub tags: Option<Field>,
    pub service_tier: Option<Field>,
    pub fallbacks: Option<Field>,
    pub timeout: Option<Field>,
    pub num_retries: Option<Field>,
    /// The value of `num_retries`.
    pub num_retries_value: Option<u64>,
    /// `messages`, `input` or `prompt`, by the operation.
    pub content: Option<Field>,
    /// Anthropic's `system`.
    pub system: Option<Field>,
    pub tools: Option<Field>,
    /// `tools` or the older `functions` holds any.
    pub has_tools: bool,
    /// A provider address of the client's own.
    pub api_base: Option<Field>,
    /// The same under its other name.
    pub base_url: Option<Field>,
    /// A provider key of the client's own.
    pub api_key: Option<Field>,
    pub mock_response: Option<Field>,
    /// The first field that would stage a fault: `mock_testing_*` or `mock_timeout`.
    pub mock_testing: Option<Field>,
    pub modalities: Modalities,
    /// The first field that lets the provider read or run more than the body holds: `tools` that run there,
    /// `mcp_servers`, `container`, or `context_management` that has the model summarise.
    pub reaches_out: Option<&'static str>,
    /// `tools` has some by which the provider searches or reads the web itself.
    pub reads_web: bool,
    /// What the client expects the answer to be. What of it is not said is billed as output all the same.
    pub prediction: Option<Field>,
    /// The answer may be more than text: `audio`, or `modalities` that name something else.
    pub asks_for_media: bool,
    /// Some string, which may be a key, has escapes in the place of characters of words. Words that are looked for in
    /// the body are found only after [`json::spelled_out`]; nothing is counted that is written so.
    pub is_veiled: bool,
    /// Where the object opens and closes.
    pub layout: Layout,
}

impl Head {
    /// The model asked for.
    pub fn model<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        self.model?.text(body)
    }

    /// Whether the answer is to be streamed.
    pub fn streams(&self) -> bool {
        self.stream.is_some_and(|stream| stream.kind == Kind::True)
    }

    /// The most output tokens the client allows for each answer. Chat has two names for it, of which a provider may take
    /// either: the larger counts. Elsewhere the newer one means nothing.
    pub fn output_cap(&self, operation: Operation) -> Option<u64> {
        match operation {
            Operation::Chat => self.max_tokens_value.max(self.max_completion_tokens_value),
            Operation::Completions | Operation::Embeddings | Operation::Messages | Operation::CountTokens => {
                self.max_tokens_value
            }
        }
    }

    /// How many answers the provider will generate and bill.
    pub fn answers(&self) -> u64 {
        u64::from(self.n.max(self.best_of)) * u64::from(self.prompts)
    }

    /// The end user as the client names them, by the first that names anybody: `user`, `litellm_metadata.user`, Anthropic's
    /// `metadata.user_id`, `safety_identifier`.
    pub fn end_user<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        let outer = |field: Option<Field>| name(field?, body);
        let inner = |(field, object)| name(field, object);
        outer(self.user)
            .or_else(|| within(self.litellm_metadata, "user", body).and_then(inner))
            .or_else(|| within(self.metadata, "user_id", body).and_then(inner))
            .or_else(|| outer(self.safety_identifier))
    }

    /// The request's tags: `metadata.tags`, `litellm_metadata.tags`, then `tags`.
    pub fn tags<'b>(&self, body: &'b [u8]) -> Vec<Cow<'b, str>> {
        let mut tags = Vec::new();
        for metadata in [self.metadata, self.litellm_metadata] {
            if let Some((list, metadata)) = within(metadata, "tags", body) {
                tags.extend(json::strings(list.of(metadata)));
            }
        }
        if let Some(list) = self.tags {
            tags.extend(json::strings(list.of(body)));
        }
        tags
    }

    /// The service tier asked for.
    pub fn service_tier<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        self.service_tier?.text(body)
    }

    /// The value of `stream_options.include_usage` in the body, for rewriting it.
    pub fn include_usage_place(&self, body: &[u8]) -> Option<Span> {
        let options = self.stream_options.filter(|options| options.kind == Kind::Object)?;
        let [field] = json::find(options.of(body), ["include_usage"]).ok()?;
        Some(field?.value.within(options.value.start))
    }

    /// The key of `field` as the client wrote it, without quotes.
    pub fn key_of(field: Field, body: &[u8]) -> &[u8] {
        let key = &body[field.start as usize + 1..field.value.start as usize];
        let end = memchr::memrchr(b'"', key).unwrap_or(key.len());
        &key[..end]
    }
}

/// A field of a field that is an object, and the object's text.
fn within<'b>(object: Option<Field>, name: &str, body: &'b [u8]) -> Option<(Field, &'b [u8])> {
    let object = object.filter(|object| object.kind == Kind::Object)?.of(body);
    let [field] = json::find(object, [name]).ok()?;
    Some((field?, object))
}

/// A name: a text, or a number as it is written. An empty one is nobody's.
fn name(field: Field, body: &[u8]) -> Option<Cow<'_, str>> {
    let name = match field.kind {
        Kind::Number => std::str::from_utf8(field.of(body)).ok().map(Cow::Borrowed),
        _ => field.text(body),
    };
    name.filter(|name| !name.is_empty())
}

/// Why a body cannot be acted on. All are the client's to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not JSON, or not an object.
    #[error("request body is not a valid JSON object: {0}")]
    Json(JsonError),
    /// A field the gateway acts on is there twice.
    #[error("field `{0}` is given more than once")]
    Duplicate(&'static str),
    /// A field the gateway acts on is of another type than its API says.
    #[error("field `{field}` must be {expected}")]
    WrongType { field: &'static str, expected: &'static str },
    /// There is nothing for the model to read.
    #[error("field `{0}` is required")]
    Missing(&'static str),
}

impl HeadError {
    /// The text for the client.
    pub fn message(&self) -> String {
        self.to_string()
    }

    /// The part of the request at fault, as error bodies name it.
    pub const fn param(&self) -> &'static str {
        match self {
            Self::Json(_) => "request_body",
            Self::Duplicate(field) | Self::Missing(field) | Self::WrongType { field, .. } => field,
        }
    }
}

/// Reads the outline of a request body.
///
/// # Errors
/// The body is no JSON object, repeats or mistypes a field the gateway acts on, or has nothing
/// for the model to read.
pub fn read_head(operation: Operation, body: &[u8]) -> Result<Head, HeadError> {
    let mut reader = Reader {
        body,
        operation,
        head: Head { n: 1, best_of: 1, prompts: 1, ..Head::default() },
        n: None,
        best_of: None,
        counting: Counting::default(),
        error: None,
    };
    let layout = json::scan_object(body, &mut reader).map_err(HeadError::Json)?;
    let Reader { mut head, error, .. } = reader;
    let Some(layout) = layout else { return Err(error.expect("only an error breaks the scan off")) };
    head.layout = layout;
    let Some(content) = head.content else { return Err(HeadError::Missing(operation.content_field())) };
    if operation == Operation::Completions && content.kind == Kind::Array {
        head.prompts = count_prompts(content.of(body));
    }
    Ok(head)
}

/// An array of numbers is one prompt in tokens; of anything else each element is a prompt.
fn count_prompts(array: &[u8]) -> u32 {
    let mut prompts = 0u32;
    // The scan has checked the array.
    let _ = json::elements(array, |_, kind| {
        if kind == Kind::Number {
            return ControlFlow::Break(());
        }
        prompts = prompts.saturating_add(1);
        ControlFlow::Continue(())
    });
    prompts.max(1)
}

/// Counts the parts of what the model reads by the words that follow the key `type`, and by keys, for parts that have no
/// `type`.
#[derive(Default)]
struct Counting {
    /// Where a `type` was just passed.
    type_at: Option<u32>,
    /// Where an `audio` was just passed.
    audio_at: Option<u32>,
    /// Of the outermost field that is being passed.
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    typed: Modalities,
    keyed: Modalities,
    /// A type that would be a tool's, and of one that the provider runs.
    server_tool: bool,
    /// The same, of one that searches or reads the web.
    web_tool: bool,
}

/// Where the types of tools stand: in objects in a list in the body.
const TOOL_DEPTH: u32 = 3;

struct Reader<'b> {
    body: &'b [u8],
    operation: Operation,
    head: Head,
    n: Option<Field>,
    best_of: Option<Field>,
    counting: Counting,
    error: Option<HeadError>,
}

impl Visitor for Reader<'_> {
    #[inline(always)]
    fn field(&mut self, key: &[u8], field: Field) -> ControlFlow<()> {
        match self.take(key, field) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    #[inline(always)]
    fn short(&mut self, text: &[u8], depth: u32, is_key: bool) {
        if is_key {
            self.counting.key(text, depth);
        } else if self.counting.type_at == Some(depth) {
            self.counting.count(text, depth);
        }
    }

    #[inline(always)]
    fn veiled(&mut self) {
        self.head.is_veiled = true;
    }
}

impl Counting {
    #[inline(always)]
    fn key(&mut self, key: &[u8], depth: u32) {
        self.end_type();
        if let Some(at) = self.audio_at.take()
            && depth == at + 1
        {
            // An object: what was said before, by its id.
            self.seen.keyed.elsewhere += 1;
        }
        let keyed = &mut self.seen.keyed;
        let counter = match key {
            b"type" => {
                self.type_at = Some(depth);
                return;
            }
            b"audio" => {
                self.audio_at = Some(depth);
                return;
            }
            b"image_url" => &mut keyed.images,
            b"input_audio" => &mut keyed.audio,
            b"audio_url" => &mut keyed.elsewhere,
            b"file" | b"file_url" => &mut keyed.files,
            b"video_url" => &mut keyed.videos,
            _ => return,
        };
        *counter = counter.saturating_add(1);
    }

    fn count(&mut self, word: &[u8], depth: u32) {
        self.type_at = None;
        let Seen { typed, server_tool, web_tool, .. } = &mut self.seen;
        let counter = match word {
            b"image_url" | b"image" | b"input_image" => &mut typed.images,
            b"input_audio" => &mut typed.audio,
            b"audio" | b"audio_url" => &mut typed.elsewhere,
            b"document" | b"file" | b"input_file" | b"file_url" | b"container_upload" => &mut typed.files,
            b"video_url" | b"video" | b"input_video" => &mut typed.videos,
            _ => {
                if depth == TOOL_DEPTH && !is_run_by_clients(word) {
                    *(if is_web_tool(word) { web_tool } else { server_tool }) = true;
                }
                return;
            }
        };
        *counter = counter.saturating_add(1);
    }

    /// A `type` whose word was not told is longer than those that are known.
    #[inline(always)]
    fn end_type(&mut self) {
        self.seen.server_tool |= self.type_at.take() == Some(TOOL_DEPTH);
    }

    /// What was seen of the outermost field that ends.
    #[inline(always)]
    fn end_field(&mut self) -> Seen {
        self.end_type();
        self.audio_at = None;
        std::mem::take(&mut self.seen)
    }
}

/// Whether a tool of this type is run by the client, or costs no more than is held: what looks for tools reads only those
/// of the body.
fn is_run_by_clients(kind: &[u8]) -> bool {
    const KINDS: [&[u8]; 5] = [b"bash", b"text_editor", b"computer", b"memory", b"tool_search_tool"];
    matches!(kind, b"function" | b"custom") || KINDS.iter().any(|known| is_version_of(kind, known))
}

/// Whether a tool of this type searches or reads the web at the provider.
pub fn is_web_tool(kind: &[u8]) -> bool {
    is_version_of(kind, b"web_search") || is_version_of(kind, b"web_fetch")
}

/// With the day of its version, or as it is.
fn is_version_of(kind: &[u8], known: &[u8]) -> bool {
    kind.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest[0] == b'_')
}

impl Reader<'_> {
    fn take(&mut self, key: &[u8], field: Field) -> Result<(), HeadError> {
        let Seen { typed: mut seen, keyed, server_tool, web_tool } = self.counting.end_field();
        let content_field = self.operation.content_field();
        let head = &mut self.head;
        match key {
            b"model" => {
                once("model", &mut head.model, field)?;
                let is_said = field.text(self.body).is_some();
                if is_said || field.kind == Kind::Null { Ok(()) } else { wrong("model", "a string") }
            }
            b"messages" | b"prompt" | b"input" if key == content_field.as_bytes() => {
                once(content_field, &mut head.content, field)?;
                if self.operation == Operation::Chat {
                    // Elsewhere a part must have its type, and a tool's input may have any key.
                    seen = most(seen, keyed);
                }
                add(&mut head.modalities, seen);
                match (field.kind, self.operation) {
                    (Kind::Array, _) | (Kind::String, Operation::Completions | Operation::Embeddings) => Ok(()),
                    (_, Operation::Completions | Operation::Embeddings) => wrong(content_field, "a string or an array"),
                    (_, Operation::Chat | Operation::Messages | Operation::CountTokens) => {
                        wrong(content_field, "an array")
                    }
                }
            }
            b"system" => {
                add(&mut head.modalities, seen);
                once("system", &mut head.system, field)
            }
            b"stream" => {
                once("stream", &mut head.stream, field)?;
                match field.kind {
                    Kind::True | Kind::False | Kind::Null => Ok(()),
                    Kind::Number | Kind::String | Kind::Array | Kind::Object => wrong("stream", "a boolean"),
                }
            }
            b"stream_options" => {
                once("stream_options", &mut head.stream_options, field)?;
                object_or_null("stream_options", field)?;
                head.include_usage = include_usage(field, self.body)?;
                Ok(())
            }
            b"max_tokens" => {
                once("max_tokens", &mut head.max_tokens, field)?;
                head.max_tokens_value = count("max_tokens", field, self.body)?;
                Ok(())
            }
            b"max_completion_tokens" => {
                once("max_completion_tokens", &mut head.max_completion_tokens, field)?;
                head.max_completion_tokens_value = count("max_completion_tokens", field, self.body)?;
                Ok(())
            }
            b"n" => {
                once("n", &mut self.n, field)?;
                head.n = positive("n", field, self.body)?;
                Ok(())
            }
            b"best_of" => {
                once("best_of", &mut self.best_of, field)?;
                head.best_of = positive("best_of", field, self.body)?;
                Ok(())
            }
            b"num_retries" => {
                once("num_retries", &mut head.num_retries, field)?;
                head.num_retries_value = count("num_retries", field, self.body)?;
                Ok(())
            }
            b"user" => {
                once("user", &mut head.user, field)?;
                if field.kind == Kind::Number { Ok(()) } else { string_or_null("user", field) }
            }
            b"safety_identifier" => once("safety_identifier", &mut head.safety_identifier, field),
            b"litellm_metadata" => once("litellm_metadata", &mut head.litellm_metadata, field),
            b"metadata" => {
                once("metadata", &mut head.metadata, field)?;
                object_or_null("metadata", field)
            }
            b"service_tier" => {
                once("service_tier", &mut head.service_tier, field)?;
                string_or_null("service_tier", field)
            }
            b"tools" | b"functions" => {
                head.has_tools |= field.kind == Kind::Array && !json::is_empty_array(field.of(self.body));
                if server_tool {
                    head.reaches_out.get_or_insert("tools");
                }
                head.reads_web |= web_tool;
                if key == b"tools" { once("tools", &mut head.tools, field) } else { Ok(()) }
            }
            b"mcp_servers" | b"container" => {
                if field.kind != Kind::Null && !json::is_empty_array(field.of(self.body)) {
                    head.reaches_out.get_or_insert(if key == b"container" { "container" } else { "mcp_servers" });
                }
                Ok(())
            }
            b"context_management" => {
                if memchr::memmem::find(field.of(self.body), b"\"compact").is_some() {
                    head.reaches_out.get_or_insert("context_management");
                }
                Ok(())
            }
            b"prediction" => once("prediction", &mut head.prediction, field),
            b"modalities" => {
                head.asks_for_media |= field.kind != Kind::Null && !is_text_alone(field, self.body);
                Ok(())
            }
            b"audio" => {
                head.asks_for_media |= field.kind != Kind::Null;
                Ok(())
            }
            b"tags" => once("tags", &mut head.tags, field),
            b"fallbacks" => once("fallbacks", &mut head.fallbacks, field),
            b"timeout" => once("timeout", &mut head.timeout, field),
            b"api_base" => once("api_base", &mut head.api_base, field),
            b"base_url" => once("base_url", &mut head.base_url, field),
            b"api_key" => once("api_key", &mut head.api_key, field),
            b"mock_response" => once("mock_response", &mut head.mock_response, field),
            _ => {
                if key.starts_with(b"mock_t") && (key.starts_with(b"mock_testing_") || key == b"mock_timeout") {
                    head.mock_testing.get_or_insert(field);
                }
                Ok(())
            }
        }
    }
}

/// Whether a list of modalities has text and nothing else.
#[cold]
fn is_text_alone(field: Field, body: &[u8]) -> bool {
    let list = field.of(body);
    let mut alone = true;
    let read = json::elements(list, |span, _| {
        alone &= span.of(list) == b"\"text\"";
        ControlFlow::Continue(())
    });
    alone && read.is_ok()
}

fn most(one: Modalities, other: Modalities) -> Modalities {
    Modalities {
        images: one.images.max(other.images),
        audio: one.audio.max(other.audio),
        files: one.files.max(other.files),
        videos: one.videos.max(other.videos),
        elsewhere: one.elsewhere.max(other.elsewhere),
    }
}

fn add(sum: &mut Modalities, part: Modalities) {
    let Modalities { images, audio, files, videos, elsewhere } = part;
    sum.images = sum.images.saturating_add(images);
    sum.audio = sum.audio.saturating_add(audio);
    sum.files = sum.files.saturating_add(files);
    sum.videos = sum.videos.saturating_add(videos);
    sum.elsewhere = sum.elsewhere.saturating_add(elsewhere);
}

#[inline(always)]
fn once(name: &'static str, slot: &mut Option<Field>, field: Field) -> Result<(), HeadError> {
    if slot.replace(field).is_some() { Err(HeadError::Duplicate(name)) } else { Ok(()) }
}

#[cold]
fn wrong<T>(field: &'static str, expected: &'static str) -> Result<T, HeadError> {
    Err(HeadError::WrongType { field, expected })
}

fn string_or_null(name: &'static str, field: Field) -> Result<(), HeadError> {
    if matches!(field.kind, Kind::String | Kind::Null) { Ok(()) } else { wrong(name, "a string") }
}

fn object_or_null(name: &'static str, field: Field) -> Result<(), HeadError> {
    if matches!(field.kind, Kind::Object | Kind::Null) { Ok(()) } else { wrong(name, "an object") }
}

/// A count as the providers take it: plain digits, not beyond [`MAX_COUNT`].
fn count(name: &'static str, field: Field, body: &[u8]) -> Result<Option<u64>, HeadError> {
    match field.kind {
        Kind::Null => Ok(None),
        Kind::Number => match json::unsigned(field.of(body)) {
            Some(number) if number <= MAX_COUNT => Ok(Some(number)),
            Some(_) | None => wrong(name, "an integer from 0 to 2147483648"),
        },
        Kind::True | Kind::False | Kind::String | Kind::Array | Kind::Object => wrong(name, "an integer"),
    }
}

/// How many of something; 1 where it is not said.
fn positive(name: &'static str, field: Field, body: &[u8]) -> Result<u32, HeadError> {
    match count(name, field, body)? {
        None => Ok(1),
        Some(0) => wrong(name, "a positive integer"),
        Some(number) => Ok(number as u32),
    }
}

fn include_usage(options: Field, body: &[u8]) -> Result<Option<bool>, HeadError> {
    if options.kind != Kind::Object {
        return Ok(None);
    }
    let mut found = None;
    let mut repeated = false;
    let scanned = json::fields(options.of(body), |key, field| {
        if key == b"include_usage" {
            repeated |= found.replace(field.kind).is_some();
        }
    });
    debug_assert!(scanned.is_ok(), "checked with the body");
    match found {
        _ if repeated => Err(HeadError::Duplicate("stream_options.include_usage")),
        None | Some(Kind::Null) => Ok(None),
        Some(Kind::True) => Ok(Some(true)),
        Some(Kind::False) => Ok(Some(false)),
        Some(_) => wrong("stream_options.include_usage", "a boolean"),
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: &str) -> Result<Head, HeadError> {
        read_head(Operation::Chat, body.as_bytes())
    }

    fn of(field: Option<Field>, body: &str) -> Option<&str> {
        field.map(|field| &body[field.value.range()])
    }

    #[test]
    fn a_full_chat_request_is_outlined() {
        let body = r#" {"mod\u0065l":"gpt\u002d4o","messages":[{"role":"user","content":"hi"}],"stream":true,
            "stream_options":{"x":1,"include_usage":false},"max_tokens":7,"max_completion_tokens":9,"n":2,
            "user":"u1","metadata":{"tags":["a","b\n"],"user_id":"m1"},"tags":["c"],"service_tier":"flex",
            "fallbacks":["x"],"timeout":1.5,"num_retries":3,"tools":[{}],"unknown":{"model":"y"}} "#;
        let head = chat(body).expect("a request");
        assert_eq!(head.model(body.as_bytes()).as_deref(), Some("gpt-4o"));
        assert_eq!(of(head.model, body), Some(r#""gpt\u002d4o""#));
        assert!(head.streams() && head.has_tools);
        assert_eq!(of(head.stream, body), Some("true"));
        assert_eq!(head.include_usage, Some(false));
        assert_eq!(&body[head.include_usage_place(body.as_bytes()).expect("there").range()], "false");
        assert_eq!((head.max_tokens_value, head.max_completion_tokens_value), (Some(7), Some(9)));
        assert_eq!((head.output_cap(Operation::Chat), head.n, head.answers()), (Some(9), 2, 2));
        assert_eq!(head.end_user(body.as_bytes()).as_deref(), Some("u1"));
        assert_eq!(head.tags(body.as_bytes()), ["a", "b\n", "c"]);
        assert_eq!(head.service_tier(body.as_bytes()).as_deref(), Some("flex"));
        assert_eq!(of(head.fallbacks, body), Some(r#"["x"]"#));
        assert_eq!((of(head.timeout, body), head.num_retries_value), (Some("1.5"), Some(3)));
        assert_eq!(of(head.content, body), Some(r#"[{"role":"user","content":"hi"}]"#));
        assert_eq!(&body[head.layout.open as usize..=head.layout.open as usize], "{");
        assert_eq!(&body[head.layout.close as usize..], "} ");
        assert_eq!(head.layout.fields, 16);
        assert_eq!(Head::key_of(head.model.expect("there"), body.as_bytes()), br"mod\u0065l");
    }

    #[test]
    fn what_is_not_said_has_no_meaning() {
        let body = r#"{"model":null,"messages":[],"stream":null,"stream_options":null,"max_tokens":null,"n":null,"user":null,
            "metadata":null,"service_tier":null,"tools":[]}"#;
        let head = chat(body).expect("a request");
        assert_eq!((of(head.model, body), head.model(body.as_bytes())), (Some("null"), None));
        assert!(!head.streams() && !head.has_tools && head.stream_options.is_some());
        assert_eq!((head.include_usage, head.n, head.best_of, head.prompts), (None, 1, 1, 1));
        assert_eq!(head.output_cap(Operation::Chat), None);
        assert_eq!(head.end_user(body.as_bytes()), None);
        assert_eq!(head.modalities, Modalities::default());
    }

    #[test]
    fn an_end_user_is_who_is_named_first_and_tags_add_up() {
        let (user, own) = (r#""user":"u""#, r#""litellm_metadata":{"user":"l","tags":["b"]}"#);
        let (metadata, heir) = (r#""metadata":{"user_id":"m","tags":["a"]}"#, r#""safety_identifier":"s""#);
        for (fields, expected, tags) in [
            (format!("{heir},{metadata},{own},{user}"), Some("u"), &["a", "b"][..]),
            (format!("{heir},{metadata},{own}"), Some("l"), &["a", "b"]),
            (format!("{heir},{metadata}"), Some("m"), &["a"]),
            (heir.to_owned(), Some("s"), &[]),
            (r#""user":17"#.to_owned(), Some("17"), &[]),
            (r#""metadata":{"user_id":-4.5}"#.to_owned(), Some("-4.5"), &[]),
            // What names nobody is passed over.
            (format!(r#""user":"",{own}"#), Some("l"), &["b"]),
            (format!(r#""user":null,"litellm_metadata":"x","metadata":{{"user_id":{{}}}},{heir}"#), Some("s"), &[]),
            (r#""litellm_metadata":{"user":null,"tags":"c"},"safety_identifier":true"#.to_owned(), None, &[]),
        ] {
            let body = format!(r#"{{"messages":[],{fields}}}"#);
            let head = chat(&body).expect("a request");
            assert_eq!(head.end_user(body.as_bytes()).as_deref(), expected, "{fields}");
            assert_eq!(head.tags(body.as_bytes()), tags, "{fields}");
        }
    }

    #[test]
    fn the_cap_is_what_the_operation_knows_under_that_name() {
        let (older, newer) = (r#""max_tokens":400"#.to_owned(), r#""max_completion_tokens":1"#.to_owned());
        let nulls = r#""max_tokens":null,"max_completion_tokens":1"#.to_owned();
        let both = format!("{newer},{older}");
        let larger = r#""max_tokens":7,"max_completion_tokens":900"#.to_owned();
        for (fields, of_chat, of_others) in [
            (older, Some(400), Some(400)),
            (newer, Some(1), None),
            (nulls, Some(1), None),
            (both, Some(400), Some(400)),
            (larger, Some(900), Some(7)),
        ] {
            for operation in [Operation::Chat, Operation::Completions, Operation::Messages] {
                let body = format!(r#"{{"{}":["x"],{fields}}}"#, operation.content_field());
                let head = read_head(operation, body.as_bytes()).expect("a request");
                let expected = if operation == Operation::Chat { of_chat } else { of_others };
                assert_eq!(head.output_cap(operation), expected, "{operation}: {body}");
            }
        }
    }

    #[test]
    fn a_repeated_field_that_is_acted_on_is_refused() {
        let fields = [
            ("model", "\"a\""),
            ("messages", "[]"),
            ("stream", "true"),
            ("stream_options", "{}"),
            ("max_tokens", "1"),
            ("max_completion_tokens", "1"),
            ("n", "1"),
            ("best_of", "1"),
            ("user", "\"a\""),
            ("metadata", "{}"),
            ("litellm_metadata", "{}"),
            ("safety_identifier", "\"a\""),
            ("service_tier", "\"a\""),
            ("num_retries", "1"),
            ("api_base", "1"),
        ];
        for (name, value) in fields {
            let first = name.chars().next().expect("a name");
            let escaped = format!("\\u{:04x}{}", u32::from(first), &name[first.len_utf8()..]);
            for again in [name, &escaped] {
                let body = format!(r#"{{"messages":[],"{name}":{value},"x":0,"{again}":{value}}}"#);
                assert_eq!(chat(&body), Err(HeadError::Duplicate(name)), "{body}");
            }
        }
        let twice = r#"{"messages":[],"stream_options":{"include_usage":true,"include_usage":false}}"#;
        assert_eq!(chat(twice), Err(HeadError::Duplicate("stream_options.include_usage")));
        assert!(chat(r#"{"messages":[],"temperature":1,"temperature":0}"#).is_ok(), "the provider's business");
    }

    #[test]
    fn a_field_of_the_wrong_type_is_refused_by_name() {
        let cases = [
            ("model", "1", "a string"),
            ("model", "\"\\ud800\"", "a string"),
            ("messages", "{}", "an array"),
            ("messages", "null", "an array"),
            ("stream", "\"true\"", "a boolean"),
            ("stream", "1", "a boolean"),
            ("stream_options", "[]", "an object"),
            ("max_tokens", "-1", "an integer from 0 to 2147483648"),
            ("max_tokens", "1.0", "an integer from 0 to 2147483648"),
            ("max_tokens", "1e3", "an integer from 0 to 2147483648"),
            ("max_tokens", "2147483649", "an integer from 0 to 2147483648"),
            ("max_tokens", "99999999999999999999999", "an integer from 0 to 2147483648"),
            ("max_completion_tokens", "\"1\"", "an integer"),
            ("n", "0", "a positive integer"),
            ("n", "[]", "an integer"),
            ("user", "true", "a string"),
            ("metadata", "\"x\"", "an object"),
            ("service_tier", "{}", "a string"),
        ];
        for (field, value, expected) in cases {
            let error = chat(&format!(r#"{{"{field}":{value}}}"#)).expect_err(field);
            assert_eq!(error, HeadError::WrongType { field, expected }, "{value}");
            assert_eq!(error.param(), field);
        }
        let error = chat(r#"{"messages":[],"stream_options":{"include_usage":1}}"#).expect_err("not a boolean");
        assert_eq!(error.message(), "field `stream_options.include_usage` must be a boolean");
    }

    #[test]
    fn something_to_read_is_required_by_operation() {
        let cases = [
            (Operation::Chat, "messages"),
            (Operation::Messages, "messages"),
            (Operation::CountTokens, "messages"),
            (Operation::Completions, "prompt"),
            (Operation::Embeddings, "input"),
        ];
        for (operation, field) in cases {
            let error = read_head(operation, br#"{"model":"x"}"#).expect_err("nothing to read");
            assert_eq!((error, error.param()), (HeadError::Missing(field), field));
            let body = format!(r#"{{"{field}":["x"]}}"#);
            assert!(read_head(operation, body.as_bytes()).is_ok());
            let text = format!(r#"{{"{field}":"x"}}"#);
            assert_eq!(read_head(operation, text.as_bytes()).is_ok(), field != "messages");
        }
    }

    #[test]
    fn broken_json_names_the_body_and_the_place() {
        let error = chat(r#"{"model":"x""#).expect_err("cut");
        assert_eq!(error.param(), "request_body");
        assert_eq!(error.message(), "request body is not a valid JSON object: expected `,` or `}` at byte 12");
        assert_eq!(chat("[]").expect_err("an array").param(), "request_body");
    }

    #[test]
    fn prompts_of_a_batch_are_counted() {
        for (prompt, prompts) in
            [(r#""a""#, 1), (r#"["a"]"#, 1), (r#"["a","b","c"]"#, 3), ("[1,2,3]", 1), ("[[1,2],[3]]", 2), ("[]", 1)]
        {
            let body = format!(r#"{{"prompt":{prompt},"n":2,"best_of":3}}"#);
            let head = read_head(Operation::Completions, body.as_bytes()).expect("a request");
            assert_eq!((head.prompts, head.answers()), (prompts, u64::from(prompts) * 3), "{prompt}");
        }
    }

    #[test]
    fn parts_that_are_not_text_are_counted_where_the_model_reads_them() {
        let body = r#"{"tools":[{"type":"file"},{"type":"image"}],"messages":[{"content":[
            {"type":"image_url","image_url":{"url":"x"}}, {"image":"image","type" : "image"},
            {"type":"input_audio"}, {"type":"file"}, {"type":"document"}, {"type":"video_url"},
            {"type":"text","text":"image_url"}, {"type":["image"]}, {"type":{"image":"image"}}]}],
            "response_format":{"type":"image"}}"#;
        let head = chat(body).expect("a request");
        assert_eq!(head.modalities, Modalities { images: 2, audio: 1, files: 2, videos: 1, elsewhere: 0 });
    }

    #[test]
    fn parts_without_a_type_are_counted_by_their_keys_in_chats() {
        let one = |images, audio, files, videos, elsewhere| Modalities { images, audio, files, videos, elsewhere };
        for (part, of_chat, of_message) in [
            (r#"{"image_url":{"url":"x"}}"#, one(1, 0, 0, 0, 0), one(0, 0, 0, 0, 0)),
            (r#"{"image_url":{"url":"x"},"type":"image_url"}"#, one(1, 0, 0, 0, 0), one(1, 0, 0, 0, 0)),
            (r#"{"type":"input_audio","input_audio":{"data":""}}"#, one(0, 1, 0, 0, 0), one(0, 1, 0, 0, 0)),
            (r#"{"input_audio":{"data":""}},{"file":{"file_id":"x"}}"#, one(0, 1, 1, 0, 0), one(0, 0, 0, 0, 0)),
            (r#"{"video_url":{"url":"x"}},{"audio_url":{"url":"x"}}"#, one(0, 0, 0, 1, 1), one(0, 0, 0, 0, 0)),
            (r#"{"type":"audio_url"},{"type":"audio"}"#, one(0, 0, 0, 0, 2), one(0, 0, 0, 0, 2)),
            (r#"{"type":"tool_use","input":{"file":"a.rs","image_url":"x"}}"#, one(1, 0, 1, 0, 0), one(0, 0, 0, 0, 0)),
            (r#"{"type":"container_upload","file_id":"x"}"#, one(0, 0, 1, 0, 0), one(0, 0, 1, 0, 0)),
        ] {
            let body = format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#);
            assert_eq!(chat(&body).expect("a request").modalities, of_chat, "{part}");
            let message = read_head(Operation::Messages, body.as_bytes()).expect("a request");
            assert_eq!(message.modalities, of_message, "{part}");
        }
        for (said, elsewhere) in [
            (r#"{"role":"assistant","audio":{"id":"audio_1"}}"#, 1),
            (r#"{"role":"assistant","audio": { "id" : "audio_1" } },{"audio":{"id":"audio_2"}}"#, 2),
            (r#"{"role":"assistant","audio":null,"content":"x"},{"audio":null,"tool_calls":[{"id":"x"}]}"#, 0),
            (r#"{"role":"user","content":"audio"}"#, 0),
        ] {
            let body = format!(r#"{{"messages":[{said}],"audio":{{"voice":"alloy"}}}}"#);
            assert_eq!(chat(&body).expect("a request").modalities.elsewhere, elsewhere, "{said}");
        }
    }

    #[test]
    fn what_a_provider_may_read_or_run_beyond_the_body_is_noticed() {
        let long = "x".repeat(json::SHORT + 1);
        for (fields, expected) in [
            (r#""tools":[{"type":"function","function":{}},{"type":"code_execution_20250825"}]"#, Some("tools")),
            (r#""tools":[{"name":"x","type":"advisor_20270101"}]"#, Some("tools")),
            (r#""tools":[{"type":"code_interpreter"}]"#, Some("tools")),
            (
                r#""tools":[{"type":"bash_20250124"},{"type":"text_editor_20250728"},{"type":"computer_20250124"}]"#,
                None,
            ),
            (r#""tools":[{"type":"memory_20250818"}]"#, None),
            (r#""tools":[{"type":"tool_search_tool_regex_20251119"},{"type":"custom"},{"name":"x"}]"#, None),
            (
                r#""tools":[{"name":"x","input_schema":{"type":"object","properties":{"type":{"type":["x","y"]}}}}]"#,
                None,
            ),
            (r#""tools":[{"type":"function","function":{"parameters":{"type":"object"}}}]"#, None),
            (r#""tools":[{"type":"bashful_20250124"}]"#, Some("tools")),
            (r#""mcp_servers":[{"type":"url"}]"#, Some("mcp_servers")),
            (r#""mcp_servers":[],"container":null,"context_management":null"#, None),
            (r#""container":"container_1""#, Some("container")),
            (r#""context_management":{"edits":[{"type":"compact_20260112"}]}"#, Some("context_management")),
            (r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}"#, None),
            (r#""metadata":{"type":"x"},"response_format":{"type":"json_schema"},"x":[{"type":"y"}]"#, None),
        ] {
            let body = format!(r#"{{"messages":[{{"type":"message","content":[{{"type":"text"}}]}}],{fields}}}"#);
            assert_eq!(chat(&body).expect("a request").reaches_out, expected, "{fields}");
        }
        for tools in [format!(r#"[{{"type":"{long}"}}]"#), format!(r#"[{{"type":"{long}","name":"x"}}]"#)] {
            let body = format!(r#"{{"messages":[],"tools":{tools}}}"#);
            assert_eq!(chat(&body).expect("a request").reaches_out, Some("tools"), "a type too long to be known");
        }
    }

    #[test]
    fn tools_that_find_something_in_the_web_are_noticed() {
        for (tools, expected) in [
            (r#"[{"type":"web_fetch_20250910","name":"web_fetch"}]"#, true),
            (r#"[{"name":"x","input_schema":{}},{"name":"y","type":"web_search_20250305"}]"#, true),
            (r#"[{"type":"web_search"}]"#, true),
            (r#"[{"type":"custom","name":"web_search"}]"#, false),
            (r#"[{"type":"function","function":{"name":"web_search","parameters":{"type":"web_search"}}}]"#, false),
        ] {
            let head = chat(&format!(r#"{{"messages":[],"tools":{tools}}}"#)).expect("a request");
            assert_eq!((head.reads_web, head.reaches_out), (expected, None), "{tools}");
        }
        let mixed = r#"{"messages":[],"tools":[{"type":"web_search_20250305"},{"type":"code_execution_20250825"}]}"#;
        let head = chat(mixed).expect("a request");
        assert_eq!((head.reads_web, head.reaches_out), (true, Some("tools")));
    }

    #[test]
    fn an_answer_that_may_be_more_than_text_is_noticed() {
        for (fields, expected) in [
            (r#""modalities":["text","audio"],"audio":{"voice":"alloy"}"#, true),
            (r#""modalities":["image","text"]"#, true),
            (r#""modalities":["text"],"modalities":["audio"]"#, true),
            (r#""modalities":"audio""#, true),
            (r#""audio":{"voice":"alloy","format":"wav"}"#, true),
            (r#""modalities":["text"],"audio":null"#, false),
            (r#""modalities":null"#, false),
            (r#""modalities":[ "text" ],"metadata":{"audio":"x"}"#, false),
        ] {
            let body = format!(r#"{{"messages":[{{"audio":{{"id":"x"}}}}],{fields}}}"#);
            assert_eq!(chat(&body).expect("a request").asks_for_media, expected, "{fields}");
        }
    }

    #[test]
    fn escapes_in_words_are_noticed_wherever_they_stand() {
        for body in [
            r#"{"messages":[{"content":[{"typ\u0065":"image_url"}]}]}"#,
            r#"{"messages":[{"content":[{"type":"image\u005furl"}]}]}"#,
            r#"{"messages":[],"web\u005fsearch_options":{}}"#,
            r#"{"messages":[],"tools":[{"description":"a text of some length and then \u0077ords","n":1}]}"#,
        ] {
            assert!(chat(body).expect("a request").is_veiled, "{body}");
            let spelled = json::spelled_out(body.as_bytes());
            assert!(!read_head(Operation::Chat, &spelled).expect("a request").is_veiled, "{body}");
        }
        let usual = r#"{"messages":[{"content":"Gr\u00fc\u00dfe, \u003cb\u003e\n\"\u0022 C:\\u0061"}]}"#;
        assert!(!chat(usual).expect("a request").is_veiled);
    }

    #[test]
    fn what_a_client_may_not_say_is_noticed() {
        let head = chat(r#"{"messages":[]}"#).expect("a request");
        assert_eq!((head.api_base, head.base_url, head.api_key, head.mock_testing), (None, None, None, None));
        for key in ["mock_testing_fallbacks", "mock_testing_rate_limit_error", "mock_timeout"] {
            let body = format!(r#"{{"messages":[],"{key}":true,"api_base":"h","base_url":"h","api_key":"k"}}"#);
            let head = chat(&body).expect("a request");
            assert!(head.api_base.is_some() && head.base_url.is_some() && head.api_key.is_some());
            assert_eq!(Head::key_of(head.mock_testing.expect("noticed"), body.as_bytes()), key.as_bytes());
        }
        let head = chat(r#"{"messages":[],"mock_response":"hi","mock_tested":1}"#).expect("a request");
        assert!(head.mock_response.is_some() && head.mock_testing.is_none());
    }
}
