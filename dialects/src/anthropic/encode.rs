//! A chat request, written for `/v1/messages`.
//!
//! Anthropic is stricter than OpenAI about turns: system prompts stand apart, roles alternate, a
//! turn has content, tool results come first in it, and thinking excludes some parameters.

use serde_json::Number;

use super::JSON_TOOL;
use super::content::encode_block;
use crate::Dialect;
use crate::chat::read::Fields;
use crate::chat::write::{Json, Members};
use crate::chat::{
    Block, Effort, EncodeError, EncodeOptions, Function, JsonSchema, Message, OutputFormat, Part, Raw, Request, Role,
    ServiceTier, Source, Thinking, ThinkingMode, ThinkingStyle, Tool, ToolChoice, Unsupported,
};

/// The least budget for thinking that Anthropic takes, in tokens.
const LEAST_BUDGET: u64 = 1_024;

/// The least `top_p` Anthropic takes while thinking.
const LEAST_THINKING_TOP_P: f64 = 0.95;

/// What OpenAI clients send that only steers storage or caching, and changes no answer's meaning.
const OPENAI_HINTS: [&str; 6] =
    ["store", "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "prediction"];

pub(crate) fn encode_request(request: &Request, options: &EncodeOptions<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut unsupported = Unsupported::default();
    let body = encode(request, options, &mut unsupported);
    // First, because what is left out may be all there was to say.
    unsupported.settle(options.drop_unsupported)?;
    Ok(body?.to_bytes())
}

fn encode<'a>(
    request: &'a Request,
    options: &EncodeOptions<'a>,
    unsupported: &mut Unsupported,
) -> Result<Members<'a>, EncodeError> {
    let Request {
        surface,
        model: _,
        messages,
        tools: _,
        tool_choice: _,
        parallel_tools: _,
        max_tokens: _,
        stop: _,
        temperature: _,
        top_p: _,
        top_k: _,
        thinking: _,
        effort: _,
        format: _,
        user: _,
        service_tier,
        stream,
        include_usage: _,
        extra,
    } = request;
    let mut writer = Writer { request, options, unsupported, from_openai: surface.dialect() == Dialect::OpenAi };
    let turns = Turns::of(messages, |part| writer.can_tell(part))?;
    let system = writer.blocks(&turns.system);
    let mut list = Vec::with_capacity(turns.turns.len());
    for turn in &turns.turns {
        list.push(writer.turn(turn));
    }
    let tools = writer.tools();
    let forced = tools.choice.as_ref().is_some_and(Choice::forces);
    let reasoning = writer.reasoning(forced);
    let mut body = Members::new().with("model", options.model).with("max_tokens", reasoning.max_tokens);
    match system.as_slice() {
        [] => {}
        _ => body.push("system", Json::Array(system)),
    }
    body.push("messages", list);
    if !tools.list.is_empty() {
        body.push("tools", Json::Array(tools.list));
    }
    if let Some(choice) = tools.choice {
        body.push("tool_choice", choice.encode(request.parallel_tools));
    }
    let thinks = reasoning.thinking.is_some();
    writer.sampling(thinks, &mut body);
    if let Some(thinking) = reasoning.thinking {
        body.push("thinking", thinking);
    }
    writer.output_config(reasoning.effort, &mut body);
    if let Some(user) = writer.user() {
        body.push("metadata", Members::new().with("user_id", user));
    }
    if let Some(tier) = service_tier {
        match tier {
            ServiceTier::Auto | ServiceTier::Priority => body.push("service_tier", "auto"),
            ServiceTier::Standard => body.push("service_tier", "standard_only"),
            ServiceTier::Flex | ServiceTier::Other(_) => writer.unsupported.add("service_tier"),
        }
    }
    if *stream {
        body.push("stream", true);
    }
    for (key, value) in extra {
        if !writer.from_openai {
            body.push(key, value);
        } else if !OPENAI_HINTS.contains(&key.as_str()) && !is_neutral(key, value) {
            writer.unsupported.add(key);
        }
    }
    Ok(body)
}

/// The conversation as Anthropic wants it.
struct Turns<'a> {
    system: Vec<&'a Block>,
    turns: Vec<Turn<'a>>,
}

struct Turn<'a> {
    role: Role,
    blocks: Vec<&'a Block>,
    /// A trailing answer to be continued must not end in white space.
    prefill: bool,
}

impl<'a> Turns<'a> {
    /// Of what `can_tell` lets through.
    fn of(messages: &'a [Message], mut can_tell: impl FnMut(&Part) -> bool) -> Result<Self, EncodeError> {
        let mut system: Vec<&'a Block> = Vec::new();
        let mut turns: Vec<Turn<'a>> = Vec::new();
        let mut last_instructions = 0;
        for message in messages {
            let blocks: Vec<_> = message.content.iter().filter(|block| can_tell(&block.part)).collect();
            // An empty turn is refused, and says nothing.
            if blocks.is_empty() {
                continue;
            }
            match message.role {
                Role::System | Role::Developer => {
                    last_instructions = system.len();
                    system.extend(blocks);
                }
                role @ (Role::User | Role::Assistant) => match turns.last_mut() {
                    Some(last) if last.role == role => last.blocks.extend(blocks),
                    _ => turns.push(Turn { role, blocks, prefill: false }),
                },
            }
        }
        // OpenAI answers to instructions alone; Anthropic wants someone to say something.
        if turns.is_empty() && !system.is_empty() {
            let blocks = system.split_off(last_instructions);
            turns.push(Turn { role: Role::User, blocks, prefill: false });
        }
        for turn in turns.iter_mut().filter(|turn| turn.role == Role::User) {
            // Results first, in their order, else the calls count as not answered.
            turn.blocks.sort_by_key(|block| !matches!(block.part, Part::ToolResult(_)));
        }
        match turns.last_mut() {
            Some(last) => last.prefill = last.role == Role::Assistant,
            None => {
                return Err(EncodeError::Invalid {
                    message: "there is no message with content".to_owned(),
                    param: Some("messages".to_owned()),
                });
            }
        }
        Ok(Self { system, turns })
    }
}

struct Writer<'r, 'o, 'u> {
    request: &'r Request,
    options: &'o EncodeOptions<'r>,
    unsupported: &'u mut Unsupported,
    from_openai: bool,
}

struct Tools<'a> {
    list: Vec<Json<'a>>,
    choice: Option<Choice<'a>>,
}

enum Choice<'a> {
    Auto,
    Any,
    None,
    Named(&'a str),
}

struct Reasoning<'a> {
    thinking: Option<Members<'a>>,
    effort: Option<&'static str>,
    max_tokens: u64,
}

impl<'r> Writer<'r, '_, '_> {
    /// The client's word for a parameter.
    fn unsupported(&mut self, openai: &str, anthropic: &str) {
        self.unsupported.add(if self.from_openai { openai } else { anthropic });
    }

    fn refused(&mut self, name: &str) -> bool {
        let refused = self.options.quirks.refuses(name);
        if refused {
            self.unsupported.add(name);
        }
        refused
    }

    /// Whether Anthropic is told anything of this piece. Asked before turns are made, so that none is
    /// made of what is left out.
    fn can_tell(&mut self, part: &Part) -> bool {
        let lacks = match part {
            Part::Text(text) => return !text.trim().is_empty(),
            Part::Thinking(Thinking { signature, .. }) => return signature.is_some(),
            Part::Audio(_) => "messages: audio".to_owned(),
            Part::Native { dialect: Dialect::OpenAi, raw } => {
                format!("messages: {}", crate::openai::type_of(raw.get()))
            }
            file if self.from_openai && is_foreign_file(file) => "messages: file id".to_owned(),
            Part::Image(_)
            | Part::Document(_)
            | Part::ToolCall(_)
            | Part::ToolResult(_)
            | Part::RedactedThinking(_)
            | Part::Native { dialect: Dialect::Anthropic, .. } => return true,
        };
        self.unsupported.add(lacks);
        false
    }

    fn blocks(&mut self, blocks: &[&'r Block]) -> Vec<Json<'r>> {
        let mut list = Vec::with_capacity(blocks.len());
        for block in blocks {
            list.extend(encode_block(block, &mut |what| self.unsupported.add(what)));
        }
        list
    }

    fn turn(&mut self, turn: &Turn<'r>) -> Members<'r> {
        let role = if turn.role == Role::Assistant { "assistant" } else { "user" };
        let mut blocks = self.blocks(&turn.blocks);
        if let (true, Some(Block { part: Part::Text(text), cache_control })) = (turn.prefill, turn.blocks.last()) {
            blocks.pop();
            let text = Members::typed("text").with("text", text.trim_end());
            blocks.push(text.maybe("cache_control", cache_control.as_ref()).into());
        }
        Members::new().with("role", role).with("content", Json::Array(blocks))
    }

    fn tools(&mut self) -> Tools<'r> {
        let request = self.request;
        let mut list: Vec<Json<'r>> = Vec::new();
        for tool in &request.tools {
            match tool {
                Tool::Function(function) => list.push(self.function(function).into()),
                Tool::Native { dialect: Dialect::Anthropic, raw } => list.push(raw.into()),
                Tool::Native { raw, .. } => {
                    self.unsupported.add(format!("tools: {}", crate::openai::type_of(raw.get())));
                }
            }
        }
        let mut choice = match &request.tool_choice {
            _ if list.is_empty() => None,
            Some(ToolChoice::Auto) => Some(Choice::Auto),
            Some(ToolChoice::Required) => Some(Choice::Any),
            Some(ToolChoice::None) => Some(Choice::None),
            Some(ToolChoice::Named(name)) => Some(Choice::Named(name)),
            Some(ToolChoice::Native { .. }) => {
                self.unsupported.add("tool_choice");
                None
            }
            // One call at a time is said with the choice.
            None if request.parallel_tools == Some(false) => Some(Choice::Auto),
            None => None,
        };
        if list.is_empty() {
            // Calls in the history want tools to be defined; OpenAI lets a client leave them out
            // when it is done with them, which is what `none` says.
            let names = called_names(&request.messages);
            if !names.is_empty() {
                list.extend(names.into_iter().map(|name| Json::from(undescribed_tool(name))));
                choice = Some(Choice::None);
            }
        }
        if let Some(schema) = self.json_tool_schema() {
            let chosen = match choice {
                // The client's own tool is to be called: the answer in JSON comes in a later turn.
                Some(Choice::Named(name)) => return Tools { list, choice: Some(Choice::Named(name)) },
                None if list.is_empty() => Choice::Named(JSON_TOOL),
                Some(Choice::None) => Choice::Named(JSON_TOOL),
                None | Some(Choice::Auto | Choice::Any) => Choice::Any,
            };
            list.push(json_tool(schema).into());
            // A client that asked to think gets its thoughts, which forced calls exclude.
            let thinks = matches!(request.thinking, Some(ThinkingMode::Budget(_) | ThinkingMode::Adaptive));
            choice = Some(if thinks { Choice::Auto } else { chosen });
        }
        Tools { list, choice }
    }

    fn function(&self, function: &'r Function) -> Members<'r> {
        let Function { name, description, schema, strict, cache_control } = function;
        let strict = strict.filter(|strict| *strict && self.options.quirks.structured_output);
        Members::new()
            .with("name", name)
            .maybe("description", description.as_ref())
            .with("input_schema", input_schema(schema.as_ref()))
            .maybe("strict", strict)
            .maybe("cache_control", cache_control.as_ref())
    }

    /// The schema of the answer, when it must come through a tool.
    fn json_tool_schema(&self) -> Option<Option<&'r JsonSchema>> {
        match &self.request.format {
            Some(OutputFormat::JsonObject) => Some(None),
            Some(OutputFormat::JsonSchema(schema)) if !self.options.quirks.structured_output => Some(Some(schema)),
            Some(OutputFormat::JsonSchema(_) | OutputFormat::Text) | None => None,
        }
    }

    fn reasoning(&mut self, forced: bool) -> Reasoning<'r> {
        let request = self.request;
        let default = self.options.default_max_tokens.max(1);
        let given = request.max_tokens;
        let mut max_tokens = given.unwrap_or(default);
        let adaptive = self.options.quirks.thinking == ThinkingStyle::Adaptive;
        let effort = request.effort.filter(|_| adaptive || !self.from_openai).and_then(anthropic_effort);
        let thinking = match (request.thinking, request.effort) {
            (Some(mode), _) if !self.refused("thinking") => Some(match mode {
                ThinkingMode::Disabled => {
                    return Reasoning { thinking: Some(Members::typed("disabled")), effort, max_tokens };
                }
                ThinkingMode::Adaptive => Members::typed("adaptive"),
                ThinkingMode::Budget(tokens) => {
                    if given.is_none() && max_tokens <= tokens {
                        max_tokens = tokens.saturating_add(default);
                    }
                    Members::typed("enabled").with("budget_tokens", tokens)
                }
            }),
            // An effort is a wish: where thinking is not possible, it is not done.
            (None, Some(effort))
                if self.from_openai && !forced && effort != Effort::None && !self.refused("reasoning_effort") =>
            {
                if adaptive {
                    Some(Members::typed("adaptive"))
                } else {
                    self.budget_for(effort, given, default).map(|(tokens, most)| {
                        max_tokens = most;
                        Members::typed("enabled").with("budget_tokens", tokens)
                    })
                }
            }
            _ => None,
        };
        Reasoning { thinking, effort, max_tokens }
    }

    /// The budget of an effort and the maximum that leaves room for an answer.
    fn budget_for(&self, effort: Effort, given: Option<u64>, default: u64) -> Option<(u64, u64)> {
        // Anthropic wants the thoughts that led to the calls now answered, and OpenAI's clients do
        // not always bring them.
        if answers_without_thinking(&self.request.messages) {
            return None;
        }
        let budget = effort.budget_tokens()?;
        match given {
            Some(most) if most <= LEAST_BUDGET => None,
            Some(most) => Some((budget.min(most - 1), most)),
            None if default > budget => Some((budget, default)),
            None => Some((budget, budget.saturating_add(default))),
        }
    }

    fn sampling(&mut self, thinks: bool, body: &mut Members<'r>) {
        let request = self.request;
        let thinks = thinks && !matches!(request.thinking, Some(ThinkingMode::Disabled));
        if let Some(temperature) = &request.temperature {
            let is_default = temperature.as_f64() == Some(1.0);
            if thinks && !is_default {
                self.unsupported.add("temperature");
            } else if !self.refused("temperature") {
                body.push("temperature", clamped(temperature));
            }
        }
        if let Some(top_p) = &request.top_p {
            let value = top_p.as_f64().unwrap_or(1.0);
            // 1 is the default of both, and newer models refuse it beside a temperature.
            let says_nothing = self.from_openai && value >= 1.0;
            if thinks && value < LEAST_THINKING_TOP_P {
                self.unsupported.add("top_p");
            } else if !says_nothing && !self.refused("top_p") {
                body.push("top_p", top_p.clone());
            }
        }
        if let Some(top_k) = request.top_k {
            if thinks {
                self.unsupported.add("top_k");
            } else if !self.refused("top_k") {
                body.push("top_k", top_k);
            }
        }
        let mut stop = Vec::new();
        for sequence in &request.stop {
            // Anthropic refuses those of white space only.
            if sequence.trim().is_empty() {
                self.unsupported("stop", "stop_sequences");
            } else {
                stop.push(sequence.as_str());
            }
        }
        if !stop.is_empty() && !self.refused("stop_sequences") {
            body.push("stop_sequences", stop);
        }
    }

    fn output_config(&mut self, effort: Option<&'static str>, body: &mut Members<'r>) {
        let mut config = Members::new().maybe("effort", effort);
        let mut any = effort.is_some();
        if let (Some(OutputFormat::JsonSchema(JsonSchema { schema, .. })), true) =
            (&self.request.format, self.options.quirks.structured_output)
        {
            config.push("format", Members::typed("json_schema").with("schema", schema));
            any = true;
        }
        if any {
            body.push("output_config", config);
        }
    }

    /// The end user, unless it is an address or a number of a person, which Anthropic refuses.
    fn user(&self) -> Option<String> {
        let request = self.request;
        let safety = request.extra.iter().find(|(key, _)| self.from_openai && key == "safety_identifier");
        let safety = safety.and_then(|(_, raw)| serde_json::from_str::<String>(raw.get()).ok());
        let user = request.user.clone().or(safety)?;
        let digits = user.chars().filter(char::is_ascii_digit).count();
        let is_phone = digits >= 7 && user.chars().all(|c| c.is_ascii_digit() || "+-() ".contains(c));
        let personal = self.from_openai && (user.contains('@') || is_phone);
        (!personal && !user.is_empty()).then_some(user)
    }
}

impl<'a> Choice<'a> {
    fn forces(&self) -> bool {
        match self {
            Self::Any | Self::Named(_) => true,
            Self::Auto | Self::None => false,
        }
    }

    fn encode(&self, parallel: Option<bool>) -> Members<'a> {
        let choice = match self {
            Self::None => return Members::typed("none"),
            Self::Auto => Members::typed("auto"),
            Self::Any => Members::typed("any"),
            Self::Named(name) => Members::typed("tool").with("name", *name),
        };
        choice.maybe("disable_parallel_tool_use", parallel.map(|parallel| !parallel))
    }
}

/// A parameter at the value it has anyway; SDKs and frameworks send these unasked.
fn is_neutral(key: &str, value: &Raw) -> bool {
    let text = value.get();
    match key {
        "n" | "best_of" => text == "1",
        "frequency_penalty" | "presence_penalty" => text.parse::<f64>().is_ok_and(|penalty| penalty == 0.0),
        "modalities" => text.split_whitespace().collect::<String>() == r#"["text"]"#,
        "top_logprobs" => text == "0",
        _ => matches!(text, "false" | "{}" | "[]" | "\"\""),
    }
}

/// An upload to OpenAI, which Anthropic does not have.
fn is_foreign_file(part: &Part) -> bool {
    match part {
        Part::Image(image) => matches!(image.source, Source::FileId(_)),
        Part::Document(document) => matches!(document.source, Source::FileId(_)),
        _ => false,
    }
}

fn anthropic_effort(effort: Effort) -> Option<&'static str> {
    match effort {
        Effort::None => None,
        Effort::Minimal | Effort::Low => Some("low"),
        Effort::Medium => Some("medium"),
        Effort::High => Some("high"),
        Effort::XHigh => Some("xhigh"),
        Effort::Max => Some("max"),
    }
}

/// OpenAI's temperatures go to 2, Anthropic's to 1: the highest is the highest.
fn clamped(temperature: &Number) -> Number {
    if temperature.as_f64().is_some_and(|value| value > 1.0) { Number::from(1u64) } else { temperature.clone() }
}

/// Names of the tools called in the history, each once, in order.
fn called_names(messages: &[Message]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for block in messages.iter().flat_map(|message| &message.content) {
        if let Part::ToolCall(call) = &block.part
            && !names.contains(&call.name.as_str())
        {
            names.push(&call.name);
        }
    }
    names
}

/// Whether the last answer called tools without telling its thoughts.
fn answers_without_thinking(messages: &[Message]) -> bool {
    let Some(last) = messages.iter().rfind(|message| message.role == Role::Assistant) else { return false };
    let calls = last.content.iter().any(|block| matches!(block.part, Part::ToolCall(_)));
    let thoughts = last.content.iter().any(|block| match &block.part {
        Part::Thinking(thinking) => thinking.signature.is_some(),
        Part::RedactedThinking(_) => true,
        _ => false,
    });
    calls && !thoughts
}

fn undescribed_tool(name: &str) -> Members<'_> {
    Members::new().with("name", name).with("input_schema", Members::typed("object"))
}

fn json_tool(schema: Option<&JsonSchema>) -> Members<'_> {
    let told = schema.and_then(|schema| schema.description.as_deref());
    let what = "Gives the answer. Call this exactly once; its input is the whole answer, as JSON.";
    let description = told.map_or_else(|| what.to_owned(), |told| format!("{what} The answer: {told}"));
    let schema = match schema {
        Some(schema) => input_schema(Some(&schema.schema)),
        None => Members::typed("object").with("additionalProperties", true).into(),
    };
    Members::new().with("name", JSON_TOOL).with("description", description).with("input_schema", schema)
}

/// A schema with the `type` Anthropic insists on; otherwise as it is.
fn input_schema(schema: Option<&Raw>) -> Json<'_> {
    let Some(schema) = schema else {
        return Members::typed("object").with("properties", Members::new()).into();
    };
    let Ok(mut fields) = Fields::of_text(schema.get()) else { return schema.into() };
    if fields.take("type").is_some() {
        return schema.into();
    }
    let mut members = Members::typed("object");
    for (key, value) in fields.rest() {
        members.push(key, value);
    }
    members.into()
}
