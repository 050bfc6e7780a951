//! Properties: what goes into a dialect comes out of it again, and a stream adds up to the answer.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Number;
use tollgate_dialects::chat::{
    Block, Choice, Effort, EncodeOptions, Event, Function, Image, JsonSchema, Message, OutputFormat, Part, Quirks, Raw,
    Reply, ReplyOptions, Request, Role, ServiceTier, Source, StopReason, StreamDecoder, StreamEncoder, Surface,
    Thinking, ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult, decode_reply, decode_request, encode_reply,
    encode_request,
};
use tollgate_dialects::{Dialect, Usage};

use crate::streams::{decoded, encoded, options};

const QUIRKS: fn() -> Quirks =
    || Quirks { cache_control: true, reasoning_history: true, structured_output: true, ..Quirks::default() };

fn raw(text: &str) -> Raw {
    Raw::parse(text).unwrap()
}

/// Text that says something and ends in no white space.
fn text() -> impl Strategy<Value = String> {
    "[a-z é\"\\\\\n{}:,漢]{0,8}[a-z]"
}

fn mark() -> impl Strategy<Value = Option<Raw>> {
    option::weighted(0.2, select(vec![raw(r#"{"type":"ephemeral"}"#), raw(r#"{"type":"ephemeral","ttl":"1h"}"#)]))
}

fn text_block() -> impl Strategy<Value = Block> {
    (text(), mark()).prop_map(|(text, cache_control)| Block { part: Part::Text(text), cache_control })
}

fn image_block() -> impl Strategy<Value = Block> {
    let source = prop_oneof![
        Just(Source::Url("https://x/y.png".to_owned())),
        Just(Source::Base64 { media_type: "image/png".to_owned(), data: "AAAA".to_owned() }),
    ];
    (source, mark())
        .prop_map(|(source, cache_control)| Block { part: Part::Image(Image { source, detail: None }), cache_control })
}

fn call() -> impl Strategy<Value = ToolCall> {
    let arguments = select(vec!["{}", r#"{"z":1.50,"a":"x\"y"}"#, r#"{ "n": [1, 2] }"#]);
    ("call_[a-zA-Z0-9]{4,8}", select(vec!["f", "g"]), arguments)
        .prop_map(|(id, name, arguments)| ToolCall::new(id, name, arguments))
}

fn thinking() -> impl Strategy<Value = Vec<Block>> {
    let signed = text().prop_map(|text| Part::Thinking(Thinking { text, signature: Some("sig".to_owned()) }));
    let redacted = Just(Part::RedactedThinking("zz".to_owned()));
    vec(prop_oneof![signed, redacted].prop_map(Block::new), 0..3)
}

/// What an assistant says, and what the user answers: results of its calls, then text and pictures.
fn exchange(errors: bool) -> impl Strategy<Value = [Message; 2]> {
    let results = vec((vec(text_block(), 0..3), any::<bool>(), mark()), 3);
    let said = vec(prop_oneof![3 => text_block(), 1 => image_block()], 1..3);
    (thinking(), vec(text_block(), 1..3), vec(call(), 0..3), results, said).prop_map(
        move |(mut content, texts, calls, results, said)| {
            content.extend(texts);
            let mut answer = Vec::new();
            for (call, (texts, is_error, cache_control)) in calls.into_iter().zip(results) {
                let result = ToolResult { call_id: call.id.clone(), content: texts, is_error: errors && is_error };
                content.push(Block::new(Part::ToolCall(call)));
                answer.push(Block { part: Part::ToolResult(result), cache_control });
            }
            answer.extend(said);
            [Message::new(Role::Assistant, content), Message::new(Role::User, answer)]
        },
    )
}

fn messages(errors: bool) -> impl Strategy<Value = Vec<Message>> {
    let system = option::of(vec(text_block(), 1..3));
    let first = vec(prop_oneof![3 => text_block(), 1 => image_block()], 1..3);
    (system, first, vec(exchange(errors), 0..3)).prop_map(|(system, first, exchanges)| {
        let mut messages = Vec::new();
        messages.extend(system.map(|content| Message::new(Role::System, content)));
        messages.push(Message::new(Role::User, first));
        messages.extend(exchanges.into_iter().flatten());
        messages
    })
}

fn tool() -> impl Strategy<Value = Tool> {
    let schema = r#"{"type":"object","properties":{"z":{"type":"number","maximum":1.50},"a":{}}}"#;
    (select(vec!["f", "g"]), option::of(text()), option::of(Just(true)), mark()).prop_map(
        move |(name, description, strict, cache_control)| {
            let schema = Some(raw(schema));
            Tool::Function(Function { name: name.to_owned(), description, schema, strict, cache_control })
        },
    )
}

fn fraction() -> impl Strategy<Value = Option<Number>> {
    option::of((1..20u32).prop_map(|n| Number::from_f64(f64::from(n) / 20.0).unwrap()))
}

fn request(surface: Surface) -> impl Strategy<Value = Request> {
    let anthropic = surface == Surface::AnthropicMessages;
    let choice = prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::Required),
        Just(ToolChoice::None),
        Just(ToolChoice::Named("f".to_owned()))
    ];
    let tools = (vec(tool(), 1..3), option::of(choice), option::of(any::<bool>()));
    let sampling = (fraction(), fraction(), option::of(1..100u64), vec(text(), 0..3));
    let efforts = vec![Effort::Low, Effort::Medium, Effort::High, Effort::XHigh, Effort::Max];
    let other = (
        option::of(select(efforts)),
        option::of(Just(ThinkingMode::Disabled)),
        any::<bool>(),
        option::of("u-[a-z]{1,8}"),
        option::of(select(vec![ServiceTier::Auto, ServiceTier::Standard])),
        any::<bool>(),
        any::<bool>(),
    );
    (messages(anthropic), tools, sampling, other, 1..9999u64).prop_map(
        move |(messages, tools, sampling, other, max_tokens)| {
            let mut request = Request::new(surface, "m", messages);
            (request.tools, request.tool_choice, request.parallel_tools) = tools;
            // Anthropic says the one with the other.
            if anthropic && !matches!(request.tool_choice, Some(ToolChoice::Auto | ToolChoice::Required)) {
                request.parallel_tools = None;
            }
            (request.temperature, request.top_p, request.top_k, request.stop) = sampling;
            request.max_tokens = Some(max_tokens);
            let (effort, thinking, format, user, tier, stream, hint) = other;
            (request.effort, request.user, request.service_tier, request.stream) = (effort, user, tier, stream);
            request.thinking = thinking;
            request.include_usage = anthropic || stream;
            let name = (!anthropic).then(|| "answer".to_owned());
            let schema = JsonSchema { name, description: None, schema: raw(r#"{"z":1.50}"#), strict: None };
            request.format = format.then_some(OutputFormat::JsonSchema(schema));
            let key = if anthropic { "context_management" } else { "brand_new" };
            if hint {
                request.extra = vec![(key.to_owned(), raw(r#"{"z":1e400,"a":[]}"#))];
            }
            request
        },
    )
}

/// Turns as they mean the same everywhere: neighbours of one role are one.
fn merged(mut request: Request) -> Request {
    let mut turns: Vec<Message> = Vec::new();
    for message in request.messages {
        match turns.last_mut() {
            Some(last) if last.role == message.role => last.content.extend(message.content),
            _ => turns.push(message),
        }
    }
    request.messages = turns;
    request
}

fn there_and_back(dialect: Dialect, surface: Surface, request: &Request) -> Request {
    let quirks = QUIRKS();
    let options = EncodeOptions { model: "m", default_max_tokens: 1, drop_unsupported: false, quirks: &quirks };
    let body = encode_request(dialect, request, &options).expect("all is supported");
    merged(decode_request(surface, &body).expect("what was encoded can be read"))
}

fn usage(reasoning: bool) -> impl Strategy<Value = Usage> {
    let tier = option::of(Just("priority".into()));
    (0..100u64, 0..100u64, 0..100u64, 0..100u64, 0..100u64, 0..100u64, tier).prop_map(
        move |(plain, read, short, long, said, thought, service_tier)| {
            let reasoning_tokens = if reasoning { thought } else { 0 };
            Usage {
                input_tokens: plain + read + short + long,
                output_tokens: said + reasoning_tokens,
                cache_read_tokens: read,
                cache_write_5m_tokens: short,
                cache_write_1h_tokens: long,
                reasoning_tokens,
                service_tier,
                ..Usage::default()
            }
        },
    )
}

fn reply(surface: Surface) -> impl Strategy<Value = Reply> {
    let anthropic = surface == Surface::AnthropicMessages;
    let id = if anthropic { "msg_[a-z0-9]{1,8}" } else { "chatcmpl-[a-z0-9]{1,8}" };
    let thinking = option::of((text(), any::<bool>()));
    let mut stops = vec![StopReason::EndTurn, StopReason::MaxTokens, StopReason::Refusal];
    if anthropic {
        stops.extend([StopReason::PauseTurn, StopReason::ContextWindow, StopReason::StopSequence]);
    }
    (id, thinking, option::of(text()), vec(call(), 0..3), select(stops), usage(!anthropic)).prop_map(
        move |(id, thinking, text, calls, stop, usage)| {
            let mut content = Vec::new();
            content.extend(
                thinking.map(|(text, signed)| {
                    Part::Thinking(Thinking { text, signature: signed.then(|| "sig".to_owned()) })
                }),
            );
            content.extend(text.map(Part::Text));
            let stop = if calls.is_empty() { stop } else { StopReason::ToolUse };
            content.extend(calls.into_iter().map(Part::ToolCall));
            let stop_sequence = (stop == StopReason::StopSequence).then(|| "END".to_owned());
            let choice = Choice { index: 0, content, stop: Some(stop), stop_sequence };
            Reply { id, model: "shown".to_owned(), choices: vec![choice], usage: Some(usage) }
        },
    )
}

/// The events of a stream that says what `reply` says, in pieces of three signs.
fn events_of(reply: &Reply) -> Vec<Event> {
    let mut events = vec![Event::Start { id: reply.id.clone(), model: reply.model.clone(), usage: None }];
    let pieces = |text: &str| {
        let signs: Vec<char> = text.chars().collect();
        signs.chunks(3).map(|piece| piece.iter().collect::<String>()).collect::<Vec<_>>()
    };
    for choice in &reply.choices {
        let index = choice.index;
        let mut calls = 0;
        for part in &choice.content {
            match part {
                Part::Text(text) => {
                    events.extend(pieces(text).into_iter().map(|text| Event::Text { choice: index, text }));
                }
                Part::Thinking(thinking) => {
                    let texts = pieces(&thinking.text).into_iter();
                    events.extend(texts.map(|text| Event::Thinking { choice: index, text }));
                    let signature = thinking.signature.clone();
                    events.extend(signature.map(|signature| Event::ThinkingSignature { choice: index, signature }));
                }
                Part::ToolCall(ToolCall { id, name, arguments }) => {
                    events.push(Event::ToolCall { choice: index, index: calls, id: id.clone(), name: name.clone() });
                    let texts = pieces(arguments).into_iter();
                    events.extend(texts.map(|json| Event::ToolArguments { choice: index, index: calls, json }));
                    calls += 1;
                }
                other => panic!("no stream has {other:?} here"),
            }
        }
        events.push(Event::Stop {
            choice: index,
            reason: choice.stop.clone().unwrap(),
            stop_sequence: choice.stop_sequence.clone(),
        });
    }
    events.extend(reply.usage.clone().map(Event::Usage));
    events.push(Event::End);
    events
}

/// The answer a stream of one choice adds up to.
fn assembled(events: Vec<Event>) -> Reply {
    let mut reply = Reply { choices: vec![Choice::default()], ..Reply::default() };
    let choice = &mut reply.choices[0];
    for event in events {
        match event {
            Event::Start { id, model, usage: _ } => (reply.id, reply.model) = (id, model),
            Event::Text { text, .. } => match choice.content.last_mut() {
                Some(Part::Text(last)) => last.push_str(&text),
                _ => choice.content.push(Part::Text(text)),
            },
            Event::Thinking { text, .. } => match choice.content.last_mut() {
                Some(Part::Thinking(Thinking { text: last, signature: None })) => last.push_str(&text),
                _ => choice.content.push(Part::Thinking(Thinking { text, signature: None })),
            },
            Event::ThinkingSignature { signature, .. } => match choice.content.last_mut() {
                Some(Part::Thinking(last)) => last.signature = Some(signature),
                other => panic!("a signature behind {other:?}"),
            },
            Event::RedactedThinking { data, .. } => choice.content.push(Part::RedactedThinking(data)),
            Event::ToolCall { id, name, .. } => {
                choice.content.push(Part::ToolCall(ToolCall { id, name, arguments: String::new() }));
            }
            Event::ToolArguments { json, .. } => match choice.content.last_mut() {
                Some(Part::ToolCall(call)) => call.arguments.push_str(&json),
                other => panic!("arguments behind {other:?}"),
            },
            Event::Stop { reason, stop_sequence, .. } => {
                (choice.stop, choice.stop_sequence) = (Some(reason), stop_sequence);
            }
            Event::Usage(usage) => reply.usage = Some(usage),
            Event::End => {}
            Event::Error(error) => panic!("{error:?}"),
        }
    }
    reply
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_openai_request_comes_back(request in request(Surface::OpenAiChat)) {
        let back = there_and_back(Dialect::OpenAi, Surface::OpenAiChat, &request);
        prop_assert_eq!(back, merged(request));
    }

    #[test]
    fn an_anthropic_request_comes_back(request in request(Surface::AnthropicMessages)) {
        let back = there_and_back(Dialect::Anthropic, Surface::AnthropicMessages, &request);
        prop_assert_eq!(back, merged(request));
    }

    #[test]
    fn a_conversation_survives_the_crossing(messages in messages(false)) {
        let request = Request::new(Surface::OpenAiChat, "m", messages);
        let crossed = there_and_back(Dialect::Anthropic, Surface::AnthropicMessages, &request);
        let back = there_and_back(Dialect::OpenAi, Surface::OpenAiChat, &crossed);
        prop_assert_eq!(&crossed.messages, &merged(request).messages);
        prop_assert_eq!(back.messages, crossed.messages);
    }

    #[test]
    fn an_openai_reply_comes_back_whole_and_streamed(reply in reply(Surface::OpenAiChat)) {
        let options = ReplyOptions { model: "shown", created: 1, id: None };
        let back = decode_reply(Dialect::OpenAi, &encode_reply(Surface::OpenAiChat, &reply, &options)).unwrap();
        prop_assert_eq!(&back, &reply);
        let stream = encoded(Surface::OpenAiChat, true, &events_of(&reply));
        prop_assert_eq!(assembled(decoded(Dialect::OpenAi, &[stream.as_bytes()])), reply);
    }

    #[test]
    fn an_anthropic_reply_comes_back_whole_and_streamed(reply in reply(Surface::AnthropicMessages)) {
        let options = ReplyOptions { model: "shown", created: 1, id: None };
        let body = encode_reply(Surface::AnthropicMessages, &reply, &options);
        let back = decode_reply(Dialect::Anthropic, &body).unwrap();
        prop_assert_eq!(&back, &reply);
        let stream = encoded(Surface::AnthropicMessages, true, &events_of(&reply));
        prop_assert_eq!(assembled(decoded(Dialect::Anthropic, &[stream.as_bytes()])), reply);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-z0-9 \n]{0,80}") {
        for bytes in [bytes.as_slice(), json.as_bytes(), format!("data: {json}\n\n").as_bytes()] {
            for surface in [Surface::OpenAiChat, Surface::OpenAiCompletions, Surface::AnthropicMessages] {
                let _ = decode_request(surface, bytes);
            }
            for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                let _ = decode_reply(dialect, bytes);
                let _ = tollgate_dialects::error::decode_error(dialect, 400, bytes);
                let mut decoder = StreamDecoder::new(dialect);
                let mut events = Vec::new();
                let _ = decoder.feed(bytes, &mut events);
                decoder.finish(&mut events);
                let mut encoder = StreamEncoder::new(Surface::AnthropicMessages, options(true));
                let mut out = Vec::new();
                for event in &events {
                    encoder.encode(event, &mut out);
                }
                encoder.finish(&mut out);
            }
        }
    }
}
