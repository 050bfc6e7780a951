//! Costs to the nano-dollar: worked examples computed elsewhere, cases over the whole table against a second, plainer
//! calculator, and the promises that holds keep for every sheet and usage.

use proptest::prelude::*;
use serde_json::Value;
use tollgate_dialects::usage::Usage;

use super::cost::{Conditions, CostContext, CostError, CostSource};
use super::hold::{Bounds, CacheWrites};
use super::row::Row;
use super::sheet::{Multiplier, Part, PriceSheet};
use super::table::PriceTable;
use super::unit::{ServiceTier, Unit};
use crate::money::NanoUsd;

fn sheet(provider: &str, model: &str) -> PriceSheet {
    PriceTable::embedded().find(provider, model, None).unwrap_or_else(|| panic!("{provider} {model}")).sheet()
}

fn usd(text: &str) -> NanoUsd {
    NanoUsd::parse(text).unwrap()
}

fn tokens(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage { input_tokens, output_tokens, ..Usage::default() }
}

#[test]
fn worked_examples_of_token_usage_cost_what_they_should() {
    let cached = Usage { cache_read_tokens: 600, ..tokens(1000, 200) };
    let written = Usage {
        cache_read_tokens: 5000,
        cache_write_5m_tokens: 2000,
        cache_write_1h_tokens: 1000,
        ..tokens(8300, 400)
    };
    let thought = Usage { reasoning_tokens: 400, ..tokens(250_000, 1000) };
    let spoken = Usage { audio_input_tokens: 400, audio_output_tokens: 300, ..tokens(1000, 500) };
    let cases = [
        ("1", "openai", "gpt-4o", cached, None, "0.00375"),
        ("2", "anthropic", "claude-sonnet-4-5", written, None, "0.0219"),
        ("3", "gemini", "gemini-2.5-pro", thought, None, "0.64"),
        ("3b", "gemini", "gemini-2.5-pro", tokens(150_000, 1000), None, "0.1975"),
        ("4", "openai", "gpt-5.5", tokens(300_000, 1000), None, "3.045"),
        ("4b", "openai", "gpt-5.5", tokens(300_000, 1000), Some("flex"), "1.5225"),
        ("4c", "openai", "gpt-5.5", tokens(1000, 1000), Some("priority"), "0.0875"),
        ("7", "dashscope", "qwen-flash", tokens(20_000, 1000), None, "0.0014"),
        ("9", "openai", "gpt-audio", spoken, None, "0.0355"),
        ("11", "openai", "gpt-4o", tokens(1_000_000, 100_000), Some("batch"), "1.75"),
        ("12, before discount", "openai", "gpt-4o", tokens(1000, 200), None, "0.0045"),
    ];
    for (number, provider, model, usage, requested_service_tier, expected) in cases {
        let context = CostContext { requested_service_tier, ..CostContext::default() };
        let cost = sheet(provider, model).cost(&usage, &context).unwrap();
        assert_eq!(cost.total, usd(expected), "example {number}");
    }
}

#[test]
fn worked_examples_of_other_units_cost_what_they_should() {
    let image = vec![(Unit::InputToken, 50), (Unit::InputImageToken, 1000), (Unit::OutputImageToken, 4160)];
    let cases = [
        ("5", "openai", "whisper-1", vec![(Unit::InputSecond, 90)], "0.009"),
        ("6", "openai", "gpt-image-1", image, "0.17665"),
        ("8", "cohere", "rerank-v3.5", vec![(Unit::Query, 3)], "0.006"),
        ("10", "openai", "tts-1", vec![(Unit::InputCharacter, 1000)], "0.015"),
    ];
    for (number, provider, model, quantities, expected) in cases {
        let cost = sheet(provider, model).cost_of(&quantities, &Conditions::default()).unwrap();
        assert_eq!(cost.total, usd(expected), "example {number}");
    }
}

#[test]
fn a_model_that_is_not_in_the_table_has_no_price() {
    let table = PriceTable::embedded();
    assert_eq!(table.find("together_ai", "foo/bar-8b-chat", None), None);
    assert_eq!(table.find("azure", "my-deployment", None), None);
}

#[test]
fn the_breakdown_names_every_part_and_sums_to_the_total() {
    let usage = Usage {
        cache_read_tokens: 5000,
        cache_write_5m_tokens: 2000,
        cache_write_1h_tokens: 1000,
        reasoning_tokens: 100,
        web_searches: 2,
        ..tokens(8300, 400)
    };
    let cost = sheet("anthropic", "claude-sonnet-4-5").cost(&usage, &CostContext::default()).unwrap();
    let parts = [cost.input, cost.cache_read, cost.cache_write, cost.output, cost.reasoning, cost.tools, cost.other];
    assert_eq!(parts, ["0.0009", "0.0015", "0.0135", "0.0045", "0.0015", "0.02", "0"].map(usd));
    assert_eq!((cost.total, cost.source), (usd("0.0419"), CostSource::Sheet));
}

#[test]
fn the_sum_is_rounded_and_not_its_parts() {
    let third = |unit| Part { unit, usd: "1", per: 3_000_000_000, above_input_tokens: None, service_tier: None };
    let parts = [third(Unit::InputToken), third(Unit::OutputToken), third(Unit::ReasoningToken)];
    let sheet = PriceSheet::from_parts("x", &parts).unwrap();
    let usage = Usage { reasoning_tokens: 1, ..tokens(1, 2) };
    let cost = sheet.cost(&usage, &CostContext::default()).unwrap();
    // Each is a third of a nano-dollar, rounded up at load in the 18th decimal: a little more than one in sum.
    assert_eq!((cost.total, cost.input, cost.output, cost.reasoning), (NanoUsd(2), NanoUsd(1), NanoUsd(0), NanoUsd(1)));
}

#[test]
fn a_context_tier_begins_above_its_threshold_and_counts_for_the_whole_request() {
    let gemini = sheet("gemini", "gemini-2.5-pro");
    let cost = |input| gemini.cost(&tokens(input, 1000), &CostContext::default()).unwrap().total;
    assert_eq!(cost(200_000), usd("0.26"));
    assert_eq!(cost(200_001), usd("0.5150025"));
    let qwen = sheet("dashscope", "qwen-flash");
    let cost = |input| qwen.cost(&tokens(input, 0), &CostContext::default()).unwrap().total;
    assert_eq!(cost(255_999), usd("0.01279995"));
    assert_eq!(cost(256_000), usd("0.064"));
    // Beyond the last range its rate goes on.
    assert_eq!(cost(2_000_000), usd("0.5"));
}

#[test]
fn the_tier_that_was_served_wins_over_the_one_that_was_asked_for() {
    let gpt = sheet("openai", "gpt-4o");
    let cases = [
        (None, None, "0.0025"),
        (None, Some("priority"), "0.00425"),
        (Some("default"), Some("priority"), "0.0025"),
        (Some("priority"), Some("auto"), "0.00425"),
        (Some("scale"), None, "0.0025"),
    ];
    for (served, requested_service_tier, expected) in cases {
        let usage = Usage { service_tier: served.map(Box::from), ..tokens(1000, 0) };
        let context = CostContext { requested_service_tier, ..CostContext::default() };
        assert_eq!(gpt.cost(&usage, &context).unwrap().total, usd(expected), "{served:?} {requested_service_tier:?}");
    }
}

#[test]
fn off_peak_hours_halve_what_the_sheet_says_they_halve() {
    let deepseek = sheet("deepseek", "deepseek-flash");
    // Monday 2026-11-16: 00:30 and 10:00 off-peak, 09:59 peak; Saturday 09:00 off-peak.
    const MONDAY: i64 = 1_794_787_200;
    let cases = [
        (None, "0.3"),
        (Some(MONDAY + 1800), "0.15"),
        (Some(MONDAY + 10 * 3600 - 1), "0.3"),
        (Some(MONDAY + 10 * 3600), "0.15"),
        (Some(MONDAY + 5 * 86_400 + 9 * 3600), "0.15"),
    ];
    for (at_unix_seconds, expected) in cases {
        let context = CostContext { at_unix_seconds, ..CostContext::default() };
        let cost = deepseek.cost(&tokens(1_000_000, 0), &context).unwrap();
        assert_eq!(cost.total, usd(expected), "{at_unix_seconds:?}");
    }
}

#[test]
fn regions_and_speed_multiply_the_whole_cost() {
    let claude = sheet("anthropic", "claude-opus-4-8");
    let plain = claude.cost(&tokens(1000, 1000), &CostContext::default()).unwrap().total;
    let cost = |region, speed| {
        let context = CostContext { region, speed, ..CostContext::default() };
        claude.cost(&tokens(1000, 1000), &context).unwrap().total.0
    };
    assert_eq!(cost(Some("eu"), None), plain.0);
    assert_eq!(cost(Some("us"), None), plain.0 / 10 * 11);
    assert_eq!(cost(Some("us"), Some("fast")), plain.0 / 10 * 22);
    let gpt = sheet("openai", "gpt-5.5");
    let context = CostContext { region: Some("eu"), ..CostContext::default() };
    assert_eq!(gpt.cost(&tokens(1000, 0), &context).unwrap().total, usd("0.0055"));
}

#[test]
fn a_reported_cost_is_taken_only_where_it_is_trusted() {
    let gpt = sheet("openai", "gpt-4o");
    let reported = |text: &str| Usage { provider_cost_usd: Some(text.into()), ..tokens(1000, 200) };
    let trusting = CostContext { trust_reported_cost: true, ..CostContext::default() };
    let taken = gpt.cost(&reported("0.0012345678901"), &trusting).unwrap();
    assert_eq!(
        (taken.total, taken.other, taken.source),
        (NanoUsd(1_234_568), NanoUsd(1_234_568), CostSource::Provider)
    );
    let own = gpt.cost(&tokens(1000, 200), &CostContext::default()).unwrap();
    assert_eq!(gpt.cost(&reported("0.0012"), &CostContext::default()), Ok(own));
    for unreadable in ["", "-1", "free", "1e999"] {
        assert_eq!(gpt.cost(&reported(unreadable), &trusting), Ok(own), "{unreadable}");
    }
}

#[test]
fn what_has_no_rate_is_an_error_and_never_free() {
    let input_only =
        [Part { unit: Unit::InputToken, usd: "1", per: 1000, above_input_tokens: None, service_tier: None }];
    let sheet = PriceSheet::from_parts("x", &input_only).unwrap();
    let error = sheet.cost(&tokens(2, 3), &CostContext::default());
    assert_eq!(error, Err(CostError::Unpriced { unit: Unit::OutputToken, known: usd("0.002") }));
    let bounds = Bounds { input_tokens: 2, output_tokens: 3, ..Bounds::default() };
    assert_eq!(sheet.worst_case(&bounds), None);
    assert_eq!(sheet.worst_case(&Bounds { output_tokens: 0, ..bounds }), Some(usd("0.002")));
    let searching = Bounds { output_tokens: 0, web_searches: 1, ..bounds };
    assert_eq!(sheet.worst_case(&searching), None);
    let searched = Usage { web_searches: 1, ..tokens(2, 0) };
    assert!(matches!(sheet.cost(&searched, &CostContext::default()), Err(CostError::Unpriced { .. })));
}

#[test]
fn a_usage_that_contradicts_itself_has_no_cost() {
    let gpt = sheet("openai", "gpt-4o");
    for usage in [
        Usage { cache_read_tokens: 11, ..tokens(10, 0) },
        Usage { cache_read_tokens: u64::MAX, cache_write_5m_tokens: u64::MAX, ..tokens(u64::MAX, 0) },
        Usage { reasoning_tokens: 6, ..tokens(0, 5) },
    ] {
        assert_eq!(gpt.cost(&usage, &CostContext::default()), Err(CostError::AbsurdUsage), "{usage:?}");
    }
    assert_eq!(gpt.cost(&tokens(u64::MAX, u64::MAX), &CostContext::default()), Err(CostError::TooLarge));
    let endless = Bounds { input_tokens: u64::MAX, output_tokens: u64::MAX, choices: 3, ..Bounds::default() };
    assert_eq!(gpt.worst_case(&endless), Some(NanoUsd::MAX));
}

#[test]
fn audio_that_a_cache_held_is_not_paid_twice() {
    let audio = sheet("openai", "gpt-audio");
    let usage = Usage { audio_input_tokens: 800, cache_read_tokens: 600, ..tokens(1000, 0) };
    let cost = audio.cost(&usage, &CostContext::default()).unwrap();
    // No rate for cached reads: as text. 400 tokens are left, all of them audio.
    assert_eq!((cost.cache_read, cost.input), (usd("0.0015"), usd("0.0128")));
}

#[test]
fn a_free_sheet_prices_everything_at_nothing() {
    let usage = Usage { reasoning_tokens: 5, web_searches: 3, cache_write_1h_tokens: 5, ..tokens(10, 10) };
    assert_eq!(PriceSheet::free().cost(&usage, &CostContext::default()).unwrap().total, NanoUsd::ZERO);
    let bounds = Bounds { input_tokens: 10, output_tokens: 10, web_searches: 1, ..Bounds::default() };
    assert_eq!(PriceSheet::free().worst_case(&bounds), Some(NanoUsd::ZERO));
}

#[test]
fn a_price_per_request_alone_makes_tokens_free() {
    let part = Part { unit: Unit::Request, usd: "0.01", per: 1, above_input_tokens: None, service_tier: None };
    let sheet = PriceSheet::from_parts("x", &[part]).unwrap();
    let cost = sheet.cost(&tokens(1000, 1000), &CostContext::default()).unwrap();
    assert_eq!((cost.total, cost.other), (usd("0.01"), usd("0.01")));
    let bounds = Bounds { input_tokens: 9, output_tokens: 9, ..Bounds::default() };
    assert_eq!(sheet.worst_case(&bounds), Some(usd("0.01")));
}

#[test]
fn a_hold_is_tighter_for_who_says_more() {
    let gpt = sheet("openai", "gpt-4o");
    let bounds = Bounds { input_tokens: 1000, output_tokens: 100, ..Bounds::default() };
    let said = Bounds { requested_service_tier: Some("default"), ..bounds };
    assert_eq!(gpt.worst_case(&bounds), Some(usd("0.00595")));
    assert_eq!(gpt.worst_case(&said), Some(usd("0.0035")));
    assert_eq!(gpt.worst_case(&Bounds { choices: 3, ..said }), Some(usd("0.0055")));
    let claude = sheet("anthropic", "claude-sonnet-4-5");
    let writes = |cache_writes| claude.worst_case(&Bounds { output_tokens: 0, cache_writes, ..bounds });
    assert_eq!(writes(CacheWrites::OneHour), Some(usd("0.006")));
    assert_eq!(writes(CacheWrites::FiveMinutes), Some(usd("0.00375")));
    assert_eq!(writes(CacheWrites::None), Some(usd("0.003")));
    assert_eq!(gpt.output_rate_bound(&said).unwrap().to_per_million_text(), "10");
}

#[test]
fn output_that_may_be_more_than_text_is_held_at_its_dearest() {
    let hold = |provider, model, bounds: Bounds<'_>| sheet(provider, model).worst_case(&bounds);
    let bounds = Bounds { output_tokens: 1000, ..Bounds::default() };
    assert_eq!(hold("openai", "gpt-audio", bounds), Some(usd("0.01")));
    assert_eq!(hold("openai", "gpt-audio", Bounds { audio_output: true, ..bounds }), Some(usd("0.064")));
    // What the request holds says nothing about the answer.
    assert_eq!(hold("openai", "gpt-audio", Bounds { audio: true, images: true, ..bounds }), Some(usd("0.01")));
    // Images come unasked.
    assert_eq!(hold("gemini", "gemini-2.5-flash-image", bounds), Some(usd("0.03")));
    let image = sheet("gemini", "gemini-2.5-flash-image");
    assert!(image.charges_for(Unit::OutputImageToken) && !PriceSheet::free().charges_for(Unit::OutputImageToken));
}

/// Another way to the same figures: straight from the line's JSON, by names, one condition after the other.
mod reference {
    use super::{PriceTable, Usage, Value};

    pub struct Model(Value);

    pub fn models() -> impl Iterator<Item = Model> {
        let lines = PriceTable::embedded().iter().map(|price| price.unwrap().to_line().unwrap());
        lines.map(|line| Model(serde_json::from_str(&line).unwrap()))
    }

    impl Model {
        pub fn key(&self) -> &str {
            self.0["m"].as_str().unwrap()
        }

        /// Text of USD to 10^-18 USD, by moving digits.
        fn atto(text: &str) -> i128 {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            assert!(fraction.len() <= 18);
            format!("{whole}{fraction:0<18}").parse().unwrap()
        }

        /// Of the rates with this name, tier and no more than these tokens, the one from the most tokens.
        fn lookup(&self, unit: &str, tier: Option<&str>, tokens: u64) -> Option<(u64, i128)> {
            let mut found = None;
            for rate in self.0["r"].as_array().unwrap() {
                let words: Vec<&str> = rate.as_str().unwrap().split(' ').collect();
                let value = |key: &str| words[2..].iter().find_map(|word| word.strip_prefix(key));
                let from = value("from=").map_or(0, |from| from.parse().unwrap());
                let sized = value("size=").is_some_and(|size| unit != "web" || size != "medium");
                if words[0] == unit && value("tier=") == tier && from <= tokens && !sized && !words.contains(&"off") {
                    found = found.max(Some((from, Self::atto(words[1]))));
                }
            }
            found
        }

        fn rate(&self, units: &[&str], tier: Option<&str>, tokens: u64) -> Option<i128> {
            units.iter().find_map(|unit| {
                let of_tier = tier.and_then(|tier| self.lookup(unit, Some(tier), tokens));
                of_tier.or_else(|| self.lookup(unit, None, tokens)).map(|(_, atto)| atto)
            })
        }

        /// In nano-USD; `None` if a rate is missing.
        pub fn cost(&self, usage: &Usage, tier: Option<&str>) -> Option<i64> {
            let total = usage.input_tokens;
            let text = total
                - usage.cache_read_tokens
                - usage.cache_write_5m_tokens
                - usage.cache_write_1h_tokens
                - usage.audio_input_tokens
                - usage.image_input_tokens;
            let said =
                usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens - usage.image_output_tokens;
            let terms: [(u64, &[&str]); 11] = [
                (text, &["in"]),
                (usage.cache_read_tokens, &["cr", "in"]),
                (usage.cache_write_5m_tokens, &["cw", "in"]),
                (usage.cache_write_1h_tokens, &["cw1h", "cw", "in"]),
                (usage.audio_input_tokens, &["aud", "in"]),
                (usage.image_input_tokens, &["imt", "in"]),
                (said, &["out"]),
                (usage.reasoning_tokens, &["think", "out"]),
                (usage.audio_output_tokens, &["oaud", "out"]),
                (usage.image_output_tokens, &["oimt", "out"]),
                (usage.web_searches, &["web"]),
            ];
            let mut sum = self.rate(&["req"], tier, total).unwrap_or(0);
            for (quantity, units) in terms {
                if quantity > 0 {
                    sum += i128::from(quantity) * self.rate(units, tier, total)?;
                }
            }
            i64::try_from((sum + 999_999_999) / 1_000_000_000).ok()
        }
    }
}

/// Sizes on both sides of every threshold of the table, and parts of them.
fn usages() -> Vec<Usage> {
    let sizes = [
        0, 1, 7, 1_000, 31_999, 32_000, 32_001, 100_001, 127_999, 128_000, 128_001, 199_999, 200_000, 200_001, 256_000,
        256_001, 272_000, 272_001, 512_001, 1_048_576,
    ];
    let mut usages = Vec::new();
    for (index, input) in sizes.into_iter().enumerate() {
        let output = 13 * (index as u64 + 1);
        usages.push(tokens(input, output));
        usages.push(Usage {
            cache_read_tokens: input / 3,
            cache_write_5m_tokens: input / 5,
            cache_write_1h_tokens: input / 7,
            audio_input_tokens: input / 11,
            image_input_tokens: input / 13,
            reasoning_tokens: output / 2,
            audio_output_tokens: output / 5,
            image_output_tokens: output / 7,
            ..tokens(input, output)
        });
        usages.push(Usage { web_searches: index as u64, ..tokens(input, 0) });
    }
    usages
}

#[test]
fn the_whole_table_agrees_with_a_plainer_calculator() {
    let usages = usages();
    let tiers = [None, Some("batch"), Some("flex"), Some("priority")];
    let (mut priced, mut index) = (0, 0);
    for model in reference::models() {
        let sheet = PriceTable::embedded().get(model.key()).unwrap().sheet();
        // Tokens that are free beside a price per request are this crate's own rule.
        if sheet.is_per_request() {
            continue;
        }
        // A few usages a model, others for the next, so that all of them meet many models.
        for _ in 0..6 {
            let (usage, tier) = (&usages[index % usages.len()], tiers[index % tiers.len()]);
            index += 7;
            let context = CostContext { requested_service_tier: tier, ..CostContext::default() };
            let cost = sheet.cost(usage, &context).ok().map(|cost| cost.total.0);
            assert_eq!(cost, model.cost(usage, tier), "{} {usage:?} {tier:?}", model.key());
            priced += usize::from(cost.is_some());
        }
    }
    assert!(priced > 10_000, "{priced} cases had a price");
}

#[test]
fn more_output_never_costs_less() {
    for price in PriceTable::embedded().iter() {
        let sheet = price.unwrap().sheet();
        for input in [0, 1000, 300_000] {
            let cost = |output| sheet.cost(&tokens(input, output), &CostContext::default()).map(|cost| cost.total);
            if let (Ok(less), Ok(more)) = (cost(1000), cost(1001)) {
                assert!(less <= more, "{}", sheet.version());
            }
        }
    }
}

#[test]
fn more_input_never_costs_less() {
    for price in PriceTable::embedded().iter() {
        let sheet = price.unwrap().sheet();
        let costs = usages().into_iter().step_by(3).map(|usage| {
            let usage = Usage { output_tokens: 100, ..usage };
            sheet.cost(&usage, &CostContext::default()).map(|cost| cost.total)
        });
        let costs: Vec<NanoUsd> = costs.flatten().collect();
        assert!(costs.is_sorted(), "{} {costs:?}", sheet.version());
    }
}

#[test]
fn every_sheet_holds_at_least_what_it_can_cost() {
    let regions = [None, Some("us"), Some("eu"), Some("us-east5")];
    let speeds = [None, Some("fast")];
    let peak_and_off_peak = [None, Some(0), Some(2 * 86_400)];
    let (mut index, mut held) = (0, 0);
    for price in PriceTable::embedded().iter() {
        let sheet = price.unwrap().sheet();
        for usage in usages().iter().skip(index % 5).step_by(5) {
            let served = [None, Some("default"), Some("flex"), Some("priority"), Some("balanced")][index % 5];
            index += 1;
            let usage = Usage { service_tier: served.map(Box::from), ..usage.clone() };
            let context = CostContext {
                region: regions[index % 4],
                speed: speeds[index % 2],
                at_unix_seconds: peak_and_off_peak[index % 3],
                ..CostContext::default()
            };
            let Ok(cost) = sheet.cost(&usage, &context) else { continue };
            let bounds = Bounds {
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
                web_searches: usage.web_searches,
                audio: true,
                audio_output: true,
                images: true,
                region: context.region,
                speed: context.speed,
                ..Bounds::default()
            };
            // A model that is priced for some tiers only has no hold: it might be served without a price.
            let Some(hold) = sheet.worst_case(&bounds) else { continue };
            assert!(hold >= cost.total, "{} {usage:?}: {hold} < {}", sheet.version(), cost.total);
            held += 1;
        }
    }
    assert!(held > 20_000, "{held} usages were held for");
}

fn any_sheet() -> impl Strategy<Value = PriceSheet> {
    let units: Vec<Unit> = Unit::all().collect();
    let tier = proptest::option::of(proptest::sample::select(ServiceTier::ALL.to_vec()));
    let row = (proptest::sample::select(units), 0i128..10_000_000_000_000, tier, 0u64..4, any::<bool>()).prop_map(
        |(unit, atto, tier, step, off_peak)| Row {
            tier,
            from_input_tokens: step * 100,
            off_peak,
            ..Row::new(unit, crate::money::Rate(atto))
        },
    );
    let factor = |name: &'static str| {
        (1u32..3_000_000).prop_map(move |parts_per_million| Multiplier { name: name.into(), parts_per_million })
    };
    (proptest::collection::vec(row, 0..40), factor("us"), factor("fast")).prop_map(|(mut rows, us, fast)| {
        for unit in [Unit::InputToken, Unit::OutputToken, Unit::WebSearch] {
            rows.push(Row::new(unit, crate::money::Rate(3)));
        }
        let nights = super::sheet::OffPeak { weekdays: 127, from_minute: 0, to_minute: 720 };
        PriceSheet::new("any".into(), rows, vec![nights], vec![us, fast])
    })
}

prop_compose! {
    fn any_usage()(
        parts in proptest::collection::vec(0u64..150, 10),
        served in proptest::sample::select(vec![None, Some("default"), Some("flex"), Some("priority"), Some("balanced")]),
    ) -> Usage {
        Usage {
            input_tokens: parts[0..6].iter().sum(),
            cache_read_tokens: parts[1],
            cache_write_5m_tokens: parts[2],
            cache_write_1h_tokens: parts[3],
            audio_input_tokens: parts[4],
            image_input_tokens: parts[5],
            output_tokens: parts[6..10].iter().sum(),
            reasoning_tokens: parts[7],
            audio_output_tokens: parts[8],
            image_output_tokens: parts[9],
            web_searches: parts[0] % 4,
            service_tier: served.map(Box::from),
            ..Usage::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_hold_covers_every_usage_within_its_bounds(
        sheet in any_sheet(),
        usage in any_usage(),
        spare in (0u64..300, 0u64..300),
        region in proptest::sample::select(vec![None, Some("us")]),
        speed in proptest::sample::select(vec![None, Some("fast")]),
        at in proptest::option::of(0i64..1_000_000),
    ) {
        let context = CostContext { region, speed, at_unix_seconds: at, ..CostContext::default() };
        let bounds = Bounds {
            input_tokens: usage.input_tokens + spare.0,
            output_tokens: usage.output_tokens + spare.1,
            web_searches: usage.web_searches,
            audio: true,
            audio_output: true,
            images: true,
            region,
            speed,
            ..Bounds::default()
        };
        let cost = sheet.cost(&usage, &context).unwrap();
        let hold = sheet.worst_case(&bounds).unwrap();
        prop_assert!(hold >= cost.total, "{:?} < {:?}", hold, cost);
        let parts = [cost.input, cost.cache_read, cost.cache_write, cost.output, cost.reasoning, cost.tools, cost.other];
        prop_assert_eq!(parts.iter().map(|part| part.0).sum::<i64>(), cost.total.0);
        prop_assert!(parts.iter().all(|part| part.0 >= 0));
        // What the output cost is no more than the bound of its rate allows, but for the cut of the rounding.
        let rate = sheet.output_rate_bound(&bounds).unwrap();
        let most = NanoUsd::from_atto_rounding_up(rate.times(usage.output_tokens).unwrap()).unwrap();
        prop_assert!(cost.output.0 + cost.reasoning.0 <= most.0 + 1);
    }
}
