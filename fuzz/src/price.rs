//! A line of the price file that is understood is written as a line that says the same, and its sheet never charges
//! less than nothing.

use tollgate_dialects::Usage;
use tollgate_snapshot::money::NanoUsd;
use tollgate_snapshot::price::{Bounds, CostContext, ModelPrice, Row, Unit};

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(row) = Row::parse(text) {
        assert_eq!(Row::parse(&row.to_string()), Some(row));
    }
    for unit in [Unit::parse(text), Unit::from_code(text)].into_iter().flatten() {
        assert_eq!((Unit::parse(unit.name()), Unit::from_code(unit.code())), (Some(unit), Some(unit)));
    }
    let Ok(model) = ModelPrice::from_line(text) else { return };
    if let Ok(line) = model.to_line() {
        assert_eq!(ModelPrice::from_line(&line).expect("written by us"), model);
    }
    let sheet = model.sheet();
    let usage = Usage {
        input_tokens: 200_001,
        output_tokens: 3_000,
        cache_read_tokens: 1_000,
        cache_write_5m_tokens: 500,
        cache_write_1h_tokens: 500,
        reasoning_tokens: 1_000,
        audio_input_tokens: 10,
        web_searches: 1,
        ..Usage::default()
    };
    for at_unix_seconds in [None, Some(0), Some(1_700_000_000)] {
        let context =
            CostContext { at_unix_seconds, region: Some("eu"), speed: Some("fast"), ..CostContext::default() };
        let Ok(cost) = sheet.cost(&usage, &context) else { continue };
        assert!(cost.total >= NanoUsd::ZERO);
        let bounds = Bounds {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            web_searches: usage.web_searches,
            audio: true,
            audio_output: true,
            images: true,
            region: Some("eu"),
            speed: Some("fast"),
            ..Bounds::default()
        };
        if let Some(hold) = sheet.worst_case(&bounds) {
            assert!(cost.total <= hold, "{cost:?}, held {hold:?}");
        }
    }
}
