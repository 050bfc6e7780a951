//! What calls cost, compared with `cases.jsonl`: several hundred models and over two thousand usages, each cost computed
//! apart from this crate by `derive.py`. A case has a usage as providers report it, or quantities of any units.

use std::collections::BTreeMap;

use serde::Deserialize;
use tollgate_dialects::usage::Usage;
use tollgate_snapshot::price::{Conditions, CostContext, CostError, PriceTable, ServiceTier, Unit};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case<'a> {
    model: &'a str,
    tier: Option<&'a str>,
    region: Option<&'a str>,
    speed: Option<&'a str>,
    /// Of a search.
    size: Option<&'a str>,
    /// Of images and videos.
    resolution: Option<&'a str>,
    results: Option<u32>,
    /// Unix seconds.
    at: Option<i64>,
    usage: Option<Reported>,
    #[serde(borrow)]
    quantities: Option<BTreeMap<&'a str, u64>>,
    /// `None`: something that was used has no price.
    nano_usd: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Reported {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_5m_tokens: u64,
    cache_write_1h_tokens: u64,
    reasoning_tokens: u64,
    audio_input_tokens: u64,
    audio_output_tokens: u64,
    image_input_tokens: u64,
    image_output_tokens: u64,
    web_searches: u64,
}

impl Reported {
    fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_read_tokens: self.cache_read_tokens,
            cache_write_5m_tokens: self.cache_write_5m_tokens,
            cache_write_1h_tokens: self.cache_write_1h_tokens,
            reasoning_tokens: self.reasoning_tokens,
            audio_input_tokens: self.audio_input_tokens,
            audio_output_tokens: self.audio_output_tokens,
            image_input_tokens: self.image_input_tokens,
            image_output_tokens: self.image_output_tokens,
            web_searches: self.web_searches,
            ..Usage::default()
        }
    }
}

/// Nano-USD; `None` where something has no price.
fn cost(case: &Case<'_>) -> Option<i64> {
    let price = PriceTable::embedded().get(case.model);
    let sheet = price.unwrap_or_else(|| panic!("`{}` is in the price table", case.model)).sheet();
    let cost = match (&case.usage, &case.quantities) {
        (Some(usage), None) => {
            let context = CostContext {
                requested_service_tier: case.tier,
                region: case.region,
                speed: case.speed,
                search_context_size: case.size,
                at_unix_seconds: case.at,
                trust_reported_cost: false,
            };
            sheet.cost(&usage.usage(), &context)
        }
        (None, Some(quantities)) => {
            let conditions = Conditions {
                tier: case.tier.and_then(ServiceTier::parse),
                input_tokens: 0,
                at_unix_seconds: case.at,
                region: case.region,
                speed: case.speed,
                search_context_size: case.size,
                resolution: case.resolution,
                results: case.results,
            };
            let unit = |name: &str| Unit::parse(name).unwrap_or_else(|| panic!("`{name}` is a unit"));
            let quantities: Vec<(Unit, u64)> = quantities.iter().map(|(name, number)| (unit(name), *number)).collect();
            sheet.cost_of(&quantities, &conditions)
        }
        _ => panic!("{case:?} has either a usage or quantities"),
    };
    match cost {
        Ok(cost) => Some(cost.total.0),
        Err(CostError::Unpriced { .. }) => None,
        Err(error) => panic!("{case:?}: {error}"),
    }
}

#[test]
fn costs_are_those_that_were_computed_elsewhere_to_the_nano_dollar() {
    let mut wrong = Vec::new();
    let (mut cases, mut priced) = (0, 0);
    for line in include_str!("cases.jsonl").lines() {
        let case: Case<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let cost = cost(&case);
        cases += 1;
        priced += usize::from(cost.is_some());
        if cost != case.nano_usd {
            wrong.push(format!("{cost:?} instead of {line}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(priced > 1_500, "{priced} cases have a price");
}
