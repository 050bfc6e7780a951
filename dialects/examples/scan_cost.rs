//! Prints what reading a request and relaying a stream cost on this machine, in nanoseconds:
//! `cargo run --release -p tollgate-dialects --example scan_cost`. The best of many rounds each.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use tollgate_dialects::Dialect;
use tollgate_dialects::head::{Operation, read_head};
use tollgate_dialects::sniff::{SniffOptions, StreamSniffer};
use tollgate_dialects::splice::{Splice, json_string};
use tollgate_dialects::usage::{UsageQuirks, read_unary};

const ROUNDS: usize = 40;

/// The time of one call, in nanoseconds: the best of the rounds.
fn nanoseconds(calls: u32, mut call: impl FnMut()) -> f64 {
    let round = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(calls)
    };
    (0..ROUNDS).map(|_| round(&mut call)).fold(f64::INFINITY, f64::min)
}

fn report(what: &str, bytes: usize, nanoseconds: f64) {
    println!("{what:<44} {bytes:>8} B {nanoseconds:>10.0} ns {:>8.3} ns/B", nanoseconds / bytes as f64);
}

/// A chat request of about `size` bytes whose text repeats `text`.
fn request(size: usize, text: &str) -> Bytes {
    let mut messages = String::from(r#"{"role":"system","content":"You are a helpful assistant."}"#);
    let turns = if size < 4000 { 2 } else { 8 };
    let share = size.saturating_sub(400) / turns;
    for turn in 0..turns {
        let role = if turn % 2 == 0 { "user" } else { "assistant" };
        let content = text.repeat(share / text.len());
        messages.push_str(&format!(r#",{{"role":"{role}","content":"{content}"}}"#));
    }
    Bytes::from(format!(
        r#"{{"model":"gpt-4o-mini","messages":[{messages}],"temperature":0.7,"max_tokens":256,"top_p":1,"stream":true,"stream_options":{{"include_usage":true}},"user":"user-1234"}}"#
    ))
}

fn event(model: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx\",\"object\":\"chat.completion.chunk\",\"created\":1730000000,\"model\":\"{model}\",\"system_fingerprint\":\"fp_0123456789\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" token\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n"
    )
}

fn main() {
    let texts = [
        ("plain", "The quick brown fox jumps over the lazy dog and runs on. "),
        ("escapes", r#"fn main() {\n    println!(\"hello\");\n}\nand then some more text follows here.\n"#),
        ("chinese", "敏捷的棕色狐狸跳过了懒狗然后继续跑。"),
    ];
    for (name, text) in texts {
        for size in [1_000, 16_000, 200_000] {
            let body = request(size, text);
            let calls = (40_000_000 / size / ROUNDS) as u32;
            let cost = nanoseconds(calls, || {
                black_box(read_head(Operation::Chat, black_box(&body)).expect("a request"));
            });
            report(&format!("read_head, {name}"), body.len(), cost);
        }
    }

    let body = request(1_000, texts[0].1);
    let head = read_head(Operation::Chat, &body).expect("a request");
    let model = json_string("upstream-model");
    let cost = nanoseconds(10_000, || {
        let mut splice = Splice::default();
        splice.replace(head.model.expect("there").value, model.clone());
        black_box(splice.apply(&body, head.layout));
    });
    report("splice of the model", body.len(), cost);

    let answer = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1730000000,"model":"gpt-4o-mini","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":200,"completion_tokens":64,"total_tokens":264,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"service_tier":"default"}}"#,
        texts[0].1.repeat(4)
    );
    let cost = nanoseconds(10_000, || {
        black_box(read_unary(Dialect::OpenAi, black_box(answer.as_bytes()), UsageQuirks::default()));
    });
    report("read_unary", answer.len(), cost);

    let anthropic = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" token\"}}\n\n";
    let watch = SniffOptions::watch;
    let editing = |dialect| SniffOptions { drop_usage: true, model: Some(json_string("public")), ..watch(dialect) };
    let counting = |dialect| SniffOptions { counts_output: true, ..editing(dialect) };
    let counting_text = |dialect| SniffOptions { counts_text: true, ..editing(dialect) };
    let streams = [
        ("watching, OpenAI", watch(Dialect::OpenAi), event("gpt-4o")),
        ("renaming, OpenAI", editing(Dialect::OpenAi), event("gpt-4o")),
        ("renaming to the same, OpenAI", editing(Dialect::OpenAi), event("public")),
        ("watching, Anthropic", watch(Dialect::Anthropic), anthropic.to_owned()),
        ("renaming, Anthropic", editing(Dialect::Anthropic), anthropic.to_owned()),
        ("counting text, OpenAI", counting_text(Dialect::OpenAi), event("gpt-4o")),
        ("counting text, Anthropic", counting_text(Dialect::Anthropic), anthropic.to_owned()),
        ("counting escaped text, Anthropic", counting_text(Dialect::Anthropic), anthropic.replace(" token", "\\n")),
        ("counting, OpenAI", counting(Dialect::OpenAi), event("gpt-4o")),
        ("counting, Anthropic", counting(Dialect::Anthropic), anthropic.to_owned()),
    ];
    for (name, options, event) in streams {
        for (how, events) in [("one a slice", 1), ("16 a slice", 16)] {
            let chunk = Bytes::from(event.repeat(events));
            let mut sniffer = StreamSniffer::new(options.clone());
            let cost = nanoseconds(20_000 / events as u32, || {
                sniffer.push(chunk.clone(), &mut |slice| drop(black_box(slice)));
            });
            report(&format!("{name}, {how}, per event"), event.len(), cost / events as f64);
        }
        let halves = [event.len() / 3, event.len()];
        let chunk = Bytes::from(event);
        let mut sniffer = StreamSniffer::new(options);
        let cost = nanoseconds(10_000, || {
            sniffer.push(chunk.slice(..halves[0]), &mut |slice| drop(black_box(slice)));
            sniffer.push(chunk.slice(halves[0]..), &mut |slice| drop(black_box(slice)));
        });
        report(&format!("{name}, cut in two"), chunk.len(), cost);
    }
}
