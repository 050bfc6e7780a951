//! LiteLLM's price fields (`input_cost_per_token_above_200k_tokens_priority`) as rates. Arithmetic on decimal text only.

use tollgate_crds::{DecimalText, PerMillionTokens, PriceUnit, Pricing, Rate, ServiceTier};

use crate::block::{Block, Item};
use crate::context::Context;

/// Digits of a price that a resource takes behind the point.
const MOST_PLACES: i32 = 24;
/// Prices per token are written per million.
const MILLION: i64 = 1_000_000;
const MILLION_PLACES: i32 = 6;

/// Field → unit. Those of tokens are the ones with `Token` in their name.
pub(crate) const FIELDS: [(&str, &str); 30] = [
    ("input_cost_per_token", "InputToken"),
    ("output_cost_per_token", "OutputToken"),
    ("cache_read_input_token_cost", "CacheReadToken"),
    ("cache_creation_input_token_cost", "CacheWriteToken"),
    ("cache_read_input_audio_token_cost", "CacheReadAudioToken"),
    ("cache_read_input_image_token_cost", "CacheReadImageToken"),
    ("cache_creation_input_audio_token_cost", "CacheWriteAudioToken"),
    ("output_cost_per_reasoning_token", "ReasoningToken"),
    ("input_cost_per_audio_token", "InputAudioToken"),
    ("output_cost_per_audio_token", "OutputAudioToken"),
    ("input_cost_per_image_token", "InputImageToken"),
    ("output_cost_per_image_token", "OutputImageToken"),
    ("input_cost_per_video_token", "InputVideoToken"),
    ("output_cost_per_video_token", "OutputVideoToken"),
    ("citation_cost_per_token", "CitationToken"),
    ("input_cost_per_character", "InputCharacter"),
    ("output_cost_per_character", "OutputCharacter"),
    ("input_cost_per_second", "InputSecond"),
    ("output_cost_per_second", "OutputSecond"),
    ("input_cost_per_audio_per_second", "InputAudioSecond"),
    ("input_cost_per_video_per_second", "InputVideoSecond"),
    ("output_cost_per_video_per_second", "OutputVideoSecond"),
    ("input_cost_per_image", "InputImage"),
    ("output_cost_per_image", "OutputImage"),
    ("input_cost_per_pixel", "InputPixel"),
    ("output_cost_per_pixel", "OutputPixel"),
    ("input_cost_per_request", "Request"),
    ("input_cost_per_query", "Query"),
    ("code_interpreter_cost_per_session", "CodeInterpreterSession"),
    ("ocr_cost_per_page", "OcrPage"),
];

/// A field's name, taken apart.
#[derive(Debug, PartialEq)]
struct Field {
    unit: &'static str,
    above_input_tokens: i64,
    service_tier: Option<ServiceTier>,
    cache_ttl: Option<&'static str>,
}

/// Whether a key of `litellm_params` or `model_info` is a price.
pub fn is_price(key: &str) -> bool {
    field(key).is_some()
}

/// Takes all prices out of the blocks; of one price in both, the first block's. `like` is what they override.
pub fn take(blocks: [&mut Block; 2], like: Option<String>, context: &mut Context<'_>) -> Option<Pricing> {
    let mut prices: Vec<(String, Item)> = Vec::new();
    for block in blocks {
        for (key, item) in block.take_where(is_price) {
            match prices.iter().find(|(present, _)| *present == key) {
                Some((_, first)) => {
                    let message = format!("the price is not used: `{}` comes first", first.path);
                    context.notes.warn(item.path, message, "");
                }
                None => prices.push((key, item)),
            }
        }
    }
    let mut usual = PerMillionTokens::default();
    let mut rates = Vec::new();
    let mut is_free = true;
    for (key, item) in prices {
        let (Some(field), Some(cost)) = (field(&key), context.decimal(&item)) else { continue };
        is_free &= cost.is_zero();
        let is_of_tokens = field.unit.ends_with("Token");
        let price = if is_of_tokens { cost.shifted(MILLION_PLACES) } else { cost };
        if price.places() > MOST_PLACES {
            context.notes.error(item.path, format!("the price has more than {MOST_PLACES} decimals"), "");
            continue;
        }
        let price = DecimalText::new(price.text());
        if price.get().is_err() {
            context.notes.error(item.path, "the price is too high", "");
            continue;
        }
        let Field { unit, above_input_tokens, service_tier, cache_ttl } = field;
        let is_usual = above_input_tokens == 0 && service_tier.is_none() && cache_ttl.is_none();
        let slot = match unit {
            "InputToken" => Some(&mut usual.input),
            "OutputToken" => Some(&mut usual.output),
            "CacheReadToken" => Some(&mut usual.cache_read),
            "CacheWriteToken" => Some(&mut usual.cache_write),
            _ => None,
        };
        match slot.filter(|_| is_usual) {
            Some(slot) => *slot = Some(price),
            None => rates.push(Rate {
                unit: PriceUnit::new(unit),
                price,
                per: if is_of_tokens { MILLION } else { 1 },
                above_input_tokens,
                service_tier,
                cache_ttl: cache_ttl.map(Into::into),
            }),
        }
    }
    let has_usual = usual != PerMillionTokens::default();
    if !has_usual && rates.is_empty() {
        return like.map(|like| Pricing { like: Some(like), ..Pricing::default() });
    }
    if is_free {
        return Some(Pricing { free: true, ..Pricing::default() });
    }
    Some(Pricing { per_million_tokens: has_usual.then_some(usual), free: false, like, rates })
}

fn field(key: &str) -> Option<Field> {
    let mut rest = key;
    let mut service_tier = None;
    for (suffix, tier) in
        [("_batches", ServiceTier::Batch), ("_flex", ServiceTier::Flex), ("_priority", ServiceTier::Priority)]
    {
        if let Some(shorter) = rest.strip_suffix(suffix) {
            (rest, service_tier) = (shorter, Some(tier));
        }
    }
    let mut above_input_tokens = 0;
    if let Some((shorter, thousands)) = rest.strip_suffix("k_tokens").and_then(|rest| rest.rsplit_once("_above_")) {
        above_input_tokens =
            thousands.parse::<i64>().ok().filter(|thousands| (1..=1_000_000).contains(thousands))? * 1_000;
        rest = shorter;
    }
    let mut cache_ttl = None;
    if let Some(shorter) = rest.strip_suffix("_above_1hr") {
        (rest, cache_ttl) = (shorter, Some("1h"));
    }
    let (_, unit) = FIELDS.iter().find(|(name, _)| *name == rest)?;
    (cache_ttl.is_none() || *unit == "CacheWriteToken").then_some(Field {
        unit,
        above_input_tokens,
        service_tier,
        cache_ttl,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_prices_are_taken_apart() {
        let plain = Field { unit: "InputToken", above_input_tokens: 0, service_tier: None, cache_ttl: None };
        assert_eq!(field("input_cost_per_token"), Some(plain));
        let much = field("output_cost_per_token_above_200k_tokens_priority").unwrap();
        assert_eq!(
            (much.unit, much.above_input_tokens, much.service_tier),
            ("OutputToken", 200_000, Some(ServiceTier::Priority))
        );
        assert_eq!(field("cache_creation_input_token_cost_above_1hr").unwrap().cache_ttl, Some("1h"));
        assert_eq!(field("input_cost_per_token_batches").unwrap().service_tier, Some(ServiceTier::Batch));
        for other in
            ["input_cost", "cost_per_token", "input_cost_per_token_above_xk_tokens", "output_cost_per_token_above_1hr"]
        {
            assert_eq!(field(other), None, "{other}");
        }
    }

    #[test]
    fn every_unit_is_one_that_resources_have() {
        for (field, unit) in FIELDS {
            assert!(PriceUnit::new(unit).is_known(), "{field}");
        }
    }
}
