//! Rows of a model as the price table keeps them: what says nothing is left out, and the order is one. For whoever makes
//! rows of another list's fields.

use super::model::ModelPrice;
use super::row::{Row, Scope};
use super::unit::Unit;

impl ModelPrice {
    /// Of two rows with the same conditions the higher rate stays; searches that cost the same in all three sizes need no
    /// size; rates of thinking that only repeat those of output go, because they would hide the tiers that output has.
    pub fn tidy(&mut self) {
        let rows = &mut self.rows;
        rows.sort_by(|a, b| a.condition().cmp(&b.condition()).then(b.rate.cmp(&a.rate)));
        rows.dedup_by(|later, kept| later.condition() == kept.condition());
        merge_searches(rows);
        drop_repeated_thinking(rows);
        rows.sort_by(|a, b| a.condition().cmp(&b.condition()));
    }
}

fn merge_searches(rows: &mut Vec<Row>) {
    let is_sized = |row: &Row| row.unit == Unit::WebSearch && matches!(row.scope, Scope::Size(_));
    let sized: Vec<&Row> = rows.iter().filter(|row| is_sized(row)).collect();
    if sized.len() == 3 && sized.iter().all(|row| row.rate == sized[0].rate) {
        let merged = Row::new(Unit::WebSearch, sized[0].rate);
        rows.retain(|row| !is_sized(row));
        rows.push(merged);
    }
}

fn drop_repeated_thinking(rows: &mut Vec<Row>) {
    let repeats = |row: &Row| {
        let as_output = Row { unit: Unit::OutputToken, ..row.clone() };
        rows.contains(&as_output)
    };
    if rows.iter().filter(|row| row.unit == Unit::ReasoningToken).all(repeats) {
        rows.retain(|row| row.unit != Unit::ReasoningToken);
    }
}
