//! What a model would have said: from a request, whatever its dialect, and the script's reply to text, thinking, tool
//! calls and token counts. Pure; the wire shapes are made elsewhere.

use serde_json::Value;

use crate::schema;
use crate::script::Reply;
use crate::tokens::{self, Tokens};

/// A generation request, read from its dialect.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub model: String,
    pub stream: bool,
    /// OpenAI's `stream_options.include_usage`.
    pub include_usage: bool,
    /// Tokens.
    pub max_output: Option<u64>,
    pub stops: Vec<String>,
    /// Choices wanted, at least 1.
    pub choices: u64,
    /// Text of the last user message.
    pub said: String,
    /// Text of the tool result, if that is the last message.
    pub tool_result: Option<String>,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    /// Structured output wanted: its schema (`{}`: any JSON).
    pub schema: Option<Value>,
    pub thinking: bool,
    pub logprobs: bool,
    /// The request's own `mock_response`.
    pub mock_response: Option<String>,
    /// Input counts; output is still 0.
    pub input: Tokens,
}

/// A tool offered to the model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tool {
    pub name: String,
    pub schema: Value,
}

/// Whether the model calls a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// The mock then prefers to talk.
    #[default]
    Auto,
    Any,
    Named(String),
}

/// A tool call made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Without the dialect's prefix.
    pub id: String,
    /// The script gave the whole id.
    pub whole_id: bool,
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// Why the model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    StopSequence(String),
    ToolCalls,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generation {
    /// Number of the request; makes ids.
    pub seq: u64,
    pub model: String,
    pub thinking: Option<String>,
    /// The text in the pieces a stream sends.
    pub pieces: Vec<String>,
    pub calls: Vec<Call>,
    pub finish: Finish,
    pub choices: u64,
    /// Counted, or what the script says.
    pub tokens: Tokens,
}

impl Generation {
    /// The whole text.
    pub fn text(&self) -> String {
        self.pieces.concat()
    }
}

/// Replaced by a byte that is not UTF-8 when the answer is on the wire. From the private use area.
pub(crate) const INVALID_MARK: char = '\u{E0FF}';

/// What a request with `mock_response` is billed, whatever it says: LiteLLM's fixed figures.
const MOCK_RESPONSE_TOKENS: (u64, u64) = (10, 20);

const GREETING: &str = "Hello! This is Tollgate's built-in mock provider.";
const THOUGHT: &str = "The user wrote something; a short and friendly answer fits.";

/// Generates the answer to `ask` under `reply`.
pub(crate) fn generate(ask: &Ask, reply: &Reply, seq: u64) -> Generation {
    let calls = calls(ask, reply, seq);
    let thinking = reply.thinking.clone().or_else(|| ask.thinking.then(|| THOUGHT.to_string()));
    let mut text = text(ask, reply, &calls);
    let mut finish = if calls.is_empty() { Finish::Stop } else { Finish::ToolCalls };

    let stop = ask.stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| Some((text.find(stop)?, stop))).min();
    if let Some((at, stop)) = stop {
        finish = Finish::StopSequence(stop.clone());
        text.truncate(at);
    }
    let reasoning = thinking.as_deref().map_or(0, tokens::text_tokens);
    let mut pieces: Vec<&str> = tokens::split(&text);
    if let Some(most) = ask.max_output {
        let most = most.saturating_sub(reasoning) as usize;
        if pieces.len() > most {
            pieces.truncate(most);
            finish = Finish::Length;
        }
    }
    let called: u64 = calls.iter().map(|call| tokens::data_tokens(&call.arguments)).sum();
    let counted = Tokens {
        output: (pieces.len() as u64 + called + reasoning) * ask.choices,
        reasoning: reasoning * ask.choices,
        ..ask.input
    };
    let tokens = match (&reply.usage, &ask.mock_response) {
        (crate::script::UsageScript::Tokens(tokens), _) => *tokens,
        (_, Some(_)) if reply.text.is_none() => Tokens::new(MOCK_RESPONSE_TOKENS.0, MOCK_RESPONSE_TOKENS.1),
        _ => counted,
    };
    let mut pieces: Vec<String> = match reply.chunks {
        Some(chunks) => regroup(&pieces, chunks),
        None => pieces.into_iter().map(str::to_string).collect(),
    };
    if reply.invalid_utf8 {
        match pieces.last_mut() {
            Some(last) => last.push(INVALID_MARK),
            None => pieces.push(INVALID_MARK.to_string()),
        }
    }
    Generation {
        seq,
        model: reply.model.clone().unwrap_or_else(|| ask.model.clone()),
        thinking,
        pieces,
        calls,
        finish,
        choices: ask.choices,
        tokens,
    }
}

fn calls(ask: &Ask, reply: &Reply, seq: u64) -> Vec<Call> {
    let schema_of = |name: &str| ask.tools.iter().find(|tool| tool.name == name).map(|tool| &tool.schema);
    let call = |index: usize, name: &str, arguments: Option<&Value>, id: Option<&String>| Call {
        id: id.cloned().unwrap_or_else(|| format!("mock{seq:08}x{index}")),
        whole_id: id.is_some(),
        name: name.to_string(),
        arguments: match (arguments, schema_of(name)) {
            // A string is taken as it is: so a script can send arguments that are no JSON.
            (Some(Value::String(text)), _) => text.clone(),
            (Some(value), _) => value.to_string(),
            (None, Some(schema)) => schema::instance(schema).to_string(),
            (None, None) => "{}".to_string(),
        },
    };
    if !reply.tool_calls.is_empty() {
        let scripted = reply.tool_calls.iter().enumerate();
        return scripted.map(|(at, tool)| call(at, &tool.name, tool.arguments.as_ref(), tool.id.as_ref())).collect();
    }
    if reply.text.is_some() || ask.mock_response.is_some() {
        return Vec::new();
    }
    let wanted = match &ask.tool_choice {
        ToolChoice::Auto => None,
        ToolChoice::Any => ask.tools.first().map(|tool| tool.name.as_str()),
        ToolChoice::Named(name) => Some(name.as_str()),
    };
    wanted.map(|name| call(0, name, None, None)).into_iter().collect()
}

fn text(ask: &Ask, reply: &Reply, calls: &[Call]) -> String {
    if let Some(text) = reply.text.as_ref().or(ask.mock_response.as_ref()) {
        return text.clone();
    }
    if !calls.is_empty() {
        return String::new();
    }
    if let Some(chunks) = reply.chunks {
        let words: Vec<String> = (1..=chunks).map(|word| format!("word{word}")).collect();
        return words.join(" ");
    }
    if let Some(schema) = &ask.schema {
        let made = if schema.as_object().is_none_or(|fields| fields.is_empty()) {
            serde_json::json!({"answer": GREETING})
        } else {
            schema::instance(schema)
        };
        return made.to_string();
    }
    match (&ask.tool_result, ask.said.trim()) {
        (Some(result), _) => format!("{GREETING} The tool answered: {result}"),
        (None, "") => GREETING.to_string(),
        (None, said) => format!("{GREETING} You said: {said}"),
    }
}

/// The same text in `chunks` pieces, or in fewer if it has fewer characters.
fn regroup(pieces: &[&str], chunks: usize) -> Vec<String> {
    let text = pieces.concat();
    let units: Vec<String> = if pieces.len() >= chunks {
        pieces.iter().map(|piece| piece.to_string()).collect()
    } else {
        text.chars().map(String::from).collect()
    };
    let chunks = chunks.clamp(1, units.len().max(1));
    (0..chunks)
        .map(|at| units[at * units.len() / chunks..(at + 1) * units.len() / chunks].concat())
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ask(said: &str) -> Ask {
        Ask { model: "m".into(), choices: 1, said: said.into(), input: Tokens::new(7, 0), ..Ask::default() }
    }

    #[test]
    fn the_default_answer_is_friendly_and_counted_by_words() {
        let made = generate(&ask("hi there"), &Reply::default(), 1);
        assert_eq!(made.text(), "Hello! This is Tollgate's built-in mock provider. You said: hi there");
        assert_eq!((made.tokens, made.finish), (Tokens::new(7, 11), Finish::Stop));
    }

    #[test]
    fn limits_and_stops_cut_the_text() {
        let limited = generate(&Ask { max_output: Some(2), ..ask("hi") }, &Reply::default(), 1);
        assert_eq!((limited.text().as_str(), limited.finish), ("Hello! This", Finish::Length));
        assert_eq!(limited.tokens.output, 2);
        let stopped = generate(&Ask { stops: vec!["mock".into(), " is".into()], ..ask("hi") }, &Reply::default(), 1);
        assert_eq!((stopped.text().as_str(), stopped.finish), ("Hello! This", Finish::StopSequence(" is".into())));
    }

    #[test]
    fn a_forced_tool_gets_arguments_of_its_schema() {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let tools = vec![Tool { name: "weather".into(), schema }];
        let made = generate(&Ask { tools, tool_choice: ToolChoice::Any, ..ask("hi") }, &Reply::default(), 1);
        assert_eq!(made.calls[0].name, "weather");
        assert_eq!(made.calls[0].arguments, r#"{"city":"city"}"#);
        assert_eq!((made.text(), made.finish, made.tokens.output), (String::new(), Finish::ToolCalls, 4));
    }

    #[test]
    fn mock_response_costs_ten_and_twenty() {
        let made = generate(&Ask { mock_response: Some("yes".into()), ..ask("hi") }, &Reply::default(), 1);
        assert_eq!((made.text().as_str(), made.tokens), ("yes", Tokens::new(10, 20)));
    }

    #[test]
    fn chunks_say_how_many_pieces() {
        for (text, chunks, pieces) in
            [(Some("a b c d"), 2, 2), (Some("abcdef"), 3, 3), (None, 50, 50), (Some("ab"), 9, 2)]
        {
            let reply = Reply { text: text.map(str::to_string), chunks: Some(chunks), ..Reply::default() };
            assert_eq!(generate(&ask("hi"), &reply, 1).pieces.len(), pieces, "{text:?} in {chunks}");
        }
    }
}
