//! [`PriceSheet`]: all rates of one deployment, from the table or from a resource's `pricing`, and the choice of the
//! rate that applies. Immutable, shared behind an `Arc`, a few kilobytes at most.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cost::Conditions;
use super::row::{Row, Scope};
use super::unit::{ServiceTier, Unit};
use crate::model::Name;
use crate::money::{MoneyError, Rate, div_ceil};

/// What a search counts as when neither the request nor the answer says how much context it used.
const USUAL_SEARCH_SIZE: &str = "medium";

/// Of a version before its digest, bytes: it becomes a name in the ledger and a label of a metric.
const LONGEST_VERSION: usize = 400;

/// The multiplier that changes nothing.
pub(super) const FACTOR_ONE: i128 = 1_000_000_000_000;

/// The rates of one deployment. Rows are sorted by unit and no two have the same conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceSheet {
    /// Where the rates are from, for the ledger: source, date and model.
    version: Name,
    rows: Box<[Row]>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    off_peak: Box<[OffPeak]>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    multipliers: Box<[Multiplier]>,
}

/// Hours of a week, UTC, in which off-peak rates apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffPeak {
    /// Bit 0 is Monday, bit 6 Sunday.
    pub weekdays: u8,
    /// Minute of the day, included.
    pub from_minute: u16,
    /// Minute of the day, not included; not more than `from_minute`: past midnight, still of the same weekday's row.
    pub to_minute: u16,
}

/// A factor on the whole cost of calls to a region or at a speed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Multiplier {
    /// `fast`, `us`, `regional_processing_uplift_eu`, `regional_endpoint_uplift`.
    pub name: Name,
    pub parts_per_million: u32,
}

/// One rate as a resource states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub unit: Unit,
    /// Decimal text, USD.
    pub usd: &'a str,
    /// The price is for so many units.
    pub per: u64,
    /// Only for requests with more input tokens than this.
    pub above_input_tokens: Option<u64>,
    pub service_tier: Option<ServiceTier>,
}

/// Which rate of a resource is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    #[error("price of {unit}: {error}", unit = .unit.name())]
    Amount { unit: Unit, error: MoneyError },
    #[error("two prices of {unit} for the same conditions", unit = .unit.name())]
    Twice { unit: Unit },
}

impl PriceSheet {
    /// Sorts the rows. Of two with the same conditions the higher rate stays.
    pub fn new(version: Name, rows: Vec<Row>, off_peak: Vec<OffPeak>, multipliers: Vec<Multiplier>) -> PriceSheet {
        let mut rows = rows;
        rows.sort_by(|a, b| a.condition().cmp(&b.condition()).then(b.rate.cmp(&a.rate)));
        rows.dedup_by(|later, kept| later.condition() == kept.condition());
        PriceSheet { version, rows: rows.into(), off_peak: off_peak.into(), multipliers: multipliers.into() }
    }

    /// Everything costs nothing.
    pub fn free() -> PriceSheet {
        let rows = Unit::all().map(|unit| Row::new(unit, Rate::ZERO)).collect();
        PriceSheet::new("free".into(), rows, Vec::new(), Vec::new())
    }

    /// A sheet of stated rates only.
    ///
    /// # Errors
    /// An amount that is no price, or two rates for the same conditions.
    pub fn from_parts(version: &str, parts: &[Part<'_>]) -> Result<PriceSheet, PartError> {
        PriceSheet { version: version.into(), ..PriceSheet::default() }.with_parts(version, parts)
    }

    /// This sheet with stated rates; a unit that is stated loses all rates that it had.
    ///
    /// # Errors
    /// As [`PriceSheet::from_parts`].
    pub fn with_parts(&self, version: &str, parts: &[Part<'_>]) -> Result<PriceSheet, PartError> {
        let mut stated: Vec<Row> = Vec::with_capacity(parts.len());
        for part in parts {
            let Part { unit, usd, per, above_input_tokens, service_tier } = *part;
            let rate = Rate::parse_per(usd, per).map_err(|error| PartError::Amount { unit, error })?;
            let from_input_tokens = above_input_tokens.map_or(0, |tokens| tokens.saturating_add(1));
            let row = Row { tier: service_tier, from_input_tokens, ..Row::new(unit, rate) };
            if stated.iter().any(|other| other.condition() == row.condition()) {
                return Err(PartError::Twice { unit });
            }
            stated.push(row);
        }
        let kept = self.rows.iter().filter(|row| parts.iter().all(|part| part.unit != row.unit)).cloned();
        let rows = stated.iter().cloned().chain(kept).collect();
        Ok(PriceSheet::new(version.into(), rows, self.off_peak.to_vec(), self.multipliers.to_vec()))
    }

    /// This sheet with every rate times a factor in parts per million, rounded up in the 18th decimal. `None`: a rate
    /// does not fit.
    pub fn scaled(&self, version: &str, parts_per_million: u64) -> Option<PriceSheet> {
        let mut rows = self.rows.to_vec();
        for row in &mut rows {
            let product = row.rate.0.checked_mul(i128::from(parts_per_million))?;
            row.rate = Rate(div_ceil(product, 1_000_000));
        }
        Some(PriceSheet { version: version.into(), rows: rows.into(), ..self.clone() })
    }

    /// This sheet under another version.
    pub fn named(&self, version: &str) -> PriceSheet {
        PriceSheet { version: version.into(), ..self.clone() }
    }

    /// The same under a version that ends in a digest of all its rates: two rows of the ledger that name the same
    /// version were priced with the same rates. Example: `default/llama #3f9a01c2`.
    pub fn sealed(self) -> PriceSheet {
        use std::fmt::Write;
        let PriceSheet { version, rows, off_peak, multipliers } = &self;
        let mut text = String::new();
        for row in rows {
            let _ = writeln!(text, "{row}");
        }
        for OffPeak { weekdays, from_minute, to_minute } in off_peak {
            let _ = writeln!(text, "off {weekdays} {from_minute} {to_minute}");
        }
        for Multiplier { name, parts_per_million } in multipliers {
            let _ = writeln!(text, "times {name} {parts_per_million}");
        }
        let digest = Sha256::digest(text.as_bytes());
        // What a long chain of changes began with may be cut, never the digest.
        let shown = &version[..version.floor_char_boundary(LONGEST_VERSION)];
        let sealed = format!("{shown} #{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
        PriceSheet { version: sealed.into(), ..self }
    }

    pub fn version(&self) -> &Name {
        &self.version
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn off_peak(&self) -> &[OffPeak] {
        &self.off_peak
    }

    pub fn multipliers(&self) -> &[Multiplier] {
        &self.multipliers
    }

    /// The plain rate of text in: usual tier, short context. `None` where the model does not count tokens.
    pub fn input_rate(&self) -> Option<Rate> {
        self.rate(Unit::InputToken, &Conditions::default(), 0)
    }

    /// The plain rate of text out, as [`PriceSheet::input_rate`].
    pub fn output_rate(&self) -> Option<Rate> {
        self.rate(Unit::OutputToken, &Conditions::default(), 0)
    }

    /// Paid by the call alone: there is a rate per request and none for tokens, which are then free.
    pub(crate) fn is_per_request(&self) -> bool {
        let has = |wanted: &[Unit]| self.rows.iter().any(|row| wanted.contains(&row.unit));
        has(&[Unit::Request]) && !has(&[Unit::InputToken, Unit::OutputToken])
    }

    /// The rate of a unit, or of what it falls back to. The order of pricing: tier and context, tier, context, base;
    /// off-peak over peak within each.
    pub(crate) fn rate(&self, unit: Unit, conditions: &Conditions<'_>, quantity: u64) -> Option<Rate> {
        let mut wanted = Some(unit);
        while let Some(unit) = wanted {
            if let Some(rate) = self.own_rate(unit, conditions, quantity) {
                return Some(rate);
            }
            wanted = unit.fallback();
        }
        None
    }

    fn own_rate(&self, unit: Unit, conditions: &Conditions<'_>, quantity: u64) -> Option<Rate> {
        let is_off_peak = || conditions.at_unix_seconds.is_some_and(|at| self.is_off_peak(at));
        self.rows_of(unit)
            .iter()
            .filter(|row| row.tier.is_none() || row.tier == conditions.tier)
            .filter(|row| row.from_input_tokens <= conditions.input_tokens)
            .filter_map(|row| Some((row, scope_rank(row, conditions, quantity)?)))
            .filter(|(row, _)| !row.off_peak || is_off_peak())
            .max_by_key(|(row, scope)| (row.tier.is_some(), row.from_input_tokens, row.off_peak, *scope, row.rate))
            .map(|(row, _)| row.rate)
    }

    /// Whether this unit has a rate of its own, which is not nothing.
    pub fn charges_for(&self, unit: Unit) -> bool {
        self.rows_of(unit).iter().any(|row| row.rate > Rate::ZERO)
    }

    fn rows_of(&self, unit: Unit) -> &[Row] {
        let start = self.rows.partition_point(|row| row.unit < unit);
        let count = self.rows[start..].iter().take_while(|row| row.unit == unit).count();
        &self.rows[start..start + count]
    }

    /// Whether off-peak rates apply at that time.
    pub fn is_off_peak(&self, at_unix_seconds: i64) -> bool {
        // 1970-01-01 was a Thursday, day 3 of a week that begins on Monday.
        let weekday = (at_unix_seconds.div_euclid(86_400) + 3).rem_euclid(7);
        let minute = at_unix_seconds.rem_euclid(86_400) / 60;
        self.off_peak.iter().any(|hours| {
            let (from, to) = (i64::from(hours.from_minute), i64::from(hours.to_minute));
            let inside = if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to };
            hours.weekdays >> weekday & 1 == 1 && inside
        })
    }

    /// The factor on the whole cost, in 10^-12: all multipliers that apply, multiplied. `None` when none applies.
    pub(crate) fn multiplier(&self, region: Option<&str>, speed: Option<&str>) -> Option<i128> {
        let mut factor = None;
        for multiplier in &self.multipliers {
            if multiplier.applies(region, speed) {
                let so_far = factor.unwrap_or(FACTOR_ONE);
                factor = Some(div_ceil(so_far * i128::from(multiplier.parts_per_million), 1_000_000));
            }
        }
        factor
    }
}

/// `None`: the row does not apply. A row that asks for nothing ranks below one whose wish is met.
fn scope_rank(row: &Row, conditions: &Conditions<'_>, quantity: u64) -> Option<u32> {
    match &row.scope {
        Scope::Any => Some(0),
        Scope::Size(name) => {
            let asked = if row.unit == Unit::WebSearch {
                Some(conditions.search_context_size.unwrap_or(USUAL_SEARCH_SIZE))
            } else {
                conditions.resolution
            };
            // Without a word on the size all sizes stand, and the dearest wins.
            asked.is_none_or(|asked| **name == *asked).then_some(1)
        }
        Scope::Results(from, to) => conditions.results.is_none_or(|asked| (*from..=*to).contains(&asked)).then_some(1),
        Scope::Above(units) => (quantity > u64::from(*units)).then_some(*units + 1),
    }
}

impl Multiplier {
    fn applies(&self, region: Option<&str>, speed: Option<&str>) -> bool {
        match &*self.name {
            "fast" => speed == Some("fast"),
            "regional_endpoint_uplift" => region.is_some_and(|region| region != "global"),
            name => {
                let place = name.strip_prefix("regional_processing_uplift_").unwrap_or(name);
                region == Some(place)
            }
        }
    }
}

impl ServiceTier {
    /// The tiers that a call may be served with, given the text it asked for: the usual way always.
    pub(crate) fn possible(requested: Option<&str>) -> [Option<ServiceTier>; 6] {
        match requested {
            None | Some("auto") => ServiceTier::ALL.map(|tier| tier.may_come_unasked().then_some(tier)),
            Some(text) => [ServiceTier::parse(text); 6],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(unit: Unit, usd: &str) -> Part<'_> {
        Part { unit, usd, per: 1_000_000, above_input_tokens: None, service_tier: None }
    }

    #[test]
    fn stated_rates_replace_all_rates_of_their_unit() {
        let base = PriceSheet::new(
            "base".into(),
            vec![
                Row::parse("in 0.000001").unwrap(),
                Row::parse("in 0.000002 from=1001").unwrap(),
                Row::parse("out 0.000003").unwrap(),
            ],
            Vec::new(),
            Vec::new(),
        );
        let sheet = base.with_parts("own", &[part(Unit::InputToken, "0.10")]).unwrap();
        let texts: Vec<String> = sheet.rows().iter().map(Row::to_string).collect();
        assert_eq!(texts, ["in 0.0000001", "out 0.000003"]);
        assert_eq!(&**sheet.version(), "own");
        assert_eq!(sheet.input_rate().unwrap().to_per_million_text(), "0.1");
    }

    #[test]
    fn a_price_that_is_stated_twice_or_badly_is_refused() {
        let twice = PriceSheet::from_parts("x", &[part(Unit::InputToken, "1"), part(Unit::InputToken, "2")]);
        assert_eq!(twice, Err(PartError::Twice { unit: Unit::InputToken }));
        let negative = PriceSheet::from_parts("x", &[part(Unit::OutputToken, "-1")]).unwrap_err();
        assert_eq!(negative.to_string(), "price of output_token: a price must not be negative");
    }

    #[test]
    fn off_peak_hours_are_of_a_weekday_in_utc() {
        let hours = |weekdays, from_minute, to_minute| OffPeak { weekdays, from_minute, to_minute };
        // Weekdays 10:00 to midnight, the whole weekend.
        let off_peak = vec![hours(0b001_1111, 600, 0), hours(0b110_0000, 0, 0)];
        let sheet = PriceSheet::new("x".into(), Vec::new(), off_peak, Vec::new());
        let cases = [
            (0, false),             // Thursday 1970-01-01 00:00
            (10 * 3600 - 1, false), // 09:59:59
            (10 * 3600, true),      // 10:00
            (86_399, true),         // 23:59:59
            (86_400, false),        // Friday 00:00
            (2 * 86_400, true),     // Saturday 00:00
            (4 * 86_400 - 1, true), // Sunday 23:59:59
            (4 * 86_400, false),    // Monday 00:00
            (-1, true),             // Wednesday 23:59:59
        ];
        for (at, expected) in cases {
            assert_eq!(sheet.is_off_peak(at), expected, "{at}");
        }
    }

    #[test]
    fn a_sealed_version_says_which_rates_it_is_of() {
        let sheet =
            |version: &str, usd| PriceSheet::from_parts(version, &[part(Unit::InputToken, usd)]).unwrap().sealed();
        let digest = |sheet: &PriceSheet| sheet.version().rsplit_once(" #").unwrap().1.to_owned();
        let (one, same, other) = (sheet("a", "1"), sheet("b", "1.0"), sheet("a", "2"));
        assert!(one.version().starts_with("a #") && digest(&one).len() == 8, "{}", one.version());
        assert_eq!(digest(&one), digest(&same));
        assert_ne!(digest(&one), digest(&other));
        let long = sheet(&"ü".repeat(5000), "1");
        assert!(long.version().len() <= LONGEST_VERSION + 10 && digest(&long) == digest(&one), "{}", long.version());
    }

    #[test]
    fn a_scaled_sheet_rounds_up_in_the_last_decimal() {
        let sheet = PriceSheet::new("x".into(), vec![Row::parse("in 0.000000000000000003").unwrap()], vec![], vec![]);
        let rate = |parts_per_million| sheet.scaled("y", parts_per_million).unwrap().rows()[0].rate;
        assert_eq!((rate(0), rate(1), rate(500_000), rate(1_000_000)), (Rate(0), Rate(1), Rate(2), Rate(3)));
        let huge = PriceSheet::new("x".into(), vec![Row::new(Unit::Request, Rate(i128::MAX / 2))], vec![], vec![]);
        assert_eq!(huge.scaled("y", 2_000_000), None);
    }

    #[test]
    fn a_sheet_survives_json() {
        let sheet = PriceSheet::new(
            "v".into(),
            vec![Row::parse("in 0.000001 tier=flex").unwrap()],
            vec![OffPeak { weekdays: 1, from_minute: 2, to_minute: 3 }],
            vec![Multiplier { name: "fast".into(), parts_per_million: 2_000_000 }],
        );
        let json = serde_json::to_string(&sheet).unwrap();
        assert_eq!(serde_json::from_str::<PriceSheet>(&json).unwrap(), sheet);
    }
}
