//! LiteLLM's price map (`model_prices_and_context_window.json`) as models of our price table. Numbers keep their text, so
//! that no price passes through a float. What is not understood is named, never dropped in silence.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tollgate_snapshot::money::Rate;
use tollgate_snapshot::price::{Capabilities, ModelPrice, Multiplier, OffPeak, Row, Scope, ServiceTier, Unit};

use crate::decimal::Decimal;
use crate::price::FIELDS;

/// Fields of models that deployments do not have.
const MORE_FIELDS: [(&str, Unit); 5] = [
    // Of provisioned throughput.
    ("cost_per_second", Unit::OutputSecond),
    ("explicit_cache_read_input_token_cost", Unit::ExplicitCacheReadToken),
    ("input_cost_per_token_cache_hit", Unit::CacheReadToken),
    ("google_maps_grounding_cost_per_query", Unit::MapsGroundingQuery),
    ("annotation_cost_per_page", Unit::AnnotationPage),
];

const TIERS: [(&str, ServiceTier); 6] = [
    ("_batches", ServiceTier::Batch),
    ("_flex", ServiceTier::Flex),
    ("_priority", ServiceTier::Priority),
    ("_balanced", ServiceTier::Balanced),
    ("_ultrafast", ServiceTier::Ultrafast),
    ("_decisions", ServiceTier::Decisions),
];

/// The entry that explains the others.
const EXPLANATION: &str = "sample_spec";

/// A price map, read.
#[derive(Clone, Debug, Default)]
pub struct PriceMap {
    pub models: Vec<ModelPrice>,
    /// Names of price fields that were not understood, and of models that could not be taken, sorted.
    pub unread: BTreeSet<String>,
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Whether a text looks like a price map: one JSON object that is no line of ours.
pub fn is_price_map(text: &str) -> bool {
    text.trim_start().starts_with('{')
        && !text.trim_start().starts_with("{\"m\":")
        && text.contains("\"litellm_provider\"")
}

/// Reads a price map.
///
/// # Errors
/// A text that is no JSON object of objects; in a few words.
pub fn read_price_map(text: &str) -> Result<PriceMap, String> {
    let entries: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut map = PriceMap::default();
    for (name, entry) in entries {
        // Patterns are no models.
        if name == EXPLANATION || name.contains('*') {
            continue;
        }
        let fields: Fields<'_> =
            serde_json::from_str(entry.get()).map_err(|error| format!("model `{name}`: {error}"))?;
        let price = model(&name, &fields, &mut map.unread);
        if price.rows.is_empty() {
            continue;
        }
        if price.to_line().is_err() {
            map.unread.insert(format!("model `{name}`"));
            continue;
        }
        map.models.push(price);
    }
    Ok(map)
}

fn model(name: &str, fields: &Fields<'_>, unread: &mut BTreeSet<String>) -> ModelPrice {
    let text = |key: &str| fields.get(key).and_then(|raw| read::<String>(raw)).unwrap_or_default();
    let number = |key: &str| {
        let number = fields.get(key).and_then(|raw| Decimal::parse(raw.get()))?;
        u64::try_from(number.scaled(0)?).ok()
    };
    let deprecated_on = text("deprecation_date");
    let mut price = ModelPrice {
        key: name.into(),
        provider: text("litellm_provider").into(),
        mode: text("mode").into(),
        max_input_tokens: number("max_input_tokens"),
        max_output_tokens: number("max_output_tokens"),
        vector_size: number("output_vector_size"),
        deprecated_on: (!deprecated_on.is_empty()).then(|| deprecated_on.into()),
        capabilities: capabilities(fields),
        free_searches: fields.get("search_free_requests").and_then(|raw| read(raw)),
        rows: Vec::new(),
        off_peak: Vec::new(),
        multipliers: Vec::new(),
    };
    let mut not_read = |key: &str| {
        unread.insert(format!("`{key}`"));
    };
    for (key, raw) in fields {
        if raw.get() == "null" {
            continue;
        }
        let is_read = match key.as_str() {
            "search_context_cost_per_query" => searches(raw, &mut price),
            "tiered_pricing" => ranges(raw, &mut price),
            "off_peak_pricing" => off_peak(raw, &mut price),
            "provider_specific_entry" => factors(raw, name, &mut price),
            key if key.contains("_uplift_multiplier") => {
                let factor = key.replacen("_multiplier", "", 1);
                let parsed = Multiplier::parse(name, &factor, raw.get());
                parsed.map(|factor| price.multipliers.push(factor)).is_ok()
            }
            key if key.contains("_cost") || key.starts_with("cost_") => match (row(key), Rate::parse(raw.get())) {
                (Some(row), Ok(rate)) => {
                    price.rows.push(Row { rate, ..row });
                    true
                }
                _ => false,
            },
            _ => true,
        };
        if !is_read {
            not_read(key);
        }
    }
    price.multipliers.sort_by(|a, b| a.name.cmp(&b.name));
    price.tidy();
    price
}

fn read<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// Those that our table has names for.
fn capabilities(fields: &Fields<'_>) -> Capabilities {
    let supported = fields.iter().filter(|(_, raw)| raw.get() == "true");
    let names = supported.filter_map(|(key, _)| key.strip_prefix("supports_"));
    let known = names.filter(|name| Capabilities::from_names([*name]).is_ok());
    Capabilities::from_names(known).unwrap_or_default()
}

/// What a field's name says, with a rate of 0.
fn row(key: &str) -> Option<Row> {
    let mut rest = key;
    let mut row = Row::new(Unit::InputToken, Rate::ZERO);
    for (suffix, tier) in TIERS {
        if let Some(shorter) = rest.strip_suffix(suffix) {
            (rest, row.tier) = (shorter, Some(tier));
        }
    }
    if let Some((shorter, thousands)) = rest.strip_suffix("k_tokens").and_then(|rest| rest.rsplit_once("_above_")) {
        row.from_input_tokens = thousands.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(1)?;
        rest = shorter;
    }
    if let Some((shorter, seconds)) = rest.strip_suffix("s_interval").and_then(|rest| rest.rsplit_once("_above_")) {
        row.scope = Scope::Above(seconds.parse().ok()?);
        rest = shorter;
    }
    let sized =
        |start: &str| rest.strip_prefix(start).filter(|size| size.starts_with(|first: char| first.is_ascii_digit()));
    row.unit = if let Some(size) = sized("output_cost_per_image_") {
        row.scope = Scope::Size(size.into());
        Unit::OutputImage
    } else if let Some(size) = sized("output_cost_per_second_") {
        row.scope = Scope::Size(size.into());
        Unit::OutputSecond
    } else {
        match rest {
            "cache_creation_input_token_cost_above_1hr" => Unit::CacheWrite1hToken,
            "cache_creation_input_token_cost_above_12hr" => Unit::CacheWrite12hToken,
            _ => {
                let more = MORE_FIELDS.iter().find(|(name, _)| *name == rest).map(|(_, unit)| *unit);
                let usual = || FIELDS.iter().find(|(name, _)| *name == rest).and_then(|(_, unit)| Unit::parse(unit));
                more.or_else(usual)?
            }
        }
    };
    Some(row)
}

/// Searches by the size of their context.
fn searches(raw: &RawValue, price: &mut ModelPrice) -> bool {
    let Ok(sizes) = serde_json::from_str::<Fields<'_>>(raw.get()) else { return false };
    let mut is_read = true;
    for (key, raw) in sizes {
        match (key.strip_prefix("search_context_size_"), Rate::parse(raw.get())) {
            (Some(size), Ok(rate)) => {
                price.rows.push(Row { scope: Scope::Size(size.into()), ..Row::new(Unit::WebSearch, rate) });
            }
            _ => is_read = false,
        }
    }
    is_read
}

/// Rates by the size of the input, or by how many results a search is asked for.
fn ranges(raw: &RawValue, price: &mut ModelPrice) -> bool {
    let Ok(ranges) = serde_json::from_str::<Vec<Fields<'_>>>(raw.get()) else { return false };
    let ends = |raw: &RawValue| {
        let ends: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
        let ends = ends.into_iter().map(|end| u64::try_from(Decimal::parse(end.get())?.scaled(0)?).ok());
        ends.collect::<Option<Vec<u64>>>()
    };
    let mut is_read = true;
    for fields in &ranges {
        let (mut from, mut scope) = (0, Scope::Any);
        for (key, raw) in fields {
            match (key.as_str(), ends(raw).as_deref()) {
                ("range", Some([start, _])) => from = *start,
                ("max_results_range", Some([start, end])) => match (u32::try_from(*start), u32::try_from(*end)) {
                    (Ok(start), Ok(end)) => scope = Scope::Results(start, end),
                    _ => is_read = false,
                },
                ("range" | "max_results_range", _) => is_read = false,
                _ => {}
            }
        }
        for (key, raw) in fields.iter().filter(|(key, _)| key.contains("_cost")) {
            match (row(key), Rate::parse(raw.get())) {
                (Some(row), Ok(rate)) => {
                    price.rows.push(Row { rate, from_input_tokens: from, scope: scope.clone(), ..row });
                }
                _ => is_read = false,
            }
        }
    }
    is_read
}

#[derive(Deserialize)]
struct Window {
    hours_utc: OneOrMore,
    /// Monday is 1.
    weekdays: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Rates of hours of a week.
fn off_peak(raw: &RawValue, price: &mut ModelPrice) -> bool {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(raw.get()) else { return false };
    let mut is_read = true;
    for (key, raw) in &fields {
        if key == "windows" {
            let windows = read::<Vec<Window>>(raw).and_then(|windows| hours(&windows));
            match windows {
                Some(hours) => price.off_peak = hours,
                None => is_read = false,
            }
            continue;
        }
        match (row(key), Rate::parse(raw.get())) {
            (Some(row), Ok(rate)) => price.rows.push(Row { rate, off_peak: true, ..row }),
            _ => is_read = false,
        }
    }
    is_read
}

fn hours(windows: &[Window]) -> Option<Vec<OffPeak>> {
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        Some(hour.parse::<u16>().ok()? * 60 + minute.parse::<u16>().ok()?)
    };
    let mut all = Vec::new();
    for Window { hours_utc, weekdays } in windows {
        let days =
            weekdays.iter().try_fold(0u8, |days, day| Some(days | 1u8.checked_shl(u32::from(day.checked_sub(1)?))?))?;
        let spans = match hours_utc {
            OneOrMore::One(span) => std::slice::from_ref(span),
            OneOrMore::More(spans) => spans.as_slice(),
        };
        for span in spans {
            let (from, to) = span.split_once('-')?;
            all.push(OffPeak { weekdays: days, from_minute: minute(from)?, to_minute: minute(to)? });
        }
    }
    Some(all)
}

/// Factors on the whole cost; what else providers have there is no price.
fn factors(raw: &RawValue, name: &str, price: &mut ModelPrice) -> bool {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(raw.get()) else { return true };
    let mut is_read = true;
    for (key, raw) in fields.iter().filter(|(key, _)| matches!(key.as_str(), "us" | "fast")) {
        match Multiplier::parse(name, key, raw.get()) {
            Ok(factor) => price.multipliers.push(factor),
            Err(_) => is_read = false,
        }
    }
    is_read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_model_become_rows_to_the_last_digit() {
        let text = r#"{
            "sample_spec": {"input_cost_per_token": 0.0},
            "bedrock/*/x": {"litellm_provider": "bedrock", "input_cost_per_token": 1},
            "big": {
                "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 1e6, "max_output_tokens": 128000.0,
                "input_cost_per_token": 2.5e-06, "output_cost_per_token": 0.00001,
                "output_cost_per_reasoning_token": 0.00001,
                "input_cost_per_token_above_272k_tokens_priority": 1.23456789012345678e-5,
                "cache_creation_input_token_cost_above_12hr_above_272k_tokens": 5e-05,
                "cache_creation_input_token_cost_above_1hr": 6e-06,
                "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_medium": 0.01,
                    "search_context_size_high": 0.01},
                "regional_processing_uplift_multiplier_eu": 1.1, "provider_specific_entry": {"fast": 2.0, "x": "y"},
                "supports_vision": true, "supports_telepathy": true, "input_cost_per_wish": 3
            },
            "small": {
                "litellm_provider": "dashscope", "output_cost_per_image_2K": 0.12, "output_cost_per_second_720p": 0.08,
                "input_cost_per_video_per_second_above_15s_interval": 0.002,
                "tiered_pricing": [{"range": [0, 256000.0], "input_cost_per_token": 5e-08},
                    {"range": [256000.0, 1e6], "input_cost_per_token": 2.5e-07}],
                "off_peak_pricing": {"output_cost_per_token": 1e-06,
                    "windows": [{"hours_utc": "10:00-00:00", "weekdays": [6, 7]}]}
            }
        }"#;
        assert!(is_price_map(text));
        let PriceMap { models, unread } = read_price_map(text).unwrap();
        let rows: Vec<Vec<String>> =
            models.iter().map(|model| model.rows.iter().map(Row::to_string).collect()).collect();
        assert_eq!(
            rows,
            [
                vec![
                    "in 0.0000025",
                    "in 0.000012345678901235 tier=priority from=272001",
                    "out 0.00001",
                    "cw1h 0.000006",
                    "cw12h 0.00005 from=272001",
                    "web 0.01",
                ],
                vec![
                    "in 0.00000005",
                    "in 0.00000025 from=256000",
                    "out 0.000001 off",
                    "osec 0.08 size=720p",
                    "vsec 0.002 above=15",
                    "oimg 0.12 size=2K",
                ],
            ]
        );
        let [big, small] = models.as_slice() else { panic!("{models:?}") };
        assert_eq!((big.max_input_tokens, big.max_output_tokens), (Some(1_000_000), Some(128_000)));
        let factors: Vec<(&str, u32)> = big.multipliers.iter().map(|x| (&*x.name, x.parts_per_million)).collect();
        assert_eq!(factors, [("fast", 2_000_000), ("regional_processing_uplift_eu", 1_100_000)]);
        assert_eq!(small.off_peak, [OffPeak { weekdays: 0b110_0000, from_minute: 600, to_minute: 0 }]);
        assert!(big.capabilities.contains("vision"));
        assert_eq!(unread.into_iter().collect::<Vec<_>>(), ["`input_cost_per_wish`"]);
    }

    #[test]
    fn what_is_no_price_map_is_refused() {
        assert!(read_price_map("[]").is_err());
        assert!(read_price_map("{\"a\": 3}").is_err());
        assert!(!is_price_map("{\"m\":\"a\",\"p\":\"x\",\"k\":\"chat\",\"r\":[\"in 1\"]}\n"));
    }
}
