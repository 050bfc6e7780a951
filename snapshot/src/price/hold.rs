//! What an attempt may cost at most: the hold that is reserved before dispatch. An upper bound of
//! [`PriceSheet::cost`] for every usage within the [`Bounds`], whatever is cached, thought, or served in another tier.

use super::cost::nano_rounded_up;
use super::row::Row;
use super::sheet::{FACTOR_ONE, PriceSheet};
use super::unit::{ServiceTier, Unit};
use crate::money::{NanoUsd, Rate, div_ceil};

/// What an attempt can use at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<'a> {
    /// Upper bound of all input tokens.
    pub input_tokens: u64,
    /// The cap on output tokens that is sent, for each choice.
    pub output_tokens: u64,
    /// How many answers are asked for (`n`); 0 counts as 1.
    pub choices: u64,
    /// Searches the model may make; 0 without such a tool.
    pub web_searches: u64,
    /// The request holds audio.
    pub audio: bool,
    /// The request holds images. Models that make images may answer with them unasked.
    pub images: bool,
    /// The request asks for audio.
    pub audio_output: bool,
    pub cache_writes: CacheWrites,
    /// `service_tier` of the request. `None` and `auto` leave the choice to the provider: all tiers that it may choose
    /// count, so a caller who sends `default` holds less.
    pub requested_service_tier: Option<&'a str>,
    /// As in [`super::CostContext`].
    pub region: Option<&'a str>,
    pub speed: Option<&'a str>,
}

/// Which writes to a cache a request can cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheWrites {
    /// The provider has none, or none that costs.
    None,
    /// No more than the short-lived ones: nowhere does the request ask for an hour.
    FiveMinutes,
    #[default]
    OneHour,
}

impl Default for Bounds<'_> {
    /// Nothing is used, one answer; the careful choice where there is one.
    fn default() -> Self {
        Bounds {
            input_tokens: 0,
            output_tokens: 0,
            choices: 1,
            web_searches: 0,
            audio: false,
            images: false,
            audio_output: false,
            cache_writes: CacheWrites::OneHour,
            requested_service_tier: None,
            region: None,
            speed: None,
        }
    }
}

/// What [`PriceSheet::most_paid`] found, for one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostPaid {
    pub input: Rate,
    pub output: Rate,
    pub request: Rate,
}

/// The dearest rates within bounds; `None` where the usual tier has no rate.
#[derive(Default)]
struct Dearest {
    input: Option<Rate>,
    /// Neither read from nor written to a cache.
    plain_input: Option<Rate>,
    output: Option<Rate>,
    web_search: Option<Rate>,
    request: Option<Rate>,
}

impl PriceSheet {
    /// The hold. `None` when a rate that may be needed is not known; [`NanoUsd::MAX`] when it does not fit.
    pub fn worst_case(&self, bounds: &Bounds<'_>) -> Option<NanoUsd> {
        let output_tokens = bounds.output_tokens.saturating_mul(bounds.choices.max(1));
        let dearest = self.dearest(bounds);
        let tokens_are_free = self.is_per_request();
        let mut terms = [0i128; 3];
        let needed = [
            (dearest.input, bounds.input_tokens, tokens_are_free),
            (dearest.output, output_tokens, tokens_are_free),
            (dearest.web_search, bounds.web_searches, false),
        ];
        for (term, (rate, quantity, free)) in terms.iter_mut().zip(needed) {
            match rate {
                Some(rate) => match rate.times(quantity) {
                    Some(cost) => *term = cost,
                    None => return Some(NanoUsd::MAX),
                },
                None if quantity == 0 || free => {}
                None => return None,
            }
        }
        let request = dearest.request.unwrap_or(Rate::ZERO).0;
        let sum = terms.into_iter().try_fold(request, i128::checked_add);
        let factor = self.multiplier(bounds.region, bounds.speed);
        Some(sum.and_then(|atto| nano_rounded_up(atto, factor)).unwrap_or(NanoUsd::MAX))
    }

    /// The dearest that one token of output can be within bounds; for a cap that fits what is left. Multipliers count.
    pub fn output_rate_bound(&self, bounds: &Bounds<'_>) -> Option<Rate> {
        let rate = self.dearest(bounds).output?;
        match self.multiplier(bounds.region, bounds.speed) {
            None => Some(rate),
            Some(factor) => rate.0.checked_mul(factor).map(|atto| Rate(div_ceil(atto, FACTOR_ONE))),
        }
    }

    /// The dearest that a token of plain input and of output, and a request, can be within bounds; 0 where it has no price.
    /// For providers that are told what they may pay. Multipliers do not count.
    pub fn most_paid(&self, bounds: &Bounds<'_>) -> MostPaid {
        let Dearest { plain_input, output, request, .. } = self.dearest(bounds);
        let [input, output, request] = [plain_input, output, request].map(|rate| rate.unwrap_or(Rate::ZERO));
        MostPaid { input, output, request }
    }

    fn dearest(&self, bounds: &Bounds<'_>) -> Dearest {
        let tiers = ServiceTier::possible(bounds.requested_service_tier);
        let mut dearest = Dearest::default();
        let (mut input_known, mut output_known, mut search_known) = (false, false, false);
        for row in self.rows() {
            // A context tier that the bound does not reach cannot be reached by less.
            if row.from_input_tokens > bounds.input_tokens || !(row.tier.is_none() || tiers.contains(&row.tier)) {
                continue;
            }
            let usual = row.tier.is_none() && !row.off_peak;
            match row.unit {
                Unit::InputToken => {
                    input_known |= usual;
                    raise(&mut dearest.input, row);
                    raise(&mut dearest.plain_input, row);
                }
                Unit::CacheReadToken => raise(&mut dearest.input, row),
                Unit::CacheWriteToken if bounds.cache_writes >= CacheWrites::FiveMinutes => {
                    raise(&mut dearest.input, row)
                }
                Unit::CacheWrite1hToken if bounds.cache_writes >= CacheWrites::OneHour => {
                    raise(&mut dearest.input, row)
                }
                Unit::InputAudioToken if bounds.audio => raise(&mut dearest.input, row),
                Unit::InputImageToken if bounds.images => raise(&mut dearest.input, row),
                Unit::OutputToken => {
                    output_known |= usual;
                    raise(&mut dearest.output, row);
                }
                Unit::ReasoningToken | Unit::OutputImageToken => raise(&mut dearest.output, row),
                Unit::OutputAudioToken if bounds.audio_output => raise(&mut dearest.output, row),
                Unit::WebSearch => {
                    search_known |= usual;
                    raise(&mut dearest.web_search, row);
                }
                Unit::Request => raise(&mut dearest.request, row),
                // Not part of what these operations use.
                _ => {}
            }
        }
        dearest.input = dearest.input.filter(|_| input_known);
        dearest.plain_input = dearest.plain_input.filter(|_| input_known);
        dearest.output = dearest.output.filter(|_| output_known);
        dearest.web_search = dearest.web_search.filter(|_| search_known);
        dearest
    }
}

fn raise(dearest: &mut Option<Rate>, row: &Row) {
    *dearest = (*dearest).max(Some(row.rate));
}
