//! Rates in words: what is counted, under which conditions, and for how many units the price is.

use tollgate_snapshot::money::Rate;
use tollgate_snapshot::price::{Row, Scope, Unit};

/// What a rate is for. Two rates with the same words hold under the same conditions.
pub fn of_row(row: &Row) -> String {
    let Row { unit, rate: _, tier, from_input_tokens, off_peak, scope } = row;
    let mut words = unit.name().replace('_', " ");
    if let Some(tier) = tier {
        words.push_str(&format!(", {}", tier.name()));
    }
    if *from_input_tokens > 0 {
        words.push_str(&format!(", from {from_input_tokens} input tokens"));
    }
    if *off_peak {
        words.push_str(", off-peak");
    }
    match scope {
        Scope::Any => {}
        Scope::Size(size) => words.push_str(&format!(", {size}")),
        Scope::Results(from, to) => words.push_str(&format!(", {from} to {to} results")),
        Scope::Above(units) => words.push_str(&format!(", beyond {units} in one piece")),
    }
    words
}

/// For how many units a price of this unit is printed.
pub fn per(unit: Unit) -> u64 {
    if unit.name().ends_with("_token") || unit.name().ends_with("_character") { 1_000_000 } else { 1 }
}

/// USD for [`per`] units, exact.
pub fn price(unit: Unit, rate: Rate) -> String {
    if per(unit) == 1 { rate.to_decimal_text() } else { rate.to_per_million_text() }
}
