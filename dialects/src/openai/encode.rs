//! A chat request, written for `/v1/chat/completions`.

use std::borrow::Cow;

use serde_json::Value;

use super::content::{encode_content, encode_thinking};
use crate::Dialect;
use crate::chat::write::{Json, Members};
use crate::chat::{
    Block, Effort, EncodeError, EncodeOptions, Function, JsonSchema, Message, OutputFormat, Part, Quirks, Request,
    Role, ServiceTier, Surface, Thinking, ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult, Unsupported,
};

/// The longest `user` OpenAI takes, in characters; Claude Code's are longer.
const MAX_USER: usize = 64;

/// What Anthropic clients send that only steers their provider, and changes no answer's meaning.
const ANTHROPIC_HINTS: [&str; 6] =
    ["context_management", "cache_control", "betas", "inference_geo", "speed", "diagnostics"];

/// Fields that mean the same to text completions and to chats, of OpenAI and of the servers that
/// follow it. A completion's other fields were checked by nobody as those of a chat, and some are a
/// chat's own, which this writes itself.
const SAME_IN_COMPLETIONS: [&str; 15] = [
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "metadata",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "repetition_penalty",
    "safety_identifier",
    "seed",
    "stop_token_ids",
    "store",
];

pub(crate) fn encode_request(request: &Request, options: &EncodeOptions<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut unsupported = Unsupported::default();
    let body = encode(request, options, &mut unsupported);
    unsupported.settle(options.drop_unsupported)?;
    Ok(body.to_bytes())
}

fn encode<'a>(request: &'a Request, options: &EncodeOptions<'a>, unsupported: &mut Unsupported) -> Members<'a> {
    let quirks = options.quirks;
    let Request {
        surface,
        model: _,
        messages,
        tools,
        tool_choice,
        parallel_tools,
        max_tokens,
        stop,
        temperature,
        top_p,
        top_k,
        thinking,
        effort,
        format,
        user,
        service_tier,
        stream,
        include_usage: _,
        extra,
    } = request;
    let from_openai = surface.dialect() == Dialect::OpenAi;
    let mut writer = Writer { quirks, unsupported };
    let mut body = Members::new().with("model", options.model);
    body.push("messages", writer.messages(messages, from_openai));
    writer.tools(tools, from_openai, &mut body);
    if !tools.is_empty() {
        if let Some(choice) = tool_choice.as_ref().and_then(|choice| writer.tool_choice(choice)) {
            writer.put(&mut body, "tool_choice", choice);
        }
        if let Some(parallel) = parallel_tools {
            writer.put(&mut body, "parallel_tool_calls", *parallel);
        }
    }
    if let Some(most) = max_tokens {
        body.push(quirks.max_tokens_field.as_str(), *most);
    }
    if !stop.is_empty() {
        writer.put(&mut body, "stop", Json::from(stop.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    if let Some(temperature) = temperature {
        writer.put(&mut body, "temperature", temperature.clone());
    }
    if let Some(top_p) = top_p {
        writer.put(&mut body, "top_p", top_p.clone());
    }
    match top_k {
        Some(top_k) if from_openai || quirks.top_k => writer.put(&mut body, "top_k", *top_k),
        Some(_) => writer.unsupported.add("top_k"),
        None => {}
    }
    writer.reasoning(*effort, *thinking, from_openai, &mut body);
    if let Some(format) = format {
        writer.format(format, from_openai, &mut body);
    }
    if let Some(user) = user.as_ref().filter(|_| !quirks.refuses("user")) {
        let shown = if from_openai { user.as_str() } else { first_chars(user, MAX_USER) };
        body.push("user", shown);
    }
    if let Some(tier) = service_tier {
        writer.put(&mut body, "service_tier", tier_name(tier));
    }
    if *stream {
        body.push("stream", true);
        if !quirks.no_stream_usage {
            // Always asked for, because the answer is paid by it; the client's encoder leaves it out
            // again.
            body.push("stream_options", Members::new().with("include_usage", true));
        }
    }
    for (key, value) in extra {
        match surface {
            Surface::OpenAiChat => writer.put(&mut body, key, value),
            Surface::OpenAiCompletions if SAME_IN_COMPLETIONS.contains(&key.as_str()) => {
                writer.put(&mut body, key, value);
            }
            Surface::AnthropicMessages if ANTHROPIC_HINTS.contains(&key.as_str()) => {}
            Surface::OpenAiCompletions | Surface::AnthropicMessages => writer.unsupported.add(key),
        }
    }
    body
}

struct Writer<'q, 'u> {
    quirks: &'q Quirks,
    unsupported: &'u mut Unsupported,
}

impl Writer<'_, '_> {
    /// Adds a parameter, unless the model refuses it.
    fn put<'a>(&mut self, body: &mut Members<'a>, key: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) {
        let key = key.into();
        if self.quirks.refuses(&key) {
            self.unsupported.add(key);
        } else {
            body.push(key, value);
        }
    }

    fn messages<'a>(&mut self, messages: &'a [Message], from_openai: bool) -> Json<'a> {
        let mut list = Vec::with_capacity(messages.len());
        for message in messages {
            match message.role {
                Role::System => list.push(self.plain("system", message)),
                Role::Developer => list.push(self.plain("developer", message)),
                Role::User => self.user(message, from_openai, &mut list),
                Role::Assistant => list.push(self.assistant(message)),
            }
        }
        Json::from(list)
    }

    fn content<'a>(&mut self, blocks: &[&'a Block]) -> Json<'a> {
        let Self { quirks, unsupported } = self;
        encode_content(blocks, quirks.cache_control, quirks.flat_text, |block| unsupported.add(name_of(&block.part)))
    }

    fn plain<'a>(&mut self, role: &'static str, message: &'a Message) -> Members<'a> {
        let content = self.content(&message.content.iter().collect::<Vec<_>>());
        Members::new().with("role", role).with("content", content).maybe("name", message.name.as_ref())
    }

    /// Tool results become messages of their own, first, because OpenAI wants them right behind the
    /// calls they answer; then what else the user said.
    fn user<'a>(&mut self, message: &'a Message, from_openai: bool, list: &mut Vec<Members<'a>>) {
        let mut others: Vec<Json<'a>> = Vec::new();
        let mut said: Vec<&'a Block> = Vec::new();
        let mut results = false;
        for block in &message.content {
            match &block.part {
                Part::ToolResult(result) => {
                    results = true;
                    list.push(self.tool_result(block, result, from_openai, &mut others));
                }
                _ => said.push(block),
            }
        }
        if others.is_empty() {
            if !said.is_empty() || !results {
                let content = self.content(&said);
                let message =
                    Members::new().with("role", "user").with("content", content).maybe("name", message.name.as_ref());
                list.push(message);
            }
            return;
        }
        for block in said {
            match super::content::encode_block(block, self.quirks.cache_control) {
                Some(part) => others.push(part),
                None => self.unsupported.add(name_of(&block.part)),
            }
        }
        list.push(Members::new().with("role", "user").with("content", Json::Array(others)));
    }

    /// `others` gets the images and documents: OpenAI's tool messages hold text only, so these
    /// follow in the user's message, labelled. A client of OpenAI's shape knows what its server
    /// takes and keeps its own parts.
    fn tool_result<'a>(
        &mut self,
        block: &'a Block,
        result: &'a ToolResult,
        from_openai: bool,
        others: &mut Vec<Json<'a>>,
    ) -> Members<'a> {
        let ToolResult { call_id, content, is_error } = result;
        let is_text = |block: &&Block| from_openai || matches!(block.part, Part::Text(_));
        let (texts, rest): (Vec<_>, Vec<_>) = content.iter().partition(is_text);
        let mut attached = false;
        for block in rest {
            match super::content::encode_block(block, false) {
                Some(part) => {
                    if !attached {
                        let label = format!("Attached to the result of tool call {call_id}:");
                        others.push(Members::typed("text").with("text", label).into());
                    }
                    attached = true;
                    others.push(part);
                }
                None => self.unsupported.add(name_of(&block.part)),
            }
        }
        let content = match (*is_error, texts.as_slice()) {
            (false, []) if attached => Json::from("The result is attached to the next message."),
            (false, texts) => self.content(texts),
            // OpenAI has no mark for a failed call, so the text says it.
            (true, texts) => Json::from(error_text(texts)),
        };
        let mark = block.cache_control.as_ref().filter(|_| self.quirks.cache_control);
        Members::new()
            .with("role", "tool")
            .with("tool_call_id", call_id)
            .with("content", content)
            .maybe("cache_control", mark)
    }

    fn assistant<'a>(&mut self, message: &'a Message) -> Members<'a> {
        let mut said: Vec<&'a Block> = Vec::new();
        let mut calls = Vec::new();
        let mut reasoning = Vec::new();
        let mut thinking = Vec::new();
        for block in &message.content {
            match &block.part {
                Part::ToolCall(call) => calls.push(encode_tool_call(call)),
                part @ (Part::Thinking(_) | Part::RedactedThinking(_)) => {
                    if let Part::Thinking(Thinking { text, .. }) = part {
                        reasoning.push(text.as_str());
                    }
                    thinking.extend(encode_thinking(part));
                }
                Part::Text(_)
                | Part::Image(_)
                | Part::Document(_)
                | Part::Audio(_)
                | Part::ToolResult(_)
                | Part::Native { .. } => said.push(block),
            }
        }
        let content = if said.is_empty() && !calls.is_empty() { Json::Null } else { self.content(&said) };
        let mut members = Members::new().with("role", "assistant").with("content", content);
        if let Some(name) = &message.name {
            members.push("name", name);
        }
        // Another provider's thinking is refused by most servers, and never needed to go on.
        if self.quirks.reasoning_history {
            if !reasoning.is_empty() {
                members.push("reasoning_content", reasoning.concat());
            }
            if !thinking.is_empty() {
                members.push("thinking_blocks", thinking);
            }
        }
        if !calls.is_empty() {
            members.push("tool_calls", calls);
        }
        members
    }

    fn tools<'a>(&mut self, tools: &'a [Tool], from_openai: bool, body: &mut Members<'a>) {
        let mut list: Vec<Json<'a>> = Vec::new();
        for tool in tools {
            match tool {
                Tool::Function(function) => list.push(self.function(function).into()),
                Tool::Native { raw, .. } if from_openai => list.push(raw.into()),
                Tool::Native { raw, .. } => self.unsupported.add(format!("tools: {}", type_of(raw.get()))),
            }
        }
        if !list.is_empty() {
            body.push("tools", Json::Array(list));
        }
    }

    fn function<'a>(&self, function: &'a Function) -> Members<'a> {
        let Function { name, description, schema, strict, cache_control } = function;
        let inner = Members::new()
            .with("name", name)
            .maybe("description", description.as_ref())
            .maybe("parameters", schema.as_ref())
            .maybe("strict", *strict);
        let mark = cache_control.as_ref().filter(|_| self.quirks.cache_control);
        Members::typed("function").with("function", inner).maybe("cache_control", mark)
    }

    fn tool_choice<'a>(&mut self, choice: &'a ToolChoice) -> Option<Json<'a>> {
        Some(match choice {
            ToolChoice::Auto => "auto".into(),
            ToolChoice::Required => "required".into(),
            ToolChoice::None => "none".into(),
            ToolChoice::Named(name) => {
                Members::typed("function").with("function", Members::new().with("name", name)).into()
            }
            ToolChoice::Native { dialect: Dialect::OpenAi, raw } => raw.into(),
            ToolChoice::Native { .. } => {
                self.unsupported.add("tool_choice");
                return None;
            }
        })
    }

    fn reasoning(
        &mut self,
        effort: Option<Effort>,
        thinking: Option<ThinkingMode>,
        from_openai: bool,
        body: &mut Members<'_>,
    ) {
        let effort = match (effort, thinking) {
            (Some(effort), _) => Some(effort),
            (None, Some(ThinkingMode::Budget(tokens))) if !from_openai => Some(Effort::for_budget(tokens)),
            // No word means "no thinking" to all reasoning models, and none is needed for the others;
            // an adaptive model's default is the other provider's default.
            (None, _) => None,
        };
        if let Some(effort) = effort {
            let name = match effort {
                // Anthropic's word; OpenAI's highest is this one.
                Effort::Max if !from_openai => Effort::XHigh.as_str(),
                effort => effort.as_str(),
            };
            self.put(body, "reasoning_effort", name);
        }
        // Some compatible servers take Anthropic's parameter; a client that sends it knows.
        if let (true, Some(mode)) = (from_openai, thinking) {
            let mode = match mode {
                ThinkingMode::Disabled => Members::typed("disabled"),
                ThinkingMode::Budget(tokens) => Members::typed("enabled").with("budget_tokens", tokens),
                ThinkingMode::Adaptive => Members::typed("adaptive"),
            };
            self.put(body, "thinking", mode);
        }
    }

    fn format<'a>(&mut self, format: &'a OutputFormat, from_openai: bool, body: &mut Members<'a>) {
        let value = match format {
            OutputFormat::Text => Members::typed("text"),
            OutputFormat::JsonObject => Members::typed("json_object"),
            OutputFormat::JsonSchema(JsonSchema { name, description, schema, strict }) => {
                // Anthropic always enforces a schema; OpenAI only in strict mode, which in turn takes
                // only some schemas.
                let strict = strict.or_else(|| (!from_openai).then(|| takes_strict(schema.get())));
                let inner = Members::new()
                    .with("name", name.as_deref().unwrap_or("response"))
                    .maybe("description", description.as_ref())
                    .with("schema", schema)
                    .maybe("strict", strict);
                Members::typed("json_schema").with("json_schema", inner)
            }
        };
        self.put(body, "response_format", value);
    }
}

fn encode_tool_call(call: &ToolCall) -> Members<'_> {
    let ToolCall { id, name, arguments } = call;
    let function = Members::new().with("name", name).with("arguments", arguments);
    Members::new().with("id", id).with("type", "function").with("function", function)
}

fn error_text(texts: &[&Block]) -> String {
    let mut joined = String::new();
    for block in texts {
        if let Part::Text(text) = &block.part {
            joined.push_str(text);
        }
    }
    if joined.is_empty() {
        return "Error: the tool failed without a message".to_owned();
    }
    let says_so = joined.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error"));
    if says_so { joined } else { format!("Error: {joined}") }
}

fn tier_name(tier: &ServiceTier) -> &str {
    match tier {
        ServiceTier::Auto => "auto",
        ServiceTier::Standard => "default",
        ServiceTier::Flex => "flex",
        ServiceTier::Priority => "priority",
        ServiceTier::Other(name) => name,
    }
}

/// How a piece that cannot be told is named to the client.
fn name_of(part: &Part) -> String {
    let what = match part {
        Part::Text(_) => "text",
        Part::Image(_) => "image by file id",
        Part::Document(_) => "document by URL",
        Part::Audio(_) => "audio",
        Part::ToolCall(_) => "tool call outside an assistant message",
        Part::ToolResult(_) => "tool result outside a user message",
        Part::Thinking(_) | Part::RedactedThinking(_) => "thinking outside an assistant message",
        Part::Native { raw, .. } => return format!("messages: {}", type_of(raw.get())),
    };
    format!("messages: {what}")
}

/// The `type` of a piece that is not understood.
pub(crate) fn type_of(json: &str) -> String {
    let fields = crate::chat::read::Fields::of_text(json);
    fields.ok().and_then(|mut fields| fields.lenient_string("type")).unwrap_or_else(|| "unknown".to_owned())
}

fn first_chars(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

/// Whether OpenAI's strict mode takes a schema: each object lists all its properties as required and
/// allows no others.
fn takes_strict(schema: &str) -> bool {
    serde_json::from_str(schema).is_ok_and(|schema| strict_value(&schema))
}

fn strict_value(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(strict_value),
        Value::Object(object) => {
            let closed = match object.get("properties") {
                Some(Value::Object(properties)) => {
                    let required = object.get("required").and_then(Value::as_array);
                    let listed = |name: &String| required.is_some_and(|list| list.iter().any(|item| item == name));
                    object.get("additionalProperties") == Some(&Value::Bool(false)) && properties.keys().all(listed)
                }
                _ => object.get("type") != Some(&Value::String("object".to_owned())),
            };
            closed && object.values().all(strict_value)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}
