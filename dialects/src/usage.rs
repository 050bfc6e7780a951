//! What an upstream says a call used, in one shape for every dialect.
//!
//! Figures are the provider's; nothing is estimated here. A figure that cannot be true makes the
//! whole report absurd, so that money falls back to the hold instead of to a guess.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::json::{self, Field, Kind, Layout, Scanned, Visitor};
use crate::{said, text};

/// Tokens and units of one answer. Totals include their parts: cached tokens are within
/// `input_tokens`, reasoning tokens within `output_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens, those read from and written to a prompt cache included.
    pub input_tokens: u64,
    /// All output tokens, reasoning included.
    pub output_tokens: u64,
    /// Input tokens served from a prompt cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to a cache that lives five minutes.
    pub cache_write_5m_tokens: u64,
    /// Input tokens written to a cache that lives one hour.
    pub cache_write_1h_tokens: u64,
    /// Output tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// Input tokens that encode audio.
    pub audio_input_tokens: u64,
    /// Output tokens that encode audio.
    pub audio_output_tokens: u64,
    /// Input tokens that encode images.
    pub image_input_tokens: u64,
    /// Output tokens that encode images.
    pub image_output_tokens: u64,
    /// Web searches the provider ran for the answer.
    pub web_searches: u64,
    /// The service tier that served the call, as the provider names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Box<str>>,
    /// The provider's own price of the call in USD, as decimal text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_cost_usd: Option<Box<str>>,
}

/// The most tokens of one answer that are believed.
const MOST_TOKENS: u64 = 1 << 31;

/// How a provider's usage differs from what its dialect says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UsageQuirks {
    /// Reasoning tokens are not within `completion_tokens` (xAI). Where `total_tokens` shows that
    /// they are after all, it is believed.
    pub reasoning_outside_completion: bool,
}

/// A usage report that cannot be true: a negative, fractional or huge figure, or parts that
/// exceed their whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the usage reported cannot be true")]
pub struct AbsurdUsage;

/// Reads an OpenAI `usage` object, of chat, completions, embeddings, responses or images.
/// `None` if it is no object or has no token counts at all.
///
/// # Errors
/// The report is absurd.
pub fn usage_of_openai(usage: &[u8], quirks: UsageQuirks) -> Result<Option<Usage>, AbsurdUsage> {
    let mut figures = OpenAiFigures::default();
    figures.take_all(usage)?;
    figures.usage(quirks)
}

/// As [`usage_of_openai`], of an answer that has an output: a usage that does not count it is absurd.
pub(crate) fn usage_of_stream(usage: &[u8], quirks: UsageQuirks) -> Result<Option<Usage>, AbsurdUsage> {
    let mut figures = OpenAiFigures::default();
    figures.take_all(usage)?;
    if figures.input.is_some() && figures.output.is_none() {
        return Err(AbsurdUsage);
    }
    figures.usage(quirks)
}

/// Reads an Anthropic `usage` object of a complete answer. `None` as for [`usage_of_openai`].
///
/// # Errors
/// The report is absurd.
pub fn usage_of_anthropic(usage: &[u8]) -> Result<Option<Usage>, AbsurdUsage> {
    let mut figures = AnthropicFigures::default();
    figures.take_all(usage)?;
    figures.usage()
}

/// What a complete (unary) answer says beside its content. Spans are of its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnaryNotes {
    pub usage: Option<Usage>,
    /// There is a usage, but it cannot be true.
    pub absurd: bool,
    /// The usage has a count of the output.
    pub tells_output: bool,
    /// OpenAI's `choices`, Anthropic's `content`.
    pub output: Option<Field>,
    /// The model's name, at the top level.
    pub model: Option<Field>,
    /// An `error` that is not null.
    pub error: Option<Field>,
    /// The answer's outline; `None` if it is not a JSON object.
    pub layout: Option<Layout>,
}

impl UnaryNotes {
    /// Whether the answer says something, so that it has output tokens. `body`: what the notes are of.
    pub fn says_something(&self, dialect: Dialect, body: &[u8]) -> bool {
        self.output.is_some_and(|output| said::in_answer(dialect, output.of(body)))
    }

    /// Bytes of what the answer says: its texts, thoughts and calls of tools. `body`: what the notes are of.
    pub fn text_bytes(&self, dialect: Dialect, body: &[u8]) -> u64 {
        self.output.map_or(0, |output| text::in_answer(dialect, output.of(body)))
    }
}

/// Reads the notes of a complete answer in one pass. Never fails: what cannot be read is absent.
pub fn read_unary(dialect: Dialect, body: &[u8], quirks: UsageQuirks) -> UnaryNotes {
    match dialect {
        Dialect::OpenAi => read_notes(body, |figures: OpenAiFigures| figures.usage(quirks)),
        Dialect::Anthropic => read_notes(body, |figures: AnthropicFigures| figures.usage()),
    }
}

fn read_notes<F: Figures>(body: &[u8], usage_of: impl FnOnce(F) -> Result<Option<Usage>, AbsurdUsage>) -> UnaryNotes {
    let mut reading =
        ReadingNotes::<F> { notes: UnaryNotes::default(), figures: F::default(), sane: Ok(()), tier: None };
    let Ok(Some(layout)) = json::scan_object(body, &mut reading) else { return UnaryNotes::default() };
    let ReadingNotes { mut notes, figures, sane, tier } = reading;
    notes.layout = Some(layout);
    notes.tells_output = figures.tells_output();
    match sane.and_then(|()| usage_of(figures)) {
        Ok(usage) => notes.usage = usage,
        Err(AbsurdUsage) => notes.absurd = true,
    }
    if let (Some(usage), Some(tier)) = (&mut notes.usage, tier) {
        usage.service_tier = usage.service_tier.take().or_else(|| boxed_text(tier, body));
    }
    notes
}

/// Passes a complete answer.
struct ReadingNotes<F> {
    notes: UnaryNotes,
    figures: F,
    sane: Result<(), AbsurdUsage>,
    tier: Option<Field>,
}

impl<F: Figures> Visitor for ReadingNotes<F> {
    fn field(&mut self, key: &[u8], field: Field) -> ControlFlow<()> {
        match key {
            b"model" if field.kind == Kind::String => self.notes.model = Some(field),
            key if key == F::OUTPUT => self.notes.output = Some(field),
            // The last one counts; one that is no object has no figures.
            b"usage" if field.kind != Kind::Object => (self.figures, self.sane) = (F::default(), Ok(())),
            b"error" if field.kind != Kind::Null => self.notes.error = Some(field),
            b"service_tier" => self.tier = Some(field),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn inside(&mut self, key: &[u8], bytes: &[u8], open: usize, depth: u32) -> Option<Scanned> {
        if key != b"usage" {
            return None;
        }
        self.figures = F::default();
        let (read, sane) = Reading::new(&mut self.figures, F::Part::default(), bytes).object(open, depth);
        self.sane = sane;
        Some(read)
    }
}

/// Figures of a usage, which has parts that are objects themselves.
pub(crate) trait Figures: Default {
    /// Where a field stands; the default is the usage itself.
    type Part: Copy + Default;

    /// The field of an answer that has its output.
    const OUTPUT: &'static [u8];

    /// Whether a count of the output was told.
    fn tells_output(&self) -> bool;

    /// The part that is the value of this key.
    fn part(part: Self::Part, key: &[u8]) -> Option<Self::Part>;

    /// Takes over one field of a part. `bytes`: what its place is of.
    fn take(&mut self, part: Self::Part, key: &[u8], field: Field, bytes: &[u8]) -> Result<(), AbsurdUsage>;

    /// Takes over what a usage tells. One that is no object has no figures.
    fn take_all(&mut self, usage: &[u8]) -> Result<(), AbsurdUsage> {
        let mut reading = Reading::new(self, Self::Part::default(), usage);
        let _ = json::scan_object(usage, &mut reading);
        reading.sane
    }
}

/// Passes a usage, or a part of it.
struct Reading<'a, F: Figures> {
    figures: &'a mut F,
    part: F::Part,
    bytes: &'a [u8],
    sane: Result<(), AbsurdUsage>,
}

impl<'a, F: Figures> Reading<'a, F> {
    fn new(figures: &'a mut F, part: F::Part, bytes: &'a [u8]) -> Reading<'a, F> {
        Reading { figures, part, bytes, sane: Ok(()) }
    }

    /// Reads the object that opens there, and whether its figures can be true.
    fn object(mut self, open: usize, depth: u32) -> (Scanned, Result<(), AbsurdUsage>) {
        let read = json::object(self.bytes, open, depth, &mut self);
        (read, self.sane)
    }
}

impl<F: Figures> Visitor for Reading<'_, F> {
    fn field(&mut self, key: &[u8], field: Field) -> ControlFlow<()> {
        if let Err(absurd) = self.figures.take(self.part, key, field, self.bytes) {
            self.sane = Err(absurd);
        }
        ControlFlow::Continue(())
    }

    fn inside(&mut self, key: &[u8], bytes: &[u8], open: usize, depth: u32) -> Option<Scanned> {
        let part = F::part(self.part, key)?;
        let (read, sane) = Reading::new(self.figures, part, bytes).object(open, depth);
        self.sane = self.sane.and(sane);
        Some(read)
    }
}

/// The token counts of an OpenAI usage as they are told, under any of their names.
#[derive(Default)]
struct OpenAiFigures {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
    reasoning: Option<u64>,
    audio_input: Option<u64>,
    audio_output: Option<u64>,
    image_input: Option<u64>,
    image_output: Option<u64>,
    web_searches: Option<u64>,
    service_tier: Option<Box<str>>,
    cost: Option<Box<str>>,
    /// The cost is only what the provider took for passing the call on; who answered bills the rest elsewhere.
    is_fee: bool,
}

/// The parts of OpenAI's usage.
#[derive(Clone, Copy, Default)]
enum OpenAiPart {
    #[default]
    Usage,
    Input,
    Writes,
    Output,
    Tools,
    /// Perplexity's object with a `total_cost`.
    Cost,
}

impl Figures for OpenAiFigures {
    type Part = OpenAiPart;

    const OUTPUT: &'static [u8] = b"choices";

    fn tells_output(&self) -> bool {
        self.output.is_some()
    }

    fn part(part: OpenAiPart, key: &[u8]) -> Option<OpenAiPart> {
        match (part, key) {
            (OpenAiPart::Usage, b"prompt_tokens_details" | b"input_tokens_details") => Some(OpenAiPart::Input),
            (OpenAiPart::Usage, b"completion_tokens_details" | b"output_tokens_details") => Some(OpenAiPart::Output),
            (OpenAiPart::Usage, b"server_tool_use") => Some(OpenAiPart::Tools),
            (OpenAiPart::Usage, b"cost") => Some(OpenAiPart::Cost),
            (OpenAiPart::Input, b"cache_creation_token_details") => Some(OpenAiPart::Writes),
            _ => None,
        }
    }

    fn take(&mut self, part: OpenAiPart, key: &[u8], field: Field, bytes: &[u8]) -> Result<(), AbsurdUsage> {
        let slot = match part {
            OpenAiPart::Usage => return self.take_whole(key, field, bytes),
            OpenAiPart::Input => match key {
                b"cached_tokens" => return larger(&mut self.cache_read, field, bytes),
                b"cache_write_tokens" | b"cache_creation_tokens" => return larger(&mut self.cache_write, field, bytes),
                b"audio_tokens" => &mut self.audio_input,
                b"image_tokens" => &mut self.image_input,
                _ => return Ok(()),
            },
            OpenAiPart::Writes if key == b"ephemeral_1h_input_tokens" => &mut self.cache_write_1h,
            OpenAiPart::Output => match key {
                b"reasoning_tokens" => &mut self.reasoning,
                b"audio_tokens" => &mut self.audio_output,
                b"image_tokens" => &mut self.image_output,
                _ => return Ok(()),
            },
            OpenAiPart::Tools if key == b"web_search_requests" => &mut self.web_searches,
            OpenAiPart::Cost if key == b"total_cost" => return self.take_cost(field, bytes),
            OpenAiPart::Writes | OpenAiPart::Tools | OpenAiPart::Cost => return Ok(()),
        };
        tell(slot, field, bytes)
    }
}

impl OpenAiFigures {
    fn take_whole(&mut self, key: &[u8], field: Field, usage: &[u8]) -> Result<(), AbsurdUsage> {
        let slot = match key {
            b"prompt_tokens" | b"input_tokens" => &mut self.input,
            b"completion_tokens" | b"output_tokens" => &mut self.output,
            b"total_tokens" => &mut self.total,
            // DeepSeek and Moonshot, and what LiteLLM makes of Anthropic's, beside the totals.
            b"prompt_cache_hit_tokens" | b"cached_tokens" | b"cache_read_input_tokens" => {
                return larger(&mut self.cache_read, field, usage);
            }
            b"cache_creation_input_tokens" => return larger(&mut self.cache_write, field, usage),
            b"num_search_queries" => &mut self.web_searches,
            b"cost" => return self.take_cost(field, usage),
            b"is_byok" => {
                self.is_fee |= field.kind == Kind::True;
                return Ok(());
            }
            b"service_tier" => {
                self.service_tier = boxed_text(field, usage);
                return Ok(());
            }
            _ => return Ok(()),
        };
        tell(slot, field, usage)
    }

    /// A number, as OpenRouter tells it.
    fn take_cost(&mut self, field: Field, bytes: &[u8]) -> Result<(), AbsurdUsage> {
        if field.kind != Kind::Number {
            return Ok(());
        }
        let text = std::str::from_utf8(field.of(bytes)).map_err(|_| AbsurdUsage)?;
        if text.starts_with('-') {
            return Err(AbsurdUsage);
        }
        self.cost = Some(text.into());
        Ok(())
    }

    fn usage(self, quirks: UsageQuirks) -> Result<Option<Usage>, AbsurdUsage> {
        let Self { input, output, total, cache_read, cache_write, cache_write_1h, reasoning, .. } = self;
        if input.is_none() && output.is_none() {
            return Ok(None);
        }
        // Embeddings have no output; an answer to no input is nothing that can be priced.
        let input_tokens = input.ok_or(AbsurdUsage)?;
        let mut output_tokens = output.unwrap_or(0);
        let reasoning_tokens = reasoning.unwrap_or(0);
        if quirks.reasoning_outside_completion && total != Some(input_tokens + output_tokens) {
            output_tokens += reasoning_tokens;
        }
        let written = cache_write.unwrap_or(0).max(cache_write_1h.unwrap_or(0));
        let usage = Usage {
            input_tokens,
            output_tokens,
            cache_read_tokens: cache_read.unwrap_or(0),
            cache_write_5m_tokens: written - cache_write_1h.unwrap_or(0),
            cache_write_1h_tokens: cache_write_1h.unwrap_or(0),
            reasoning_tokens,
            audio_input_tokens: self.audio_input.unwrap_or(0),
            audio_output_tokens: self.audio_output.unwrap_or(0),
            image_input_tokens: self.image_input.unwrap_or(0),
            image_output_tokens: self.image_output.unwrap_or(0),
            web_searches: self.web_searches.unwrap_or(0),
            service_tier: self.service_tier,
            provider_cost_usd: self.cost.filter(|_| !self.is_fee),
        };
        usage.checked().map(Some)
    }
}

/// The counts of Anthropic's usage as they are told: at the start of a stream, then again in its
/// deltas, where counts only grow; a later zero means that they are not told again.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnthropicFigures {
    /// Without what was read from or written to a cache.
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_5m: Option<u64>,
    cache_write_1h: Option<u64>,
    output: Option<u64>,
    web_searches: Option<u64>,
    service_tier: Option<Box<str>>,
}

impl Figures for AnthropicFigures {
    /// Within one of the objects in the usage.
    type Part = bool;

    const OUTPUT: &'static [u8] = b"content";

    fn tells_output(&self) -> bool {
        self.output.is_some()
    }

    fn part(is_inside: bool, key: &[u8]) -> Option<bool> {
        matches!((is_inside, key), (false, b"cache_creation" | b"server_tool_use")).then_some(true)
    }

    fn take(&mut self, is_inside: bool, key: &[u8], field: Field, bytes: &[u8]) -> Result<(), AbsurdUsage> {
        let slot = match (is_inside, key) {
            (false, b"input_tokens") => &mut self.input,
            (false, b"output_tokens") => &mut self.output,
            (false, b"cache_read_input_tokens") => &mut self.cache_read,
            (false, b"cache_creation_input_tokens") => &mut self.cache_write,
            (false, b"service_tier") if field.kind == Kind::String => {
                self.service_tier = boxed_text(field, bytes);
                return Ok(());
            }
            (true, b"ephemeral_5m_input_tokens") => &mut self.cache_write_5m,
            (true, b"ephemeral_1h_input_tokens") => &mut self.cache_write_1h,
            (true, b"web_search_requests") => &mut self.web_searches,
            _ => return Ok(()),
        };
        larger(slot, field, bytes)
    }
}

impl AnthropicFigures {
    /// Takes over a usage that is told again. Returns the output that it tells.
    pub(crate) fn take_again(&mut self, usage: &[u8]) -> Result<Option<u64>, AbsurdUsage> {
        let before = self.output.take();
        let taken = self.take_all(usage);
        let told = self.output;
        self.output = before.max(told);
        taken.map(|()| told)
    }

    /// The whole of what was told.
    pub(crate) fn usage(&self) -> Result<Option<Usage>, AbsurdUsage> {
        if self.input.is_none() && self.output.is_none() {
            return Ok(None);
        }
        let uncached = self.input.ok_or(AbsurdUsage)?;
        let written_1h = self.cache_write_1h.unwrap_or(0);
        // The sum leads; without a split all of it is of the default, five minutes.
        let written = self.cache_write.unwrap_or(self.cache_write_5m.unwrap_or(0) + written_1h);
        let cache_read_tokens = self.cache_read.unwrap_or(0);
        let usage = Usage {
            input_tokens: uncached + cache_read_tokens + written,
            output_tokens: self.output.unwrap_or(0),
            cache_read_tokens,
            cache_write_5m_tokens: written.checked_sub(written_1h).ok_or(AbsurdUsage)?,
            cache_write_1h_tokens: written_1h,
            web_searches: self.web_searches.unwrap_or(0),
            service_tier: self.service_tier.clone(),
            ..Usage::default()
        };
        usage.checked().map(Some)
    }
}

impl Usage {
    /// The usage, if its parts fit into their wholes.
    fn checked(self) -> Result<Self, AbsurdUsage> {
        let cached = self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens;
        let possible = cached <= self.input_tokens
            && self.audio_input_tokens + self.image_input_tokens <= self.input_tokens
            && self.reasoning_tokens <= self.output_tokens
            && self.audio_output_tokens + self.image_output_tokens <= self.output_tokens
            && self.input_tokens <= MOST_TOKENS
            && self.output_tokens <= MOST_TOKENS;
        if possible { Ok(self) } else { Err(AbsurdUsage) }
    }
}

/// Takes a count over; null says nothing.
fn tell(slot: &mut Option<u64>, field: Field, object: &[u8]) -> Result<(), AbsurdUsage> {
    if let Some(count) = count(field, object)? {
        *slot = Some(count);
    }
    Ok(())
}

/// Takes a count over that is told several times, some of which providers leave at zero.
fn larger(slot: &mut Option<u64>, field: Field, object: &[u8]) -> Result<(), AbsurdUsage> {
    *slot = (*slot).max(count(field, object)?);
    Ok(())
}

fn count(field: Field, object: &[u8]) -> Result<Option<u64>, AbsurdUsage> {
    match field.kind {
        Kind::Null => Ok(None),
        Kind::Number => match json::unsigned(field.of(object)) {
            Some(count) if count <= MOST_TOKENS => Ok(Some(count)),
            Some(_) | None => Err(AbsurdUsage),
        },
        Kind::True | Kind::False | Kind::String | Kind::Array | Kind::Object => Err(AbsurdUsage),
    }
}

pub(crate) fn boxed_text(field: Field, text: &[u8]) -> Option<Box<str>> {
    field.text(text).map(|text| text.into_owned().into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openai(usage: &str) -> Result<Option<Usage>, AbsurdUsage> {
        usage_of_openai(usage.as_bytes(), UsageQuirks::default())
    }

    fn tokens(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    #[test]
    fn openai_shapes_are_one_usage() {
        let cases = [
            (r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#, tokens(10, 5)),
            (r#" { "prompt_tokens" : 8 , "total_tokens" : 8 } "#, tokens(8, 0)),
            (r#"{"input_tokens":3,"output_tokens":4,"output_tokens_details":null}"#, tokens(3, 4)),
            (
                r#"{"prompt_tokens":100,"completion_tokens":50,
                    "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":7,"image_tokens":3,"text_tokens":1},
                    "completion_tokens_details":{"reasoning_tokens":20,"audio_tokens":2,"image_tokens":1,
                        "accepted_prediction_tokens":9,"rejected_prediction_tokens":null}}"#,
                Usage {
                    cache_read_tokens: 60,
                    audio_input_tokens: 7,
                    image_input_tokens: 3,
                    reasoning_tokens: 20,
                    audio_output_tokens: 2,
                    image_output_tokens: 1,
                    ..tokens(100, 50)
                },
            ),
            (
                r#"{"prompt_tokens":9,"completion_tokens":1,"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":5}"#,
                Usage { cache_read_tokens: 4, ..tokens(9, 1) },
            ),
            (
                r#"{"prompt_tokens":9,"completion_tokens":1,"cache_read_input_tokens":2,"cache_creation_input_tokens":5,
                    "prompt_tokens_details":{"cached_tokens":2,"cache_creation_tokens":5,
                        "cache_creation_token_details":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":3}}}"#,
                Usage { cache_read_tokens: 2, cache_write_5m_tokens: 2, cache_write_1h_tokens: 3, ..tokens(9, 1) },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"cost":1.4e-05,"service_tier":"flex"}"#,
                Usage { provider_cost_usd: Some("1.4e-05".into()), service_tier: Some("flex".into()), ..tokens(1, 1) },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"cost":0.01,"is_byok":false,
                    "cost_details":{"upstream_inference_cost":0.01}}"#,
                Usage { provider_cost_usd: Some("0.01".into()), ..tokens(1, 1) },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"cost":0.0005,"is_byok":true,
                    "cost_details":{"upstream_inference_cost":0.01}}"#,
                tokens(1, 1),
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"num_search_queries":2,
                    "cost":{"input_tokens_cost":0.1,"total_cost":0.30}}"#,
                Usage { provider_cost_usd: Some("0.30".into()), web_searches: 2, ..tokens(1, 1) },
            ),
        ];
        for (text, usage) in cases {
            assert_eq!(openai(text), Ok(Some(usage)), "{text}");
        }
        for text in ["{}", "null", "[]", "", r#"{"total_tokens":3}"#, r#"{"prompt_tokens":null}"#] {
            assert_eq!(openai(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_report_that_cannot_be_true_is_absurd() {
        let cases = [
            r#"{"prompt_tokens":-1,"completion_tokens":5}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":5}"#,
            r#"{"prompt_tokens":"1","completion_tokens":5}"#,
            r#"{"prompt_tokens":2147483649,"completion_tokens":5}"#,
            r#"{"prompt_tokens":1,"completion_tokens":99999999999999999999999999}"#,
            r#"{"completion_tokens":5}"#,
            r#"{"prompt_tokens":1,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":2}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":-2}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":6}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":5,"completion_tokens_details":{"audio_tokens":6}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":5,"cost":-0.1}"#,
        ];
        for text in cases {
            assert_eq!(openai(text), Err(AbsurdUsage), "{text}");
        }
        for text in [
            r#"{"input_tokens":-3,"output_tokens":1}"#,
            r#"{"output_tokens":1}"#,
            r#"{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":1,
                "cache_creation":{"ephemeral_1h_input_tokens":2}}"#,
        ] {
            assert_eq!(usage_of_anthropic(text.as_bytes()), Err(AbsurdUsage), "{text}");
        }
    }

    #[test]
    fn reasoning_outside_the_completion_is_added_once() {
        let outside = UsageQuirks { reasoning_outside_completion: true };
        for (total, expected) in [("36", 26), ("16", 6), ("null", 26)] {
            let text = format!(
                r#"{{"prompt_tokens":10,"completion_tokens":6,"total_tokens":{total},
                    "completion_tokens_details":{{"reasoning_tokens":{}}}}}"#,
                if expected == 6 { 5 } else { 20 }
            );
            let usage = usage_of_openai(text.as_bytes(), outside).expect("sane").expect("there");
            assert_eq!(usage.output_tokens, expected, "{text}");
        }
    }

    #[test]
    fn anthropic_input_is_the_sum_of_its_parts() {
        let text = br#"{"input_tokens":300,"cache_read_input_tokens":5000,"cache_creation_input_tokens":3000,
            "cache_creation":{"ephemeral_5m_input_tokens":2000,"ephemeral_1h_input_tokens":1000},
            "output_tokens":400,"server_tool_use":{"web_search_requests":2},"service_tier":"standard"}"#;
        let expected = Usage {
            cache_read_tokens: 5000,
            cache_write_5m_tokens: 2000,
            cache_write_1h_tokens: 1000,
            web_searches: 2,
            service_tier: Some("standard".into()),
            ..tokens(8300, 400)
        };
        assert_eq!(usage_of_anthropic(text), Ok(Some(expected)));
        let unsplit = br#"{"input_tokens":1,"cache_creation_input_tokens":4,"output_tokens":2}"#;
        assert_eq!(usage_of_anthropic(unsplit), Ok(Some(Usage { cache_write_5m_tokens: 4, ..tokens(5, 2) })));
        assert_eq!(usage_of_anthropic(b"{}"), Ok(None));
    }

    #[test]
    fn a_unary_answer_is_noted_in_one_pass() {
        let body = br#"{"id":"x","model":"m-1","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],
            "usage":{"prompt_tokens":3,"completion_tokens":2},"service_tier":"priority","error":null}"#;
        let notes = read_unary(Dialect::OpenAi, body, UsageQuirks::default());
        assert_eq!(notes.usage, Some(Usage { service_tier: Some("priority".into()), ..tokens(3, 2) }));
        assert_eq!(notes.model.and_then(|model| model.text(body)).as_deref(), Some("m-1"));
        assert_eq!((notes.error, notes.absurd, notes.layout.map(|layout| layout.fields)), (None, false, Some(6)));

        let body = br#"{"type":"message","model":"c","usage":{"input_tokens":3,"output_tokens":2}}"#;
        assert_eq!(read_unary(Dialect::Anthropic, body, UsageQuirks::default()).usage, Some(tokens(3, 2)));

        let told = |dialect, body: &str| {
            let notes = read_unary(dialect, body.as_bytes(), UsageQuirks::default());
            (notes.tells_output, notes.says_something(dialect, body.as_bytes()))
        };
        let body = r#"{"choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;
        assert_eq!(told(Dialect::OpenAi, body), (false, true));
        let body = r#"{"content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":3,"output_tokens":0}}"#;
        assert_eq!(told(Dialect::Anthropic, body), (true, true));
        let body = r#"{"content":[],"usage":{"input_tokens":3,"output_tokens":0}}"#;
        assert_eq!(told(Dialect::Anthropic, body), (true, false));

        let body = br#"{"error":{"message":"no"},"usage":{"prompt_tokens":-3}}"#;
        let notes = read_unary(Dialect::OpenAi, body, UsageQuirks::default());
        assert!(notes.error.is_some() && notes.absurd && notes.usage.is_none());

        let cut = br#"{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":2}"#;
        assert_eq!(read_unary(Dialect::OpenAi, cut, UsageQuirks::default()), UnaryNotes::default());
    }
}
