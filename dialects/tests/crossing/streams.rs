//! Streams: the events of a provider of one dialect, and the transcript the client of the other
//! gets. Numbers in the names of tests are rules that SDKs break on when they are not kept.

use serde_json::Value;
use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{Event, StopReason, StreamDecoder, StreamEncoder, StreamOptions, Surface};
use tollgate_dialects::error::{ErrorBody, ErrorKind};

pub fn options(include_usage: bool) -> StreamOptions {
    StreamOptions { model: "shown".to_owned(), created: 1, include_usage, id: None }
}

pub fn decoded(dialect: Dialect, chunks: &[&[u8]]) -> Vec<Event> {
    let mut decoder = StreamDecoder::new(dialect);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk, &mut events).expect("the stream is well formed");
    }
    decoder.finish(&mut events);
    events
}

pub fn encoded(surface: Surface, include_usage: bool, events: &[Event]) -> String {
    let mut encoder = StreamEncoder::new(surface, options(include_usage));
    let mut out = Vec::new();
    for event in events {
        encoder.encode(event, &mut out);
    }
    encoder.finish(&mut out);
    String::from_utf8(out).expect("a stream is text")
}

/// The transcript, one line for each event, without what all chunks of a surface have in common.
fn transcript(dialect: Dialect, surface: Surface, include_usage: bool, stream: &str) -> Vec<String> {
    let bytes = encoded(surface, include_usage, &decoded(dialect, &[stream.as_bytes()]));
    let common = match surface {
        Surface::OpenAiChat => r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"shown","#,
        Surface::OpenAiCompletions => r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"shown","#,
        Surface::AnthropicMessages => "{",
    };
    let events = bytes.strip_suffix("\n\n").expect("a stream ends with a blank line").split("\n\n");
    events.map(|event| event.replace(common, "{").replace("\ndata: ", " | ")).collect()
}

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"m"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hé"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":":1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: content_block_start
data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_2","name":"g","input":{}}}

event: content_block_stop
data: {"type":"content_block_stop","index":3}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":7}}

event: message_stop
data: {"type":"message_stop"}

"#;

const OPENAI: &str = r#": comment

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"Hé"}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" you"}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"g","arguments":""}}]}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":15,"completion_tokens":7,"total_tokens":22,"prompt_tokens_details":{"cached_tokens":5}}}

data: [DONE]

"#;

#[test]
fn rules_1_2_4_5_6_an_anthropic_stream_is_told_to_openai_clients() {
    let expected = [
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"reasoning_content":"h"},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"reasoning_content":"m"},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"thinking_blocks":[{"type":"thinking","thinking":"hm","signature":"sig"}]},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"content":"Hé"},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"toolu_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"toolu_2","type":"function","function":{"name":"g","arguments":""}}]},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"data: {"choices":[],"usage":{"prompt_tokens":15,"completion_tokens":7,"total_tokens":22,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":0},"cache_read_input_tokens":5}}"#,
        "data: [DONE]",
    ];
    assert_eq!(transcript(Dialect::Anthropic, Surface::OpenAiChat, true, ANTHROPIC), expected);
    let without_usage = transcript(Dialect::Anthropic, Surface::OpenAiChat, false, ANTHROPIC);
    assert_eq!(without_usage, [&expected[..11], &expected[12..]].concat());
}

#[test]
fn rules_6_7_an_openai_stream_is_told_to_anthropic_clients() {
    let expected = [
        r#"event: message_start | {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"shown","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}"#,
        r#"event: content_block_start | {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        r#"event: content_block_delta | {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        r#"event: content_block_stop | {"type":"content_block_stop","index":0}"#,
        r#"event: content_block_start | {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#,
        r#"event: content_block_delta | {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hé"}}"#,
        r#"event: content_block_delta | {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":" you"}}"#,
        r#"event: content_block_stop | {"type":"content_block_stop","index":1}"#,
        r#"event: content_block_start | {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call_1","name":"f","input":{}}}"#,
        r#"event: content_block_delta | {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}"#,
        r#"event: content_block_delta | {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":":1}"}}"#,
        r#"event: content_block_stop | {"type":"content_block_stop","index":2}"#,
        r#"event: content_block_start | {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"call_2","name":"g","input":{}}}"#,
        r#"event: content_block_delta | {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#,
        r#"event: content_block_stop | {"type":"content_block_stop","index":3}"#,
        r#"event: message_delta | {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":10,"cache_creation_input_tokens":0,"cache_read_input_tokens":5,"output_tokens":7}}"#,
        r#"event: message_stop | {"type":"message_stop"}"#,
    ];
    assert_eq!(transcript(Dialect::OpenAi, Surface::AnthropicMessages, false, OPENAI), expected);
}

#[test]
fn a_chat_stream_is_told_as_a_text_completion() {
    let expected = [
        r#"data: {"choices":[{"text":"Hé","index":0,"logprobs":null,"finish_reason":null}]}"#,
        r#"data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"tool_calls"}]}"#,
        "data: [DONE]",
    ];
    assert_eq!(transcript(Dialect::Anthropic, Surface::OpenAiCompletions, false, ANTHROPIC), expected);
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_events() {
    for (dialect, stream) in [(Dialect::Anthropic, ANTHROPIC), (Dialect::OpenAi, OPENAI)] {
        for stream in [stream.to_owned(), stream.replace('\n', "\r\n")] {
            let bytes = stream.as_bytes();
            let expected = decoded(dialect, &[bytes]);
            assert_eq!(expected.last(), Some(&Event::End));
            for cut in 0..bytes.len() {
                assert_eq!(decoded(dialect, &[&bytes[..cut], &bytes[cut..]]), expected, "{dialect} cut at {cut}");
            }
            let each: Vec<_> = bytes.chunks(1).collect();
            assert_eq!(decoded(dialect, &each), expected);
        }
    }
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_and_never_looks_whole() {
    for (dialect, stream, whole_from) in [
        (Dialect::Anthropic, ANTHROPIC, ANTHROPIC.find("event: message_stop").unwrap() - 2),
        (Dialect::OpenAi, OPENAI, OPENAI.find("data: {\"id\":\"chatcmpl-1\",\"choices\":[],").unwrap() - 2),
    ] {
        for cut in 0..stream.len() {
            let events = decoded(dialect, &[&stream.as_bytes()[..cut]]);
            if cut < whole_from {
                assert!(matches!(events.last(), Some(Event::Error(_))), "{dialect} cut at {cut}");
                for surface in [Surface::OpenAiChat, Surface::AnthropicMessages] {
                    let text = encoded(surface, true, &events);
                    assert!(!text.contains("message_stop") && text.contains("\"error\""), "{text}");
                }
            } else {
                assert_eq!(events.last(), Some(&Event::End), "{dialect} cut at {cut}");
            }
        }
    }
}

#[test]
fn rule_3_an_error_in_mid_stream_is_raised_by_openai_clients() {
    let stream = format!(
        "{}event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}}}\n\n",
        &ANTHROPIC[..ANTHROPIC.find("event: content_block_start").unwrap()]
    );
    let told = transcript(Dialect::Anthropic, Surface::OpenAiChat, true, &stream);
    let expected = [
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"data: {"error":{"message":"Overloaded","type":"internal_server_error","param":null,"code":"529"}}"#,
        "data: [DONE]",
    ];
    assert_eq!(told, expected);
}

#[test]
fn rule_7_an_error_in_mid_stream_is_raised_by_anthropic_clients() {
    let stream =
        "data: {\"error\":{\"message\":\"slow down\",\"type\":\"rate_limit_error\",\"code\":429}}\n\ndata: [DONE]\n\n";
    let told = transcript(Dialect::OpenAi, Surface::AnthropicMessages, true, stream);
    let expected = [r#"event: error | {"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#];
    assert_eq!(told, expected);
}

#[test]
fn nothing_follows_an_error_or_an_end() {
    for surface in [Surface::OpenAiChat, Surface::OpenAiCompletions, Surface::AnthropicMessages] {
        let mut encoder = StreamEncoder::new(surface, options(true));
        let mut out = Vec::new();
        encoder.error(&ErrorBody::new(500, ErrorKind::Internal, "", "no"), &mut out);
        let length = out.len();
        assert!(length > 0);
        encoder.encode(&Event::Text { choice: 0, text: "x".to_owned() }, &mut out);
        encoder.error(&ErrorBody::new(500, ErrorKind::Internal, "", "no"), &mut out);
        encoder.finish(&mut out);
        assert_eq!(out.len(), length);
    }
    let mut decoder = StreamDecoder::new(Dialect::OpenAi);
    let mut events = Vec::new();
    decoder.feed(b"data: {]\n\ndata: [DONE]\n\n", &mut events).unwrap_err();
    decoder.feed(b"data: [DONE]\n\n", &mut events).unwrap();
    decoder.finish(&mut events);
    assert_eq!(events, []);
}

#[test]
fn an_empty_stream_that_ends_well_is_an_empty_answer_to_anthropic_clients() {
    let told = transcript(Dialect::OpenAi, Surface::AnthropicMessages, false, "data: [DONE]\n\n");
    let names: Vec<_> = told.iter().filter_map(|event| event.split(" | ").next()).collect();
    assert_eq!(names, ["event: message_start", "event: message_delta", "event: message_stop"]);
}

/// The tool calls an Anthropic client puts together: id, name, input.
fn anthropic_calls(stream: &str) -> Vec<(String, String, String)> {
    let mut calls = Vec::new();
    let mut open = None;
    for line in stream.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: Value = serde_json::from_str(line).unwrap();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open, None, "one block at a time");
                assert_eq!(event["index"], calls.len());
                open = Some(calls.len());
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                calls.push((text(&event["content_block"]["id"]), text(&event["content_block"]["name"]), String::new()));
            }
            "content_block_delta" => {
                assert_eq!(open.map(Value::from), Some(event["index"].clone()));
                calls.last_mut().unwrap().2.push_str(event["delta"]["partial_json"].as_str().unwrap());
            }
            "content_block_stop" => open = None,
            _ => {}
        }
    }
    calls
}

#[test]
fn calls_written_at_once_are_told_one_after_the_other() {
    let piece = |fields: &str| {
        format!("data: {{\"id\":\"1\",\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{fields}]}}}}]}}\n\n")
    };
    let stream = [
        piece(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}}"#),
        piece(r#"{"index":1,"id":"b","function":{"name":"g","arguments":"{\"y\":"}}"#),
        piece(r#"{"index":2,"id":"c","function":{"name":"h"}}"#),
        piece(r#"{"index":1,"function":{"arguments":"2}"}}"#),
        piece(r#"{"index":0,"function":{"arguments":"1}"}}"#),
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let events = decoded(Dialect::OpenAi, &[stream.as_bytes()]);
    assert!(events.contains(&Event::Stop { choice: 0, reason: StopReason::ToolUse, stop_sequence: None }));
    let calls = anthropic_calls(&encoded(Surface::AnthropicMessages, false, &events));
    let call = |id: &str, name: &str, json: &str| (id.to_owned(), name.to_owned(), json.to_owned());
    assert_eq!(calls, [call("a", "f", r#"{"x":1}"#), call("b", "g", r#"{"y":2}"#), call("c", "h", "{}")]);
}

#[test]
fn calls_of_servers_that_leave_out_indexes_or_ids_are_told_apart() {
    let stream = |first: &str, second: &str| {
        let piece = |call: &str| {
            format!(
                "data: {{\"id\":\"chatcmpl-7\",\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{call}]}}}}]}}\n\n"
            )
        };
        format!(
            "{}{}data: {{\"choices\":[{{\"index\":0,\"finish_reason\":\"tool_calls\"}}]}}\n\ndata: [DONE]\n\n",
            piece(first),
            piece(second)
        )
    };
    let cases = [
        // The same index, other ids.
        (
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#,
            r#"{"index":0,"id":"b","function":{"name":"f","arguments":"{}"}}"#,
            ["a", "b"],
        ),
        // No index.
        (
            r#"{"id":"a","function":{"name":"f","arguments":"{}"}}"#,
            r#"{"id":"b","function":{"name":"f","arguments":{}}}"#,
            ["a", "b"],
        ),
        // No id.
        (
            r#"{"index":0,"function":{"name":"f","arguments":"{}"}}"#,
            r#"{"index":1,"function":{"name":"f","arguments":"{}"}}"#,
            ["call_7-0", "call_7-1"],
        ),
    ];
    for (first, second, ids) in cases {
        let events = decoded(Dialect::OpenAi, &[stream(first, second).as_bytes()]);
        let calls = anthropic_calls(&encoded(Surface::AnthropicMessages, false, &events));
        let expected = ids.map(|id| (id.to_owned(), "f".to_owned(), "{}".to_owned()));
        assert_eq!(calls, expected, "{first} {second}");
    }
}

#[test]
fn a_json_answer_through_the_reserved_tool_streams_as_text() {
    let stream = r#"data: {"type":"message_start","message":{"id":"msg_1","model":"c","usage":{"input_tokens":1,"output_tokens":1}}}

data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"tollgate_json_output","input":{}}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"1}"}}

data: {"type":"content_block_stop","index":0}

data: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":3}}

data: {"type":"message_stop"}

"#;
    let told = transcript(Dialect::Anthropic, Surface::OpenAiChat, false, stream);
    let expected = [
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"content":"{\"a\":"},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"content":"1}"},"finish_reason":null}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
        "data: [DONE]",
    ];
    assert_eq!(told, expected);
}

#[test]
fn azures_first_chunk_and_figures_with_every_chunk_do_no_harm() {
    let stream = r#"data: {"choices":[],"id":"","model":"","prompt_filter_results":[{}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}

data: [DONE]"#;
    let events = decoded(Dialect::OpenAi, &[stream.as_bytes()]);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Start { .. })).count(), 1);
    let figures = events.iter().filter_map(|event| match event {
        Event::Usage(usage) => Some(usage.output_tokens),
        _ => None,
    });
    assert_eq!(figures.collect::<Vec<_>>(), [2]);
    assert_eq!(events.last(), Some(&Event::End));
}

#[test]
fn an_event_without_end_is_refused() {
    let mut decoder = StreamDecoder::new(Dialect::OpenAi);
    let mut events = Vec::new();
    let piece = vec![b'x'; 1 << 20];
    let fed = (0..8).try_for_each(|_| decoder.feed(&piece, &mut events));
    assert!(fed.is_err());
    assert_eq!(events, []);
}
