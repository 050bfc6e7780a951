//! A `/v1/messages` request, read.

use super::content::decode_content;
use crate::Dialect;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::{
    Effort, Function, JsonSchema, Message, OutputFormat, Request, Role, ServiceTier, Surface, Tool, ToolChoice,
};
use crate::openai::decode_thinking_mode;

pub(crate) fn decode_request(body: &[u8]) -> Result<Request, DecodeError> {
    let mut fields = Fields::of_body(body)?;
    let model = fields.need_string("model")?;
    let list = fields.need("messages")?;
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        let content = decode_content(&system)?;
        if !content.is_empty() {
            messages.push(Message::new(Role::System, content));
        }
    }
    let turns = list.array()?;
    if turns.is_empty() {
        return Err(list.wrong("must not be empty"));
    }
    for message in &turns {
        messages.push(decode_message(message)?);
    }
    let mut request = Request::new(Surface::AnthropicMessages, model, messages);
    request.max_tokens = fields.take_u64("max_tokens")?;
    request.stop = fields.take_array("stop_sequences")?.iter().map(Node::string).collect::<Result<_, _>>()?;
    request.temperature = fields.take_number("temperature")?;
    request.top_p = fields.take_number("top_p")?;
    request.top_k = fields.take_u64("top_k")?;
    request.tools = fields.take_array("tools")?.iter().map(decode_tool).collect::<Result<_, _>>()?;
    if let Some(choice) = fields.take("tool_choice") {
        decode_tool_choice(&choice, &mut request)?;
    }
    request.thinking = fields.take_fields("thinking")?.map(decode_thinking_mode).transpose()?;
    if let Some(config) = fields.take_fields("output_config")? {
        decode_output_config(config, &mut request)?;
    }
    // The beta's name of `output_config.format`.
    if let Some(format) = fields.take_fields("output_format")? {
        request.format = decode_format(format)?;
    }
    // The rest of the metadata means nothing elsewhere.
    let user = fields.take_fields("metadata")?.map(|mut metadata| metadata.take_string("user_id")).transpose()?;
    request.user = user.flatten();
    request.service_tier = fields.take_string("service_tier")?.map(|tier| match tier.as_str() {
        "auto" => ServiceTier::Auto,
        "standard_only" => ServiceTier::Standard,
        _ => ServiceTier::Other(tier),
    });
    request.stream = fields.take_bool("stream")?.unwrap_or(false);
    // Anthropic's streams always tell usage.
    request.include_usage = true;
    request.extra = fields.rest();
    Ok(request)
}

fn decode_message(node: &Node<'_>) -> Result<Message, DecodeError> {
    let mut fields = node.fields()?;
    let role_node = fields.need("role")?;
    let role = match role_node.string()?.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return Err(role_node.wrong("must be user or assistant")),
    };
    Ok(Message::new(role, decode_content(&fields.need("content")?)?))
}

fn decode_tool(node: &Node<'_>) -> Result<Tool, DecodeError> {
    let mut fields = node.fields()?;
    let kind = fields.take_string("type")?;
    if kind.is_some_and(|kind| kind != "custom") {
        return Ok(Tool::Native { dialect: Dialect::Anthropic, raw: node.raw() });
    }
    Ok(Tool::Function(Function {
        name: fields.need_string("name")?,
        description: fields.take_string("description")?,
        schema: fields.take("input_schema").map(|schema| schema.fields().map(|_| schema.raw())).transpose()?,
        strict: fields.take_bool("strict")?,
        cache_control: fields.take_raw("cache_control"),
    }))
}

fn decode_tool_choice(node: &Node<'_>, request: &mut Request) -> Result<(), DecodeError> {
    let mut fields = node.fields()?;
    let kind = fields.need("type")?;
    request.tool_choice = Some(match kind.string()?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(fields.need_string("name")?),
        _ => return Err(kind.wrong("must be one of auto, any, tool, none")),
    });
    request.parallel_tools = fields.take_bool("disable_parallel_tool_use")?.map(|disabled| !disabled);
    Ok(())
}

fn decode_output_config(mut config: Fields<'_>, request: &mut Request) -> Result<(), DecodeError> {
    if let Some(effort) = config.take("effort") {
        let known = Effort::parse(&effort.string()?);
        request.effort = Some(known.ok_or_else(|| effort.wrong("must be one of low, medium, high, xhigh, max"))?);
    }
    if let Some(format) = config.take_fields("format")? {
        request.format = decode_format(format)?;
    }
    Ok(())
}

fn decode_format(mut format: Fields<'_>) -> Result<Option<OutputFormat>, DecodeError> {
    let kind = format.need("type")?;
    match kind.string()?.as_str() {
        "json_schema" => {
            let schema = format.need("schema")?;
            let schema = schema.fields().map(|_| schema.raw())?;
            Ok(Some(OutputFormat::JsonSchema(JsonSchema { name: None, description: None, schema, strict: None })))
        }
        "text" => Ok(None),
        _ => Err(kind.wrong("must be json_schema")),
    }
}
