//! Regenerates `data/prices.jsonl` and `data/prices.version` from a list of model prices in the form that
//! `data/README.md` describes. Prints what it changed and why; stops at the first thing it does not understand.
//!
//! `cargo run -p tollgate-snapshot --example convert_prices -- INPUT.jsonl OUTPUT_FOLDER "SOURCE AND DATE"`

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use tollgate_snapshot::money::Rate;
use tollgate_snapshot::price::{
    Capabilities, FreeSearches, ModelPrice, Multiplier, OffPeak, Row, Scope, ServiceTier, Unit,
};

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceModel {
    model: String,
    provider: Option<String>,
    mode: Option<String>,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    vector_size: Option<u64>,
    deprecated_on: Option<String>,
    #[serde(default)]
    capabilities: Vec<String>,
    free_searches: Option<FreeSearches>,
    #[serde(default)]
    off_peak_windows_utc: Vec<SourceHours>,
    #[serde(default)]
    multipliers: BTreeMap<String, String>,
    rates: Vec<SourceRate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceHours {
    hours: Vec<String>,
    /// Monday is 1.
    weekdays: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceRate {
    unit: String,
    usd: String,
    service_tier: Option<String>,
    above_input_tokens: Option<u64>,
    input_tokens_from: Option<u64>,
    input_tokens_to: Option<u64>,
    cache_ttl: Option<String>,
    resolution: Option<String>,
    context_size: Option<String>,
    results_from: Option<u32>,
    results_to: Option<u32>,
    above_seconds: Option<u32>,
    #[serde(default)]
    off_peak: bool,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, version] = arguments.as_slice() else {
        return Err("usage: convert_prices INPUT.jsonl OUTPUT_FOLDER \"SOURCE AND DATE\"".into());
    };
    let mut models = BTreeMap::new();
    for line in std::fs::read_to_string(input)?.lines() {
        let source: SourceModel = serde_json::from_str(line)?;
        if source.rates.is_empty() || source.model.contains('*') {
            println!("left out `{}`: it has no rates or is no model", source.model);
            continue;
        }
        let name = source.model.clone();
        let price = convert(source).map_err(|error| format!("`{name}`: {error}"))?;
        let line = price.to_line()?;
        if models.insert(name.clone(), line).is_some() {
            return Err(format!("`{name}` stands twice").into());
        }
    }
    let mut text = models.values().map(String::as_str).collect::<Vec<_>>().join("\n");
    text.push('\n');
    std::fs::write(Path::new(output).join("prices.jsonl"), &text)?;
    std::fs::write(Path::new(output).join("prices.version"), format!("{version}\n"))?;
    println!("{} models, {} bytes", models.len(), text.len());
    Ok(())
}

fn convert(source: SourceModel) -> Result<ModelPrice, Failure> {
    let name = source.model;
    check_ranges(&source.rates)?;
    let mut rows: Vec<Row> = Vec::with_capacity(source.rates.len());
    for rate in &source.rates {
        let row = convert_rate(rate)?;
        match rows.iter_mut().find(|other| condition(other) == condition(&row)) {
            None => rows.push(row),
            Some(other) if other.rate == row.rate => {}
            Some(other) => {
                println!("`{name}`: `{other}` and `{row}` are the same condition; the higher stays");
                other.rate = other.rate.max(row.rate);
            }
        }
    }
    let mut off_peak = Vec::new();
    for window in &source.off_peak_windows_utc {
        let weekdays = window.weekdays.iter().fold(0, |days, day| days | 1 << (day - 1));
        for hours in &window.hours {
            let (from, to) = hours.split_once('-').ok_or("hours without an end")?;
            off_peak.push(OffPeak { weekdays, from_minute: minute(from)?, to_minute: minute(to)? });
        }
    }
    let multipliers = source.multipliers.iter().map(|(factor, text)| Multiplier::parse(&name, factor, text));
    let multipliers = multipliers.collect::<Result<_, _>>()?;
    let capabilities = Capabilities::from_names(source.capabilities.iter().map(String::as_str))
        .map_err(|unknown| format!("capability `{unknown}` is not known"))?;
    let mut price = ModelPrice {
        key: name.into(),
        provider: source.provider.unwrap_or_default().into(),
        mode: source.mode.unwrap_or_default().into(),
        max_input_tokens: source.max_input_tokens,
        max_output_tokens: source.max_output_tokens,
        vector_size: source.vector_size,
        deprecated_on: source.deprecated_on.map(Into::into),
        capabilities,
        free_searches: source.free_searches,
        rows,
        off_peak,
        multipliers,
    };
    price.tidy();
    Ok(price)
}

fn convert_rate(source: &SourceRate) -> Result<Row, Failure> {
    let mut resolution = source.resolution.as_deref();
    let unit = match (source.unit.as_str(), source.cache_ttl.as_deref(), resolution) {
        ("cache_write_token", Some("1h"), None) => Unit::CacheWrite1hToken,
        ("cache_write_token", Some("12h"), None) => Unit::CacheWrite12hToken,
        // The source files a price per token of an image under the images, as if `token` were a resolution.
        ("output_image", None, Some("token")) => {
            resolution = None;
            Unit::OutputImageToken
        }
        (name, None, _) => Unit::parse(name).ok_or_else(|| format!("unit `{name}` is not known"))?,
        (name, Some(ttl), _) => return Err(format!("`{name}` that lives `{ttl}` is not known").into()),
    };
    let tier = match source.service_tier.as_deref() {
        None => None,
        Some(name) => Some(ServiceTier::parse(name).ok_or_else(|| format!("tier `{name}` is not known"))?),
    };
    let from_input_tokens = match (source.above_input_tokens, source.input_tokens_from) {
        (None, from) => from.unwrap_or(0),
        (Some(above), None) => above + 1,
        (Some(_), Some(_)) => return Err("both a threshold and a range".into()),
    };
    let sizes = [resolution, source.context_size.as_deref()];
    let scope = match (sizes, source.results_from.zip(source.results_to), source.above_seconds) {
        ([None, None], None, None) => Scope::Any,
        ([Some(size), None] | [None, Some(size)], None, None) => Scope::Size(size.into()),
        ([None, None], Some((from, to)), None) => Scope::Results(from, to),
        ([None, None], None, Some(seconds)) => Scope::Above(seconds),
        _ => return Err("more conditions on one rate than are understood".into()),
    };
    let rate = Rate::parse(&source.usd)?;
    Ok(Row { unit, rate, tier, from_input_tokens, off_peak: source.off_peak, scope })
}

fn condition(row: &Row) -> (Unit, Option<ServiceTier>, u64, bool, &Scope) {
    (row.unit, row.tier, row.from_input_tokens, row.off_peak, &row.scope)
}

/// Our rows say only where a range begins: it ends where the next begins, the last never. True only without gaps.
fn check_ranges(rates: &[SourceRate]) -> Result<(), Failure> {
    let mut units: BTreeMap<_, Vec<(u64, u64)>> = BTreeMap::new();
    for rate in rates {
        if let (Some(from), Some(to)) = (rate.input_tokens_from, rate.input_tokens_to) {
            units.entry((rate.unit.as_str(), rate.service_tier.as_deref())).or_default().push((from, to));
        }
    }
    for ((unit, _), mut ranges) in units {
        ranges.sort();
        let joined = ranges.windows(2).all(|pair| pair[0].1 == pair[1].0);
        if ranges[0].0 != 0 || !joined {
            return Err(format!("ranges of `{unit}` do not begin at 0 or have gaps").into());
        }
    }
    Ok(())
}

fn minute(text: &str) -> Result<u16, Failure> {
    let (hour, minute) = text.split_once(':').ok_or("a time without minutes")?;
    Ok(hour.parse::<u16>()? * 60 + minute.parse::<u16>()?)
}
