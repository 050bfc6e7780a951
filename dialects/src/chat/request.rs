//! A chat request in no dialect: what every surface decodes to and every provider's dialect is
//! encoded from. Owns its text; knows nothing of HTTP, keys or routing.

use serde_json::Number;

use super::Surface;
use super::raw::Raw;
use crate::Dialect;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Where it came in: decides which of `extra` means anything to the upstream.
    pub surface: Surface,
    /// The model as the client named it.
    pub model: String,
    /// System prompts, turns and tool results, in the client's order.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model may call several tools in one turn; `None` leaves it to the provider.
    pub parallel_tools: Option<bool>,
    /// The most output tokens.
    pub max_tokens: Option<u64>,
    pub stop: Vec<String>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub top_k: Option<u64>,
    /// What the client said about thinking in Anthropic's terms.
    pub thinking: Option<ThinkingMode>,
    /// What the client said about thinking in OpenAI's terms.
    pub effort: Option<Effort>,
    pub format: Option<OutputFormat>,
    /// The client's end user, opaque.
    pub user: Option<String>,
    pub service_tier: Option<ServiceTier>,
    pub stream: bool,
    /// OpenAI clients get usage on a stream only when they ask for it.
    pub include_usage: bool,
    /// Top-level fields that have no place above, in their order.
    pub extra: Vec<(String, Raw)>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    /// OpenAI's newer name of the system role.
    Developer,
    /// Also carries tool results.
    User,
    Assistant,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    /// The participant's name, which OpenAI allows.
    pub name: Option<String>,
    pub content: Vec<Block>,
}

/// One piece of content, and whether a prompt cache should end here.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub part: Part,
    /// Anthropic's mark, as text: `{"type":"ephemeral","ttl":"1h"}`.
    pub cache_control: Option<Raw>,
}

/// What a piece of content is.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Image(Image),
    Document(Document),
    Audio(Audio),
    ToolCall(ToolCall),
    ToolResult(ToolResult),
    Thinking(Thinking),
    /// Thinking that only its provider can read, opaque.
    RedactedThinking(String),
    /// A piece only one dialect has, kept whole for that dialect.
    Native {
        dialect: Dialect,
        raw: Raw,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    pub source: Source,
    /// OpenAI's `low`, `high` or `auto`.
    pub detail: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub source: Source,
    /// A file name or title.
    pub title: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// Base64.
    pub data: String,
    /// `wav`, `mp3`.
    pub format: String,
}

/// Where the bytes of an image or a document are.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Base64 {
        media_type: String,
        data: String,
    },
    Url(String),
    /// A file uploaded to one provider; means nothing to another.
    FileId(String),
    /// Plain text, not encoded.
    Text(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text, an object unless the model failed to write one; never empty.
    pub arguments: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ToolResult {
    /// The id of the call this answers.
    pub call_id: String,
    pub content: Vec<Block>,
    pub is_error: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Thinking {
    pub text: String,
    /// The provider's proof that it wrote the text; absent when the provider gives none.
    pub signature: Option<String>,
}

/// A tool the model may call.
#[derive(Clone, Debug, PartialEq)]
pub enum Tool {
    Function(Function),
    /// A tool the provider runs itself, which only one dialect has.
    Native {
        dialect: Dialect,
        raw: Raw,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments.
    pub schema: Option<Raw>,
    pub strict: Option<bool>,
    pub cache_control: Option<Raw>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ToolChoice {
    Auto,
    Required,
    None,
    Named(String),
    /// A choice only one dialect has.
    Native {
        dialect: Dialect,
        raw: Raw,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingMode {
    Disabled,
    /// At most this many tokens.
    Budget(u64),
    /// As much as the model finds right.
    Adaptive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OutputFormat {
    Text,
    JsonObject,
    JsonSchema(JsonSchema),
}

#[derive(Clone, Debug, PartialEq)]
pub struct JsonSchema {
    /// OpenAI requires a name; Anthropic has none.
    pub name: Option<String>,
    pub description: Option<String>,
    pub schema: Raw,
    pub strict: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTier {
    Auto,
    Standard,
    Flex,
    Priority,
    Other(String),
}

impl Request {
    /// A request with nothing but a model and its messages.
    pub fn new(surface: Surface, model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            surface,
            model: model.into(),
            messages,
            tools: Vec::new(),
            tool_choice: None,
            parallel_tools: None,
            max_tokens: None,
            stop: Vec::new(),
            temperature: None,
            top_p: None,
            top_k: None,
            thinking: None,
            effort: None,
            format: None,
            user: None,
            service_tier: None,
            stream: false,
            include_usage: false,
            extra: Vec::new(),
        }
    }
}

impl Message {
    pub fn new(role: Role, content: Vec<Block>) -> Self {
        Self { role, name: None, content }
    }
}

impl Block {
    pub fn new(part: Part) -> Self {
        Self { part, cache_control: None }
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Part::Text(text.into()))
    }
}

impl ToolCall {
    /// A call whose arguments are JSON text; none at all means an empty object.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        let arguments = arguments.into();
        let arguments = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
        Self { id: id.into(), name: name.into(), arguments }
    }
}

impl Effort {
    const ALL: [(Self, &'static str); 7] = [
        (Self::None, "none"),
        (Self::Minimal, "minimal"),
        (Self::Low, "low"),
        (Self::Medium, "medium"),
        (Self::High, "high"),
        (Self::XHigh, "xhigh"),
        (Self::Max, "max"),
    ];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(effort, _)| *effort)
    }

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(effort, _)| *effort == self).map_or("medium", |(_, name)| name)
    }

    /// The thinking tokens an effort stands for where a provider counts them: the figures LiteLLM
    /// users know, never below Anthropic's least budget of 1,024. `None` means no thinking.
    pub fn budget_tokens(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Minimal | Self::Low => Some(1_024),
            Self::Medium => Some(2_048),
            Self::High => Some(4_096),
            Self::XHigh => Some(8_192),
            Self::Max => Some(16_384),
        }
    }

    /// The least effort whose budget covers `tokens`, up to `High`, which every reasoning model of
    /// OpenAI's accepts.
    pub fn for_budget(tokens: u64) -> Self {
        match tokens {
            0..=1_024 => Self::Low,
            1_025..=2_048 => Self::Medium,
            _ => Self::High,
        }
    }
}
