//! One row of a price sheet: a unit, its rate, and when that rate applies. Its text form is that of the data file:
//! `out 0.00001 tier=batch from=200001`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use super::unit::{ServiceTier, Unit};
use crate::money::Rate;

/// A rate and its conditions. All conditions of a row must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub unit: Unit,
    pub rate: Rate,
    /// Only when served so; `None`: however it is served, unless another row names the tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<ServiceTier>,
    /// From this many input tokens of the whole request on; the highest that is reached wins.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from_input_tokens: u64,
    /// Only in the sheet's off-peak hours.
    #[serde(default, skip_serializing_if = "is_false")]
    pub off_peak: bool,
    #[serde(default, skip_serializing_if = "Scope::is_any")]
    pub scope: Scope,
}

/// What else a rate depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    #[default]
    Any,
    /// A resolution (`1080p`) or the context size of a search (`low`, `medium`, `high`).
    Size(Arc<str>),
    /// So many results asked for, both ends included.
    Results(u32, u32),
    /// More than so many units in one piece of media.
    Above(u32),
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Scope {
    fn is_any(&self) -> bool {
        *self == Scope::Any
    }
}

impl Row {
    /// A rate without conditions.
    pub fn new(unit: Unit, rate: Rate) -> Row {
        Row { unit, rate, tier: None, from_input_tokens: 0, off_peak: false, scope: Scope::Any }
    }

    /// Everything but the rate: two rows of a sheet never have the same.
    pub(crate) fn condition(&self) -> (Unit, Option<ServiceTier>, u64, bool, &Scope) {
        let Row { unit, rate: _, tier, from_input_tokens, off_peak, scope } = self;
        (*unit, *tier, *from_input_tokens, *off_peak, scope)
    }

    /// From the text form; `None` if any part of it is not understood.
    pub fn parse(text: &str) -> Option<Row> {
        let mut words = text.split(' ');
        let mut row = Row::new(Unit::from_code(words.next()?)?, Rate::parse(words.next()?).ok()?);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("tier", name) => row.tier = Some(ServiceTier::parse(name)?),
                ("from", tokens) => row.from_input_tokens = tokens.parse().ok()?,
                ("off", "") => row.off_peak = true,
                ("size", name) => row.scope = Scope::Size(name.into()),
                ("results", range) => {
                    let (from, to) = range.split_once('-')?;
                    row.scope = Scope::Results(from.parse().ok()?, to.parse().ok()?);
                }
                ("above", units) => row.scope = Scope::Above(units.parse().ok()?),
                _ => return None,
            }
        }
        Some(row)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { unit, rate, tier, from_input_tokens, off_peak, scope } = self;
        write!(f, "{} {}", unit.code(), rate.to_decimal_text())?;
        if let Some(tier) = tier {
            write!(f, " tier={}", tier.name())?;
        }
        if *from_input_tokens > 0 {
            write!(f, " from={from_input_tokens}")?;
        }
        if *off_peak {
            f.write_str(" off")?;
        }
        match scope {
            Scope::Any => Ok(()),
            Scope::Size(name) => write!(f, " size={name}"),
            Scope::Results(from, to) => write!(f, " results={from}-{to}"),
            Scope::Above(units) => write!(f, " above={units}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_text_and_json() {
        for text in [
            "in 0.0000025",
            "out 0.00001 tier=batch from=200001",
            "in 0.00000015 off",
            "osec 0.1 size=1080p",
            "qry 0.005 results=0-25",
            "vsec 0.002 above=15",
        ] {
            let row = Row::parse(text).unwrap();
            assert_eq!(row.to_string(), text);
            assert_eq!(serde_json::from_str::<Row>(&serde_json::to_string(&row).unwrap()).unwrap(), row);
        }
    }

    #[test]
    fn a_row_that_is_not_understood_is_refused() {
        for text in ["", "in", "xx 1", "in -1", "in 1 tier=gold", "in 1 from=x", "in 1 whatever", "qry 1 results=3"] {
            assert_eq!(Row::parse(text), None, "{text}");
        }
    }
}
