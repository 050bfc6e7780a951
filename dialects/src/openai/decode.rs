//! A `/v1/chat/completions` request, read.

use super::content::{decode_content, decode_thinking};
use crate::Dialect;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::{
    Block, Effort, Function, JsonSchema, Message, OutputFormat, Part, Request, Role, ServiceTier, Surface, Thinking,
    ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult,
};

pub(crate) fn decode_request(body: &[u8]) -> Result<Request, DecodeError> {
    let mut fields = Fields::of_body(body)?;
    let model = fields.need_string("model")?;
    let messages = fields.need("messages")?;
    let list = messages.array()?;
    if list.is_empty() {
        return Err(messages.wrong("must not be empty"));
    }
    let messages = list.iter().map(decode_message).collect::<Result<_, _>>()?;
    let mut request = Request::new(Surface::OpenAiChat, model, messages);
    let tools = fields.take_array("tools")?;
    request.tools = tools.iter().map(decode_tool).collect::<Result<_, _>>()?;
    request.tool_choice = fields.take("tool_choice").map(|choice| decode_tool_choice(&choice)).transpose()?;
    request.parallel_tools = fields.take_bool("parallel_tool_calls")?;
    let newer = fields.take_u64("max_completion_tokens")?;
    request.max_tokens = newer.or(fields.take_u64("max_tokens")?);
    request.effort = fields.take("reasoning_effort").map(|effort| decode_effort(&effort)).transpose()?;
    request.thinking = fields.take_fields("thinking")?.map(decode_thinking_mode).transpose()?;
    request.format = fields.take_fields("response_format")?.map(decode_format).transpose()?;
    take_sampling(&mut fields, &mut request)?;
    request.extra = fields.rest();
    Ok(request)
}

/// What chats and text completions have in common.
pub(crate) fn take_sampling(fields: &mut Fields<'_>, request: &mut Request) -> Result<(), DecodeError> {
    request.stop = match fields.take("stop") {
        Some(stop) if stop.is_string() => vec![stop.string()?],
        Some(stop) => stop.array()?.iter().map(Node::string).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    request.temperature = fields.take_number("temperature")?;
    request.top_p = fields.take_number("top_p")?;
    // Not OpenAI's, but known to every server that has it.
    request.top_k = fields.take_u64("top_k")?;
    // Some write the number that their users have.
    request.user = match fields.take("user") {
        Some(user) if user.is_number() => Some(user.text().to_owned()),
        user => user.map(|user| user.string()).transpose()?,
    };
    request.service_tier = fields.take_string("service_tier")?.map(|tier| match tier.as_str() {
        "auto" => ServiceTier::Auto,
        "default" => ServiceTier::Standard,
        "flex" => ServiceTier::Flex,
        "priority" => ServiceTier::Priority,
        _ => ServiceTier::Other(tier),
    });
    request.stream = fields.take_bool("stream")?.unwrap_or(false);
    let options = fields.take_fields("stream_options")?;
    let usage = options.map(|mut options| options.take_bool("include_usage")).transpose()?;
    request.include_usage = usage.flatten().unwrap_or(false);
    Ok(())
}

fn decode_message(node: &Node<'_>) -> Result<Message, DecodeError> {
    let mut fields = node.fields()?;
    let role_node = fields.need("role")?;
    let role = role_node.string()?;
    // LiteLLM's clients may mark a whole message, which means its end.
    let cache_control = fields.take_raw("cache_control");
    let content = fields.take("content");
    let mut blocks = content.map(|content| decode_content(&content)).transpose()?.unwrap_or_default();
    let role = match role.as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => {
            decode_assistant(&mut fields, &mut blocks)?;
            Role::Assistant
        }
        "tool" => {
            let call_id = fields.need_string("tool_call_id")?;
            blocks = vec![Block::new(Part::ToolResult(ToolResult { call_id, content: blocks, is_error: false }))];
            Role::User
        }
        _ => return Err(role_node.wrong("must be one of system, developer, user, assistant, tool")),
    };
    if let (Some(last), Some(mark)) = (blocks.last_mut(), cache_control) {
        last.cache_control = Some(mark);
    }
    Ok(Message { role, name: fields.take_string("name")?, content: blocks })
}

/// Thinking goes before the text and tool calls behind it, as models write them.
fn decode_assistant(fields: &mut Fields<'_>, blocks: &mut Vec<Block>) -> Result<(), DecodeError> {
    if let Some(refusal) = fields.take_string("refusal")?.filter(|refusal| !refusal.is_empty()) {
        blocks.push(Block::text(refusal));
    }
    let mut thinking = Vec::new();
    for block in fields.take_array("thinking_blocks")? {
        let mut block = block.fields()?;
        let kind = block.need_string("type")?;
        thinking.push(Block::new(decode_thinking(&kind, block)?));
    }
    let text = match fields.take_string("reasoning_content")? {
        Some(text) => Some(text),
        None => fields.take_string("reasoning")?,
    };
    // The blocks hold the same text with its proof.
    if let (true, Some(text)) = (thinking.is_empty(), text.filter(|text| !text.is_empty())) {
        thinking.push(Block::new(Part::Thinking(Thinking { text, signature: None })));
    }
    blocks.splice(0..0, thinking);
    for call in fields.take_array("tool_calls")? {
        let mut call = call.fields()?;
        let id = call.need_string("id")?;
        let mut function = call.need_fields("function")?;
        let name = function.need_string("name")?;
        let arguments = arguments_text(&mut function)?;
        blocks.push(Block::new(Part::ToolCall(ToolCall::new(id, name, arguments))));
    }
    Ok(())
}

/// `arguments` is JSON within a string; some servers and clients send the object itself.
pub(super) fn arguments_text(function: &mut Fields<'_>) -> Result<String, DecodeError> {
    match function.take("arguments") {
        Some(arguments) if arguments.is_string() => arguments.string(),
        Some(arguments) => Ok(arguments.text().to_owned()),
        None => Ok(String::new()),
    }
}

fn decode_tool(node: &Node<'_>) -> Result<Tool, DecodeError> {
    let mut fields = node.fields()?;
    if fields.need_string("type")? != "function" {
        return Ok(Tool::Native { dialect: Dialect::OpenAi, raw: node.raw() });
    }
    let outer_mark = fields.take_raw("cache_control");
    let mut function = fields.need_fields("function")?;
    Ok(Tool::Function(Function {
        name: function.need_string("name")?,
        description: function.take_string("description")?,
        schema: function.take("parameters").map(|schema| schema.fields().map(|_| schema.raw())).transpose()?,
        strict: function.take_bool("strict")?,
        cache_control: outer_mark.or_else(|| function.take_raw("cache_control")),
    }))
}

fn decode_tool_choice(node: &Node<'_>) -> Result<ToolChoice, DecodeError> {
    if node.is_string() {
        return match node.string()?.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            // Mistral's word for it.
            "required" | "any" => Ok(ToolChoice::Required),
            "none" => Ok(ToolChoice::None),
            _ => Err(node.wrong("must be auto, required, none or an object that names a function")),
        };
    }
    let mut fields = node.fields()?;
    match fields.take_fields("function")? {
        Some(mut function) => Ok(ToolChoice::Named(function.need_string("name")?)),
        None => Ok(ToolChoice::Native { dialect: Dialect::OpenAi, raw: node.raw() }),
    }
}

fn decode_effort(node: &Node<'_>) -> Result<Effort, DecodeError> {
    // LiteLLM also takes the Responses API's object.
    let name = if node.is_string() { node.string()? } else { node.fields()?.need_string("effort")? };
    Effort::parse(&name).ok_or_else(|| node.wrong("must be one of none, minimal, low, medium, high, xhigh, max"))
}

/// Anthropic's `thinking`, which LiteLLM's OpenAI clients send too.
pub(crate) fn decode_thinking_mode(mut fields: Fields<'_>) -> Result<ThinkingMode, DecodeError> {
    let kind = fields.need("type")?;
    match kind.string()?.as_str() {
        "disabled" => Ok(ThinkingMode::Disabled),
        "adaptive" => Ok(ThinkingMode::Adaptive),
        "enabled" => match fields.take_u64("budget_tokens")? {
            Some(tokens) => Ok(ThinkingMode::Budget(tokens)),
            None => Ok(ThinkingMode::Adaptive),
        },
        _ => Err(kind.wrong("must be one of enabled, disabled, adaptive")),
    }
}

fn decode_format(mut fields: Fields<'_>) -> Result<OutputFormat, DecodeError> {
    let kind = fields.need("type")?;
    match kind.string()?.as_str() {
        "text" => Ok(OutputFormat::Text),
        "json_object" => match fields.take("schema") {
            // Together's and llama.cpp's older way to a schema.
            Some(schema) => Ok(OutputFormat::JsonSchema(JsonSchema {
                name: None,
                description: None,
                schema: schema.fields().map(|_| schema.raw())?,
                strict: None,
            })),
            None => Ok(OutputFormat::JsonObject),
        },
        "json_schema" => {
            let mut inner = fields.need_fields("json_schema")?;
            let schema = inner.need("schema")?;
            Ok(OutputFormat::JsonSchema(JsonSchema {
                name: inner.take_string("name")?,
                description: inner.take_string("description")?,
                schema: schema.fields().map(|_| schema.raw())?,
                strict: inner.take_bool("strict")?,
            }))
        }
        _ => Err(kind.wrong("must be one of text, json_object, json_schema")),
    }
}
