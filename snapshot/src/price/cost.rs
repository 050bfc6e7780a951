//! What an attempt did cost: a usage, split so that no token is counted twice, times the rates that apply. Summed in
//! 10^-18 USD and rounded up once; the breakdown is cut so that its parts sum to the total exactly.

use tollgate_dialects::usage::Usage;

use super::sheet::{FACTOR_ONE, PriceSheet};
use super::unit::{ServiceTier, Unit};
use crate::money::{ATTO_PER_NANO, NanoUsd, div_ceil};

/// What is known of a call beyond its usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostContext<'a> {
    /// `service_tier` of the request. The tier that the usage says was served wins.
    pub requested_service_tier: Option<&'a str>,
    /// Where it is processed, as the provider's price list names it: `eu`, `us`, `global`.
    pub region: Option<&'a str>,
    /// `fast` where the request asked for that.
    pub speed: Option<&'a str>,
    /// `low`, `medium` or `high` where the request says so.
    pub search_context_size: Option<&'a str>,
    /// When the attempt began; decides on off-peak rates. `None`: never off-peak.
    pub at_unix_seconds: Option<i64>,
    /// Take the cost that the provider reports, if it does, over our own sheet.
    pub trust_reported_cost: bool,
}

/// Under which conditions quantities are priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions<'a> {
    pub tier: Option<ServiceTier>,
    /// All input tokens of the request; decides on context tiers.
    pub input_tokens: u64,
    pub at_unix_seconds: Option<i64>,
    pub region: Option<&'a str>,
    pub speed: Option<&'a str>,
    pub search_context_size: Option<&'a str>,
    /// Of images and videos: `1080p`, `2K`. `None`: the dearest.
    pub resolution: Option<&'a str>,
    /// How many results a search was asked for. `None`: the dearest.
    pub results: Option<u32>,
}

/// What an attempt cost. The parts sum to the total exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub total: NanoUsd,
    /// Input that no cache was involved in, of all modalities.
    pub input: NanoUsd,
    pub cache_read: NanoUsd,
    pub cache_write: NanoUsd,
    /// Output without what was thought.
    pub output: NanoUsd,
    pub reasoning: NanoUsd,
    /// Searches and the like that the model did itself.
    pub tools: NanoUsd,
    /// Per request, per second, per image; and the whole of a cost that the provider reported.
    pub other: NanoUsd,
    pub source: CostSource,
}

/// Who computed a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CostSource {
    #[default]
    Sheet,
    Provider,
}

/// Why there is no cost. The caller charges the hold, or books the attempt as unpriced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// `known` is the cost of everything else.
    #[error("no price is known for {unit}", unit = .unit.name())]
    Unpriced { unit: Unit, known: NanoUsd },
    #[error("the usage contradicts itself: more cached than read, or more thought than written")]
    AbsurdUsage,
    #[error("the cost is too large")]
    TooLarge,
}

/// Parts of a cost in the order in which rounding is cut.
const PARTS: usize = 7;

fn part_of(unit: Unit) -> usize {
    match unit {
        Unit::InputToken
        | Unit::InputAudioToken
        | Unit::InputImageToken
        | Unit::InputVideoToken
        | Unit::InputCharacter => 0,
        Unit::CacheReadToken | Unit::ExplicitCacheReadToken | Unit::CacheReadAudioToken | Unit::CacheReadImageToken => {
            1
        }
        Unit::CacheWriteToken | Unit::CacheWrite1hToken | Unit::CacheWrite12hToken | Unit::CacheWriteAudioToken => 2,
        Unit::OutputToken
        | Unit::OutputAudioToken
        | Unit::OutputImageToken
        | Unit::OutputVideoToken
        | Unit::OutputCharacter => 3,
        Unit::ReasoningToken => 4,
        Unit::WebSearch | Unit::MapsGroundingQuery | Unit::CodeInterpreterSession | Unit::CitationToken => 5,
        Unit::InputSecond
        | Unit::OutputSecond
        | Unit::InputAudioSecond
        | Unit::InputVideoSecond
        | Unit::OutputVideoSecond
        | Unit::InputImage
        | Unit::OutputImage
        | Unit::InputPixel
        | Unit::OutputPixel
        | Unit::Request
        | Unit::Query
        | Unit::OcrPage
        | Unit::AnnotationPage => 6,
    }
}

/// The cost that the provider itself reports, rounded up to a nano-USD; `None` if it reports none that can be read.
pub fn reported_cost(usage: &Usage) -> Option<Cost> {
    let total = NanoUsd::parse_rounding_up(usage.provider_cost_usd.as_deref()?).ok()?;
    (total >= NanoUsd::ZERO).then_some(Cost { total, other: total, source: CostSource::Provider, ..Cost::default() })
}

impl PriceSheet {
    /// The cost of a call to a chat, completions, embeddings or messages operation.
    ///
    /// # Errors
    /// A rate that is needed is missing, the usage is contradictory, or the sum does not fit.
    pub fn cost(&self, usage: &Usage, context: &CostContext<'_>) -> Result<Cost, CostError> {
        if context.trust_reported_cost
            && let Some(cost) = reported_cost(usage)
        {
            return Ok(cost);
        }
        let CostContext {
            requested_service_tier,
            region,
            speed,
            search_context_size,
            at_unix_seconds,
            trust_reported_cost: _,
        } = *context;
        let tier = usage.service_tier.as_deref().or(requested_service_tier).and_then(ServiceTier::parse);
        let conditions = Conditions {
            tier,
            input_tokens: usage.input_tokens,
            at_unix_seconds,
            region,
            speed,
            search_context_size,
            resolution: None,
            results: None,
        };
        self.cost_of(&quantities(usage)?, &conditions)
    }

    /// The cost of quantities of any units; those of 0 need no rate. A rate per request is added once if there is one.
    ///
    /// # Errors
    /// As [`PriceSheet::cost`].
    pub fn cost_of(&self, quantities: &[(Unit, u64)], conditions: &Conditions<'_>) -> Result<Cost, CostError> {
        let mut parts = [0i128; PARTS];
        let mut unpriced = None;
        let tokens_are_free = self.is_per_request();
        for &(unit, quantity) in quantities.iter().filter(|(_, quantity)| *quantity > 0) {
            let Some(rate) = self.rate(unit, conditions, quantity) else {
                let is_token = unit == Unit::InputToken || unit == Unit::OutputToken || unit.fallback().is_some();
                if !(tokens_are_free && is_token) {
                    unpriced = unpriced.or(Some(unit));
                }
                continue;
            };
            let part = &mut parts[part_of(unit)];
            let cost = rate.times(quantity).ok_or(CostError::TooLarge)?;
            *part = part.checked_add(cost).ok_or(CostError::TooLarge)?;
        }
        if quantities.iter().all(|(unit, _)| *unit != Unit::Request)
            && let Some(rate) = self.rate(Unit::Request, conditions, 1)
        {
            let part = &mut parts[part_of(Unit::Request)];
            *part = part.checked_add(rate.0).ok_or(CostError::TooLarge)?;
        }
        let cost = self.rounded(&parts, conditions).ok_or(CostError::TooLarge)?;
        match unpriced {
            None => Ok(cost),
            Some(unit) => Err(CostError::Unpriced { unit, known: cost.total }),
        }
    }

    /// Each part is what it adds to the rounded sum of those before it, so only the total is ever rounded.
    fn rounded(&self, parts: &[i128; PARTS], conditions: &Conditions<'_>) -> Option<Cost> {
        let factor = self.multiplier(conditions.region, conditions.speed);
        let (mut exact, mut total) = (0i128, NanoUsd::ZERO);
        let mut nano = [NanoUsd::ZERO; PARTS];
        for (part, nano) in parts.iter().zip(&mut nano) {
            if *part != 0 {
                exact = exact.checked_add(*part)?;
                let sum = nano_rounded_up(exact, factor)?;
                *nano = sum.checked_sub(total)?;
                total = sum;
            }
        }
        let [input, cache_read, cache_write, output, reasoning, tools, other] = nano;
        Some(Cost { total, input, cache_read, cache_write, output, reasoning, tools, other, source: CostSource::Sheet })
    }
}

/// To nano-USD, with the factor of [`PriceSheet::multiplier`], rounded up once.
pub(super) fn nano_rounded_up(atto: i128, factor: Option<i128>) -> Option<NanoUsd> {
    match factor {
        None => NanoUsd::from_atto_rounding_up(atto),
        Some(factor) => {
            i64::try_from(div_ceil(atto.checked_mul(factor)?, FACTOR_ONE * ATTO_PER_NANO)).ok().map(NanoUsd)
        }
    }
}

/// A usage as quantities that overlap nowhere. Tokens of a modality beyond what the caches left were read from a cache.
fn quantities(usage: &Usage) -> Result<[(Unit, u64); 11], CostError> {
    let mut uncached = usage.input_tokens;
    for cached in [usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens] {
        uncached = uncached.checked_sub(cached).ok_or(CostError::AbsurdUsage)?;
    }
    let input_audio = usage.audio_input_tokens.min(uncached);
    let input_images = usage.image_input_tokens.min(uncached - input_audio);
    let said = usage.output_tokens.checked_sub(usage.reasoning_tokens).ok_or(CostError::AbsurdUsage)?;
    let output_audio = usage.audio_output_tokens.min(said);
    let output_images = usage.image_output_tokens.min(said - output_audio);
    Ok([
        (Unit::InputToken, uncached - input_audio - input_images),
        (Unit::InputAudioToken, input_audio),
        (Unit::InputImageToken, input_images),
        (Unit::CacheReadToken, usage.cache_read_tokens),
        (Unit::CacheWriteToken, usage.cache_write_5m_tokens),
        (Unit::CacheWrite1hToken, usage.cache_write_1h_tokens),
        (Unit::OutputToken, said - output_audio - output_images),
        (Unit::OutputAudioToken, output_audio),
        (Unit::OutputImageToken, output_images),
        (Unit::ReasoningToken, usage.reasoning_tokens),
        (Unit::WebSearch, usage.web_searches),
    ])
}
