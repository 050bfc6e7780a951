//! Watching a stream that is relayed within its dialect: what it used, how it ended, and the few
//! edits a client must not see the need for.
//!
//! Without edits every slice goes on as it came, at once. With edits only the tail of an event
//! that is not whole yet is held back, and what is whole leaves as one slice. No event is parsed
//! unless its bytes say that it matters, and then only to its outermost fields.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

use crate::dialect::Dialect;
use crate::json::{self, Field, Kind, Span};
use crate::output::tokens_at_most;
use crate::said;
use crate::sse::{Frame, Framer, join_data};
use crate::text;
use crate::usage::{AbsurdUsage, AnthropicFigures, Figures, Usage, UsageQuirks, boxed_text, usage_of_stream};

/// The most bytes of an event that are held to look at it whole; a longer one passes unread.
const MAX_HELD: usize = 1 << 20;

/// The most bytes that are kept of an error in the stream.
const MAX_ERROR: usize = 16 << 10;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static CITATION: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(CITED));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

/// What an answer of OpenAI's says of each page that it found. Within a text its quotes would be escaped.
const CITED: &str = "\"url_citation\"";

/// Whether an answer cites pages that a search found.
pub fn cites(answer: &[u8]) -> bool {
    CITATION.find(answer).is_some()
}

/// The longest beginning of an event's data that is remembered.
const MAX_BEGINNING: usize = 1 << 10;

/// What to look for in a stream, and what to change.
#[derive(Clone, Debug)]
pub struct SniffOptions {
    /// The dialect of the upstream and of the client.
    pub dialect: Dialect,
    /// How the provider's usage differs.
    pub quirks: UsageQuirks,
    /// Take OpenAI's usage event out: we asked for it, the client did not.
    pub drop_usage: bool,
    /// Put this in place of the model's name: a JSON string as [`crate::splice::json_string`] makes it.
    pub model: Option<Bytes>,
    /// Count what the output can come to, and let an event go on only when it is whole.
    pub counts_output: bool,
    /// Count what is said, for an answer whose usage is not told.
    pub counts_text: bool,
    /// Look for what a search found.
    pub finds_citations: bool,
}

impl SniffOptions {
    /// To watch a stream and change nothing.
    pub fn watch(dialect: Dialect) -> Self {
        Self {
            dialect,
            quirks: UsageQuirks::default(),
            drop_usage: false,
            model: None,
            counts_output: false,
            counts_text: false,
            finds_citations: false,
        }
    }
}

/// What was seen of a stream by its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The usage of the whole answer.
    pub usage: Option<Usage>,
    /// A usage told before the answer was whole, where none was told after.
    pub partial_usage: Option<Usage>,
    /// A usage was told that cannot be true.
    pub absurd: bool,
    /// A page was cited that a search found. `false` unless it is looked for.
    pub cited: bool,
    /// `[DONE]` or `message_stop` was seen.
    pub done: bool,
    /// The data of the first error event, or as much of it as is kept.
    pub error: Option<Bytes>,
    /// Events with data, `[DONE]` not counted.
    pub events: u64,
    /// Some of them brought output.
    pub says_something: bool,
    /// Bytes of what they say. 0 unless it is counted.
    pub text_bytes: u64,
    /// The stream ended within an event: what is sent next must begin with a blank line.
    pub within_event: bool,
}

/// Reads a stream as it passes.
#[derive(Debug)]
pub struct StreamSniffer {
    options: SniffOptions,
    framer: Framer,
    /// The bytes of an event that is not whole yet.
    held: BytesMut,
    /// How many of the held bytes went on already.
    passed: usize,
    /// The event at hand is too long to be read.
    oversized: bool,
    /// Nothing will be edited, from the start or any more: slices go on as they come.
    watches: bool,
    /// What could be edited has passed.
    settled: bool,
    /// Where edited events are put together.
    scratch: BytesMut,
    /// The data of an earlier event up to the end of its model's name, which is at its end. Most
    /// events of a stream begin alike, and what begins alike has its model in the same place.
    beginning: Vec<u8>,
    /// What became of that event.
    beginning_renames: Option<Span>,
    anthropic: AnthropicFigures,
    output_at_most: u64,
    text: text::Counter,
    /// A usage in `anthropic` or in `end` is that of the whole answer.
    usage_is_whole: bool,
    end: StreamEnd,
}

/// What becomes of an event. Spans are of what was judged.
enum Verdict {
    Keep,
    Drop,
    /// The model's name is replaced.
    Rename(Span),
    /// The whole event is replaced.
    Rewrite(Vec<u8>),
}

impl StreamSniffer {
    pub fn new(options: SniffOptions) -> Self {
        let drops = options.drop_usage && options.dialect == Dialect::OpenAi;
        Self {
            watches: !drops && options.model.is_none() && !options.counts_output,
            settled: false,
            options,
            framer: Framer::default(),
            held: BytesMut::new(),
            passed: 0,
            oversized: false,
            scratch: BytesMut::new(),
            beginning: Vec::new(),
            beginning_renames: None,
            anthropic: AnthropicFigures::default(),
            output_at_most: 0,
            text: text::Counter::default(),
            usage_is_whole: false,
            end: StreamEnd::default(),
        }
    }

    /// How many events with data were seen whole; the first one ends the wait for a first token.
    pub fn events(&self) -> u64 {
        self.end.events
    }

    /// The most output tokens that the events seen whole can stand for. 0 unless it is counted.
    pub fn output_at_most(&self) -> u64 {
        self.output_at_most
    }

    /// Whether the stream said that it is complete.
    pub fn done(&self) -> bool {
        self.end.done
    }

    /// Takes what came from the upstream and gives `out` what is to be sent on now: one slice, if
    /// any; a second only where an event grows too long to be held.
    pub fn push(&mut self, chunk: Bytes, out: &mut impl FnMut(Bytes)) {
        self.watches |= self.settled && self.held.is_empty() && !self.options.counts_output;
        if self.watches {
            self.watch(&chunk);
            return out(chunk);
        }
        let whole = if self.held.is_empty() {
            let (used, edited) = self.read(&chunk, 0);
            self.held.extend_from_slice(&chunk[used..]);
            edited.unwrap_or_else(|| if used == chunk.len() { chunk } else { chunk.slice(..used) })
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&chunk);
            let (used, edited) = self.read(&held, self.passed);
            let mut whole = held.split_to(used).freeze();
            self.held = held;
            if used > 0 {
                whole.advance(std::mem::take(&mut self.passed));
            }
            edited.unwrap_or(whole)
        };
        if !whole.is_empty() {
            out(whole);
        }
        if self.holds_too_much() {
            out(Bytes::copy_from_slice(&self.held[self.passed..]));
            self.passed = 1;
            self.let_go();
        }
    }

    /// Reads what is left and tells what was seen. What was held goes to `out`.
    pub fn finish(mut self, out: &mut impl FnMut(Bytes)) -> StreamEnd {
        let held = std::mem::take(&mut self.held);
        let mut rest = None;
        if let Some(frame) = self.framer.finish(&held) {
            self.end.within_event = true;
            if !self.oversized {
                match self.judge_event(&held, frame) {
                    Verdict::Keep => {}
                    Verdict::Drop => rest = Some(Bytes::new()),
                    Verdict::Rename(span) => {
                        let model = self.options.model.as_deref().unwrap_or_default();
                        rest = Some([&held[..span.range().start], model, &held[span.range().end..]].concat().into());
                    }
                    Verdict::Rewrite(text) => rest = Some(text.into()),
                }
            }
        }
        if !self.watches {
            let rest = rest.unwrap_or_else(|| held.freeze().slice(self.passed..));
            if !rest.is_empty() {
                out(rest);
            }
        }
        let mut end = self.end;
        if self.options.dialect == Dialect::Anthropic {
            match self.anthropic.usage() {
                Ok(usage) if !end.absurd => end.usage = usage,
                Ok(_) | Err(AbsurdUsage) => end.absurd = true,
            }
        }
        // Where a stream says that it is complete, its last usage is that of the whole.
        let whole = self.usage_is_whole || (end.done && self.options.dialect == Dialect::OpenAi);
        if !whole {
            end.partial_usage = end.usage.take();
        }
        end
    }

    fn watch(&mut self, chunk: &[u8]) {
        if self.held.is_empty() {
            let (used, _) = self.read(chunk, 0);
            self.held.extend_from_slice(&chunk[used..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(chunk);
            let (used, _) = self.read(&held, 0);
            held.advance(used);
            self.held = held;
        }
        if self.holds_too_much() {
            self.let_go();
        }
    }

    fn holds_too_much(&self) -> bool {
        self.held.len() > MAX_HELD || (self.oversized && self.held.len() > self.passed)
    }

    /// Gives up on reading the event at hand; its last byte stays, for finding its end.
    fn let_go(&mut self) {
        if self.options.counts_output {
            self.output_at_most += self.held.len() as u64;
        }
        if self.options.counts_text {
            self.end.text_bytes += (self.held.len() - usize::from(self.oversized)) as u64;
        }
        self.held = BytesMut::from(&self.held[self.held.len() - 1..]);
        self.framer.keep_last_byte();
        self.oversized = true;
        // Nothing but output is that long.
        self.end.says_something = true;
    }

    /// Reads the whole events at the start of `bytes`, of which `passed` went on already. Returns
    /// how many bytes they are, and what goes on in their place if that differs.
    fn read(&mut self, bytes: &[u8], passed: usize) -> (usize, Option<Bytes>) {
        let mut at = 0;
        let mut copied = passed;
        let mut changed = false;
        while let Some(frame) = self.framer.advance(&bytes[at..]) {
            let next = at + frame.length;
            let verdict = if std::mem::take(&mut self.oversized) {
                Verdict::Keep
            } else {
                self.judge_event(&bytes[at..next], frame)
            };
            let (cut, with) = match &verdict {
                Verdict::Keep => {
                    at = next;
                    continue;
                }
                Verdict::Drop => (at..next, &[][..]),
                Verdict::Rename(span) => {
                    (at + span.range().start..at + span.range().end, self.options.model.as_deref().unwrap_or_default())
                }
                Verdict::Rewrite(text) => (at..next, &text[..]),
            };
            if !changed {
                changed = true;
                self.scratch.reserve(bytes.len() - copied + with.len());
            }
            self.scratch.extend_from_slice(&bytes[copied..cut.start]);
            self.scratch.extend_from_slice(with);
            copied = cut.end;
            at = next;
        }
        if !changed {
            return (at, None);
        }
        self.scratch.extend_from_slice(&bytes[copied..at]);
        (at, Some(self.scratch.split().freeze()))
    }

    #[inline]
    fn judge_event(&mut self, event: &[u8], frame: Frame) -> Verdict {
        match frame.data_lines {
            0 => Verdict::Keep,
            1 => match self.judge(frame.name.of(event), frame.data.of(event)) {
                Verdict::Rename(span) => Verdict::Rename(span.within(frame.data.start)),
                verdict => verdict,
            },
            _ => self.judge_lines(event, frame),
        }
    }

    /// An event whose data is written in several lines, as only hand-made upstreams do.
    #[cold]
    fn judge_lines(&mut self, event: &[u8], frame: Frame) -> Verdict {
        let name = frame.name.of(event);
        let data = join_data(event, frame.data);
        let Verdict::Rename(span) = self.judge(name, &data) else { return Verdict::Keep };
        let model = self.options.model.as_deref().unwrap_or_default();
        let renamed = [&data[..span.range().start], model, &data[span.range().end..]].concat();
        let mut text = Vec::with_capacity(renamed.len() + event.len());
        if !name.is_empty() {
            text.extend_from_slice(&[b"event: ", name, b"\n"].concat());
        }
        for line in renamed.split(|byte| *byte == b'\n') {
            text.extend_from_slice(&[b"data: ", line, b"\n"].concat());
        }
        text.push(b'\n');
        Verdict::Rewrite(text)
    }

    #[inline]
    fn judge(&mut self, name: &[u8], data: &[u8]) -> Verdict {
        if self.options.counts_output {
            self.output_at_most += tokens_at_most(self.options.dialect, data);
        }
        if self.options.counts_text {
            self.end.text_bytes += self.text.count(self.options.dialect, data);
        }
        if self.options.finds_citations && !self.end.cited {
            self.end.cited = cites(data);
        }
        match self.options.dialect {
            Dialect::OpenAi => self.judge_openai(name, data),
            Dialect::Anthropic => self.judge_anthropic(name, data),
        }
    }

    #[inline]
    fn judge_openai(&mut self, name: &[u8], data: &[u8]) -> Verdict {
        if data.starts_with(b"[DONE]") {
            self.end.done = true;
            return Verdict::Keep;
        }
        self.end.events += 1;
        if name == b"error" {
            self.note_error(data);
        }
        if !self.end.says_something {
            self.end.says_something = said::in_event(Dialect::OpenAi, data);
        }
        // Within a string these words would have their quotes escaped, so they are keys or whole
        // values. Whether they are the outermost keys is seen by reading the event.
        if mentions(&USAGE, data, |first| first == b'{') || mentions(&ERROR, data, |first| matches!(first, b'{' | b'"'))
        {
            return self.judge_openai_notes(data);
        }
        if self.options.model.is_none() {
            return Verdict::Keep;
        }
        if !self.beginning.is_empty() && data.starts_with(&self.beginning) {
            return self.beginning_renames.map_or(Verdict::Keep, Verdict::Rename);
        }
        self.find_model(data)
    }

    #[inline(never)]
    fn find_model(&mut self, data: &[u8]) -> Verdict {
        let public = self.options.model.as_deref().unwrap_or_default();
        let model = json::field_named(data, "model").ok().flatten();
        let verdict = rename(model, data, public);
        if let Some(model) =
            model.filter(|model| model.value.range().end <= MAX_BEGINNING && model.kind == Kind::String)
        {
            self.beginning.clear();
            self.beginning.extend_from_slice(&data[..model.value.range().end]);
            self.beginning_renames = matches!(verdict, Verdict::Rename(_)).then_some(model.value);
        }
        verdict
    }

    #[cold]
    fn judge_openai_notes(&mut self, data: &[u8]) -> Verdict {
        let (mut usage, mut error, mut choices, mut tier, mut model) = (None, None, None, None, None);
        let scanned = json::fields(data, |key, field| match key {
            b"usage" if field.kind == Kind::Object => usage = Some(field),
            b"error" if matches!(field.kind, Kind::Object | Kind::String) => error = Some(field),
            b"choices" => choices = Some(field),
            b"service_tier" => tier = Some(field),
            b"model" => model = Some(field),
            _ => {}
        });
        if scanned.is_err() {
            return Verdict::Keep;
        }
        if error.is_some() {
            self.note_error(data);
        }
        let beside_choices = choices.is_some_and(|choices| !json::is_empty_array(choices.of(data)));
        if let Some(usage) = usage {
            match usage_of_stream(usage.of(data), self.options.quirks) {
                Ok(None) => {}
                Ok(Some(mut usage)) => {
                    usage.service_tier = usage.service_tier.or_else(|| boxed_text(tier?, data));
                    self.end.usage = Some(usage);
                    self.end.absurd = false;
                    self.usage_is_whole = !beside_choices || choices.is_some_and(|choices| finishes(choices.of(data)));
                }
                Err(AbsurdUsage) => {
                    self.end.usage = None;
                    self.end.absurd = true;
                }
            }
            if self.options.drop_usage && !beside_choices && error.is_none() {
                self.end.events -= 1;
                return Verdict::Drop;
            }
        }
        match &self.options.model {
            None => Verdict::Keep,
            Some(public) => rename(model, data, public),
        }
    }

    #[inline]
    fn judge_anthropic(&mut self, name: &[u8], data: &[u8]) -> Verdict {
        self.end.events += 1;
        if name.starts_with(b"content_block_") {
            self.note_block(data);
            return Verdict::Keep;
        }
        if !name.is_empty() {
            return self.judge_anthropic_kind(name, data);
        }
        match json::field_named(data, "type").ok().flatten().and_then(|kind| kind.text(data)) {
            Some(kind) => self.judge_anthropic_kind(kind.as_bytes(), data),
            None => Verdict::Keep,
        }
    }

    fn judge_anthropic_kind(&mut self, kind: &[u8], data: &[u8]) -> Verdict {
        match kind {
            b"message_start" => {
                // No other event names the model.
                self.settled = true;
                let Ok([Some(message)]) = json::find(data, ["message"]) else { return Verdict::Keep };
                let base = message.value.start;
                let message = message.of(data);
                let Ok([usage, model]) = json::find(message, ["usage", "model"]) else { return Verdict::Keep };
                if let Some(usage) = usage {
                    self.note_anthropic_usage(usage.of(message));
                }
                match &self.options.model {
                    None => Verdict::Keep,
                    Some(public) => match rename(model, message, public) {
                        Verdict::Rename(span) => Verdict::Rename(span.within(base)),
                        verdict => verdict,
                    },
                }
            }
            b"message_delta" => {
                if let Ok([Some(usage)]) = json::find(data, ["usage"])
                    && usage.kind == Kind::Object
                {
                    match self.anthropic.take_again(usage.of(data)) {
                        // What the start of a stream says of its output is not all of it.
                        Ok(output) => self.usage_is_whole |= output.is_some_and(|tokens| self.is_output(tokens)),
                        Err(AbsurdUsage) => self.end.absurd = true,
                    }
                }
                Verdict::Keep
            }
            b"message_stop" => {
                self.end.done = true;
                Verdict::Keep
            }
            b"error" => {
                self.note_error(data);
                Verdict::Keep
            }
            _ => {
                if kind.starts_with(b"content_block_") {
                    self.note_block(data);
                }
                Verdict::Keep
            }
        }
    }

    #[inline]
    fn note_block(&mut self, data: &[u8]) {
        if !self.end.says_something {
            self.end.says_something = said::in_event(Dialect::Anthropic, data);
        }
    }

    /// Whether the output that was seen can be of so many tokens, as far as zero goes.
    fn is_output(&self, tokens: u64) -> bool {
        tokens > 0 || !self.end.says_something
    }

    fn note_anthropic_usage(&mut self, usage: &[u8]) {
        if self.anthropic.take_all(usage).is_err() {
            self.end.absurd = true;
        }
    }

    fn note_error(&mut self, data: &[u8]) {
        let kept = &data[..data.len().min(MAX_ERROR)];
        self.end.error.get_or_insert_with(|| Bytes::copy_from_slice(kept));
    }
}

/// Whether the key that `finder` finds has a value that begins as `wanted` says.
#[inline]
fn mentions(finder: &Finder<'_>, data: &[u8], wanted: impl Fn(u8) -> bool) -> bool {
    let mut rest = data;
    while let Some(at) = finder.find(rest) {
        rest = &rest[at + finder.needle().len()..];
        if let Some(value) = rest.trim_ascii_start().strip_prefix(b":")
            && value.trim_ascii_start().first().copied().is_some_and(&wanted)
        {
            return true;
        }
    }
    false
}

/// The model's name is replaced unless it is the public one already.
#[inline]
fn rename(model: Option<Field>, data: &[u8], public: &[u8]) -> Verdict {
    match model {
        Some(model) if model.kind == Kind::String && model.of(data) != public => Verdict::Rename(model.value),
        Some(_) | None => Verdict::Keep,
    }
}

/// Whether one of these choices says why it ended.
fn finishes(choices: &[u8]) -> bool {
    let mut finished = false;
    // What is no array of objects has no reason.
    let _ = json::elements(choices, |choice, kind| {
        if kind == Kind::Object
            && let Ok([Some(reason)]) = json::find(choice.of(choices), ["finish_reason"])
            && reason.kind == Kind::String
        {
            finished = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    finished
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::splice::json_string;
    use crate::sse::Decoder;

    const OPENAI: &str = "data: {\"id\":\"c\",\"model\":\"up\",\"choices\":[{\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n\
        data: {\"id\":\"c\",\"model\":\"up\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9} é\"}}]}\n\n\
        : ping\n\n\
        data: {\"choices\":[{\"delta\":{\"x\":{\"usage\":{\"prompt_tokens\":8}}},\"error\":\"e\"}],\"model\" : \"up\"}\n\n\
        data: {\"id\":\"c\",\"model\":\"up\",\"choices\": [ ],\"usage\" : {\"prompt_tokens\":3,\"completion_tokens\":2},\"service_tier\":\"flex\"}\n\n\
        data: [DONE]\n\n";

    const ANTHROPIC: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"up\",\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":7,\"output_tokens\":1}}}\n\n\
        event: ping\ndata: {\"type\": \"ping\"}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"model\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9,\"input_tokens\":0}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    #[test]
    fn what_a_search_found_is_seen_where_it_is_looked_for() {
        let cited = r#"{"choices":[{"index":0,"delta":{"annotations":[{"type":"url_citation"}]}}]}"#;
        let said = r#"{"choices":[{"index":0,"delta":{"content":"\"url_citation\""}}]}"#;
        for (event, finds_citations, expected) in [(cited, true, true), (cited, false, false), (said, true, false)] {
            let options = SniffOptions { finds_citations, ..SniffOptions::watch(Dialect::OpenAi) };
            let mut sniffer = StreamSniffer::new(options);
            let stream = Bytes::from(format!("data: {said}\n\ndata: {event}\n\ndata: [DONE]\n\n"));
            for half in [stream.slice(..40), stream.slice(40..)] {
                sniffer.push(half, &mut |_| {});
            }
            assert_eq!(sniffer.finish(&mut |_| {}).cited, expected, "{event}");
        }
    }

    fn editing(dialect: Dialect) -> SniffOptions {
        SniffOptions { drop_usage: true, model: Some(json_string("pub\"lic")), ..SniffOptions::watch(dialect) }
    }

    fn openai_usage() -> Usage {
        Usage { input_tokens: 3, output_tokens: 2, service_tier: Some("flex".into()), ..Usage::default() }
    }

    fn relayed<'a>(options: &SniffOptions, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, StreamEnd) {
        let mut sniffer = StreamSniffer::new(options.clone());
        let mut sent = Vec::new();
        for chunk in chunks {
            let mut slices = 0;
            sniffer.push(Bytes::copy_from_slice(chunk), &mut |slice| {
                assert!(!slice.is_empty() || chunk.is_empty());
                slices += 1;
                sent.extend_from_slice(&slice);
            });
            assert!(slices <= 1, "what is whole leaves at once");
        }
        let end = sniffer.finish(&mut |slice| sent.extend_from_slice(&slice));
        (sent, end)
    }

    /// The edits, made with a decoder and documents.
    fn reference(options: &SniffOptions, stream: &[u8]) -> Vec<(String, Value)> {
        let public: Value =
            options.model.as_ref().map_or(Value::Null, |model| serde_json::from_slice(model).expect("a string"));
        let mut events = parsed(stream);
        events.retain(|(_, data)| !(options.drop_usage && data["usage"].is_object() && data["choices"] == json!([])));
        for (_, data) in &mut events {
            for pointer in ["/model", "/message/model"] {
                if let Some(model) = data.pointer_mut(pointer).filter(|_| !public.is_null()) {
                    *model = public.clone();
                }
            }
        }
        events
    }

    fn parsed(stream: &[u8]) -> Vec<(String, Value)> {
        let mut decoder = Decoder::default();
        decoder.push(stream);
        let mut events = Vec::new();
        let mut event = |event: crate::sse::Event| {
            let data = String::from_utf8(event.data.to_vec()).expect("text");
            let data = serde_json::from_str(&data).unwrap_or(Value::from(data));
            events.push((String::from_utf8(event.name.to_vec()).expect("text"), data));
        };
        while let Some(next) = decoder.next_event().expect("short") {
            event(next);
        }
        decoder.finish().expect("short").into_iter().for_each(event);
        events
    }

    #[test]
    fn watching_forwards_the_very_slices() {
        let mut sniffer = StreamSniffer::new(SniffOptions::watch(Dialect::OpenAi));
        for chunk in OPENAI.as_bytes().chunks(7) {
            let chunk = Bytes::copy_from_slice(chunk);
            let expected = (chunk.as_ptr(), chunk.len());
            let mut seen = Vec::new();
            sniffer.push(chunk, &mut |slice| seen.push((slice.as_ptr(), slice.len())));
            assert_eq!(seen, [expected]);
        }
        let end = sniffer.finish(&mut |_| panic!("nothing is held back"));
        assert_eq!(end.usage, Some(openai_usage()));
    }

    #[test]
    fn an_anthropic_stream_is_edited_no_longer_than_it_names_the_model() {
        let (start, rest) = ANTHROPIC.split_at(ANTHROPIC.find("event: ping").expect("there"));
        let mut sniffer = StreamSniffer::new(editing(Dialect::Anthropic));
        sniffer.push(Bytes::from_static(start.as_bytes()), &mut |slice| assert_ne!(slice, start));
        for chunk in rest.as_bytes().chunks(10) {
            let mut seen = Vec::new();
            sniffer.push(Bytes::from_static(chunk), &mut |slice| seen.push(slice.as_ptr()));
            assert_eq!(seen, [chunk.as_ptr()]);
        }
        let end = sniffer.finish(&mut |_| panic!("nothing is held back"));
        assert!(end.done && end.usage.is_some());
    }

    #[test]
    fn a_stream_cut_anywhere_is_read_and_edited_the_same() {
        for (dialect, stream) in [(Dialect::OpenAi, OPENAI), (Dialect::Anthropic, ANTHROPIC)] {
            for ends in ["\n", "\r\n", "\r"] {
                let stream = stream.replace('\n', ends);
                let stream = stream.as_bytes();
                for options in [SniffOptions::watch(dialect), editing(dialect)] {
                    let expected = relayed(&options, [stream]);
                    assert_eq!(parsed(&expected.0), reference(&options, stream));
                    assert!(expected.1.usage.is_some() && expected.1.done && expected.1.error.is_none());
                    assert!(!expected.1.within_event);
                    for cut in 0..=stream.len() {
                        let (sent, end) = relayed(&options, [&stream[..cut], &stream[cut..]]);
                        assert_eq!(parsed(&sent), parsed(&expected.0), "{dialect} cut at {cut}");
                        assert_eq!(end, expected.1, "{dialect} cut at {cut}");
                    }
                    let (sent, end) = relayed(&options, stream.chunks(1));
                    assert_eq!((parsed(&sent), end), (parsed(&expected.0), expected.1));
                }
            }
        }
    }

    #[test]
    fn usage_is_that_of_the_outermost_field_of_the_last_event() {
        let (_, end) = relayed(&SniffOptions::watch(Dialect::OpenAi), [OPENAI.as_bytes()]);
        assert_eq!((end.usage, end.events), (Some(openai_usage()), 4));
        let (_, end) = relayed(&editing(Dialect::OpenAi), [OPENAI.as_bytes()]);
        assert_eq!((end.usage, end.events), (Some(openai_usage()), 3), "what was dropped is not counted");
        let (_, end) = relayed(&editing(Dialect::Anthropic), [ANTHROPIC.as_bytes()]);
        let expected = Usage { input_tokens: 12, output_tokens: 9, cache_read_tokens: 7, ..Usage::default() };
        assert_eq!((end.usage, end.partial_usage), (Some(expected), None));
    }

    #[test]
    fn output_is_counted_event_by_event_and_none_goes_on_in_parts() {
        let counting = |dialect| SniffOptions { counts_output: true, ..SniffOptions::watch(dialect) };
        for (dialect, stream, expected) in [(Dialect::OpenAi, OPENAI, 49), (Dialect::Anthropic, ANTHROPIC, 50)] {
            for size in 1..stream.len() {
                let mut sniffer = StreamSniffer::new(counting(dialect));
                let mut sent = Vec::new();
                for chunk in stream.as_bytes().chunks(size) {
                    sniffer.push(Bytes::copy_from_slice(chunk), &mut |slice| sent.extend_from_slice(&slice));
                    assert!(sent.is_empty() || sent.ends_with(b"\n\n"), "in chunks of {size}");
                }
                assert_eq!((sniffer.output_at_most(), &*sent), (expected, stream.as_bytes()), "in chunks of {size}");
            }
        }
        let mut uncounted = StreamSniffer::new(editing(Dialect::OpenAi));
        uncounted.push(Bytes::from_static(OPENAI.as_bytes()), &mut |_| {});
        assert_eq!(uncounted.output_at_most(), 0);
        let mut long = StreamSniffer::new(counting(Dialect::OpenAi));
        let text = format!("data: {{\"choices\":[\"{}\"]}}\n\n", "a".repeat(2 * MAX_HELD));
        text.as_bytes().chunks(MAX_HELD / 3).for_each(|chunk| long.push(Bytes::copy_from_slice(chunk), &mut |_| {}));
        assert!(long.output_at_most() >= 2 * MAX_HELD as u64, "{}", long.output_at_most());
    }

    #[test]
    fn only_a_usage_of_the_whole_answer_is_final() {
        let running = |completion: u32, reason: &str| {
            format!(
                "data: {{\"choices\":[{{\"finish_reason\":{reason}}}],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{completion}}}}}\n\n"
            )
        };
        let watch = SniffOptions::watch(Dialect::OpenAi);
        let usage = |output_tokens| Some(Usage { input_tokens: 1, output_tokens, ..Usage::default() });
        let cut = running(1, "null") + &running(2, "null");
        let (_, end) = relayed(&watch, [cut.as_bytes()]);
        assert_eq!((end.usage, end.partial_usage), (None, usage(2)), "cut");
        let (_, end) = relayed(&watch, [(cut.clone() + "data: [DONE]\n\n").as_bytes()]);
        assert_eq!((end.usage, end.partial_usage), (usage(2), None), "done");
        let (_, end) = relayed(&watch, [(cut + &running(3, "\"stop\"")).as_bytes()]);
        assert_eq!((end.usage, end.partial_usage), (usage(3), None), "finished");

        let start = ANTHROPIC.split_inclusive("\n\n").next().expect("one");
        let (_, end) = relayed(&SniffOptions::watch(Dialect::Anthropic), [start.as_bytes()]);
        assert_eq!((end.usage, end.partial_usage.map(|usage| usage.input_tokens)), (None, Some(12)));
    }

    #[test]
    fn absurd_usage_is_no_usage() {
        let text =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let (_, end) = relayed(&SniffOptions::watch(Dialect::OpenAi), [text.as_bytes()]);
        assert_eq!((end.usage, end.absurd), (None, true));
        let text = ANTHROPIC.replace("\"output_tokens\":9", "\"output_tokens\":0.5");
        let (_, end) = relayed(&SniffOptions::watch(Dialect::Anthropic), [text.as_bytes()]);
        assert_eq!((end.absurd, end.usage), (true, None));
    }

    #[test]
    fn a_usage_that_leaves_out_the_output_is_not_that_of_the_whole() {
        let text = OPENAI.replace("\"completion_tokens\":2", "\"total_tokens\":3");
        let (_, end) = relayed(&SniffOptions::watch(Dialect::OpenAi), [text.as_bytes()]);
        assert_eq!((end.absurd, end.usage, end.says_something), (true, None, true));
        let said = "\"text\":\"model\"";
        for (told, untold) in [("\"output_tokens\":9,", ""), ("\"output_tokens\":9", "\"output_tokens\":0")] {
            let text = ANTHROPIC.replace(told, untold);
            let (_, end) = relayed(&SniffOptions::watch(Dialect::Anthropic), [text.as_bytes()]);
            assert_eq!((end.absurd, end.usage, end.says_something), (false, None, true), "{untold}");
        }
        let text = ANTHROPIC.replace("\"output_tokens\":9", "\"output_tokens\":0").replace(said, "\"text\":\"\"");
        let (_, end) = relayed(&SniffOptions::watch(Dialect::Anthropic), [text.as_bytes()]);
        assert!(end.usage.is_some() && !end.says_something, "nothing was said: {end:?}");
    }

    #[test]
    fn errors_in_the_stream_are_noticed_and_left_alone() {
        let cases = [
            (Dialect::OpenAi, "data: {\"error\":{\"message\":\"no\"}}\n\n", true),
            (Dialect::OpenAi, "data: {\"choices\":[],\"error\" : \"no\"}\n\n", true),
            (Dialect::OpenAi, "event: error\ndata: oh\n\n", true),
            (Dialect::OpenAi, "data: {\"choices\":[],\"error\":null}\n\n", false),
            (Dialect::OpenAi, "data: {\"choices\":[{\"error\":{}}]}\n\n", false),
            (Dialect::Anthropic, "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n", true),
            (Dialect::Anthropic, "data: {\"type\":\"error\",\"error\":{}}\n\n", true),
        ];
        for (dialect, stream, is_error) in cases {
            let (sent, end) = relayed(&editing(dialect), [stream.as_bytes()]);
            assert_eq!(sent, stream.as_bytes());
            assert_eq!(end.error.is_some(), is_error, "{stream}");
        }
    }

    #[test]
    fn a_stream_without_its_last_line_end_is_read_to_its_last_byte() {
        let stream = OPENAI.split("data: [DONE]").next().expect("one").trim_end();
        let (sent, end) = relayed(&editing(Dialect::OpenAi), [stream.as_bytes()]);
        assert_eq!((end.usage, end.within_event), (Some(openai_usage()), true));
        assert_eq!(parsed(&sent), reference(&editing(Dialect::OpenAi), stream.as_bytes()));
        let (sent, _) = relayed(&editing(Dialect::OpenAi), [&b"data: {\"model\":\"up\"}"[..]]);
        assert_eq!(sent, b"data: {\"model\":\"pub\\\"lic\"}");
        let broken = b"data: {\"model\":\"u".as_slice();
        assert_eq!(relayed(&editing(Dialect::OpenAi), [broken]).0, broken);
    }

    #[test]
    fn data_in_several_lines_is_edited_too() {
        let stream = b"event: x\ndata: {\"a\":1,\ndata: \"model\":\"up\"}\n\n".as_slice();
        let (sent, _) = relayed(&editing(Dialect::OpenAi), [stream]);
        assert_eq!(parsed(&sent), [("x".to_owned(), json!({"a": 1, "model": "pub\"lic"}))]);
    }

    #[test]
    fn an_event_too_long_to_hold_passes_unread_and_unchanged() {
        let first = OPENAI.split_inclusive("\n\n").next().expect("one");
        let long = format!("data: {{\"model\":\"up\",\"x\":\"{}\"}}\n\n", "a".repeat(2 * MAX_HELD));
        let stream = [first, &long, OPENAI].concat();
        let options = editing(Dialect::OpenAi);
        for size in [1000, MAX_HELD / 2 + 1, stream.len()] {
            let mut sniffer = StreamSniffer::new(options.clone());
            let mut sent = Vec::new();
            for chunk in stream.as_bytes().chunks(size) {
                sniffer.push(Bytes::copy_from_slice(chunk), &mut |slice| sent.extend_from_slice(&slice));
                assert!(sniffer.held.len() <= MAX_HELD);
            }
            let end = sniffer.finish(&mut |slice| sent.extend_from_slice(&slice));
            assert_eq!(end.usage, Some(openai_usage()));
            let whole = size == stream.len();
            let long = if whole { relayed(&options, [long.as_bytes()]).0 } else { long.clone().into_bytes() };
            let edited = |stream: &str| relayed(&options, [stream.as_bytes()]).0;
            assert!(sent == [edited(first), long, edited(OPENAI)].concat(), "in chunks of {size}");
            let mut watcher = StreamSniffer::new(SniffOptions::watch(Dialect::OpenAi));
            stream.as_bytes().chunks(size).for_each(|chunk| watcher.push(Bytes::copy_from_slice(chunk), &mut |_| {}));
            assert_eq!(watcher.finish(&mut |_| {}).usage, Some(openai_usage()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_chunking_of_any_events_is_edited_as_documents_are(
            kinds in prop::collection::vec(0usize..7, 0..12),
            ends in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            drop_usage in any::<bool>(),
            renames in any::<bool>(),
        ) {
            let events: Vec<_> = OPENAI.split_inclusive("\n\n").chain([": x\n\n"]).collect();
            let stream: String = kinds.iter().map(|kind| events[*kind]).collect();
            let stream = stream.replace('\n', ends);
            let model = renames.then(|| json_string("p"));
            let options = SniffOptions { drop_usage, model, ..SniffOptions::watch(Dialect::OpenAi) };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &stream.as_bytes()[cut[0]..cut[1]]);
            let (sent, end) = relayed(&options, chunks);
            prop_assert_eq!(parsed(&sent), reference(&options, stream.as_bytes()));
            prop_assert_eq!(end.done, kinds.contains(&5));
            if !drop_usage && !renames {
                prop_assert_eq!(sent, stream.as_bytes());
            }
        }
    }
}
