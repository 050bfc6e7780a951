//! The gateway's books beside the provider's invoice. Every stage that spends ends here: each attempt whose usage was seen
//! equals its invoice row to the nano-dollar, every other row says what it is. I/O.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use tollgate_mock::{InvoiceRow, Mock, Surface};

use crate::Gateway;
use crate::objects::{self, UPSTREAM_PREFIX};

/// One attempt as the view `spend` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendRow {
    pub attempt_id: String,
    pub key: String,
    pub team: String,
    pub model: String,
    /// `namespace/name`
    pub deployment: String,
    pub provider: String,
    pub attempt_no: i64,
    pub cost_nano_usd: i64,
    pub held_nano_usd: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    pub reasoning_tokens: i64,
    pub status: i64,
    /// `exact`, `estimated`, `unpriced`, `cache`, `charged`, `released`, `dropped`, `recovered`
    pub outcome: String,
    /// Empty: nobody was named.
    pub end_user: String,
    /// A JSON array; empty: none.
    pub tags: String,
}

/// All attempts in the copy of a gateway that has stopped (a clean stop copies everything), oldest first.
///
/// # Panics
/// There is no readable copy.
pub fn ledger_rows(data: &Path) -> Vec<SpendRow> {
    let path = data.join("ledger/ledger.sqlite");
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("no ledger in {}: {error}", path.display()));
    let sql = "SELECT attempt_id, key, team, model, deployment, provider, attempt_no, nano_usd, held_nano_usd, input_tokens, \
               output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, status, outcome, end_user, tags \
               FROM spend ORDER BY started_at_ms, id";
    let mut statement = connection.prepare(sql).expect("the view `spend` has the columns that the documentation names");
    let rows = statement.query_map([], |row| {
        let text = |at: usize| row.get::<_, Option<String>>(at).map(Option::unwrap_or_default);
        Ok(SpendRow {
            attempt_id: text(0)?,
            key: text(1)?,
            team: text(2)?,
            model: text(3)?,
            deployment: text(4)?,
            provider: text(5)?,
            attempt_no: row.get(6)?,
            cost_nano_usd: row.get(7)?,
            held_nano_usd: row.get(8)?,
            input_tokens: row.get(9)?,
            output_tokens: row.get(10)?,
            cache_read_tokens: row.get(11)?,
            cache_write_tokens: row.get(12)?,
            reasoning_tokens: row.get(13)?,
            status: row.get(14)?,
            outcome: text(15)?,
            end_user: text(16)?,
            tags: text(17)?,
        })
    });
    rows.and_then(Iterator::collect).expect("the rows of `spend` are readable")
}

/// What the price of each attempt was called, in the copy of a gateway that has stopped, oldest first.
///
/// # Panics
/// There is no readable copy.
pub fn price_versions(data: &Path) -> Vec<String> {
    let path = data.join("ledger/ledger.sqlite");
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("no ledger in {}: {error}", path.display()));
    let mut statement = connection
        .prepare("SELECT price_version FROM spend ORDER BY started_at_ms, id")
        .expect("the view `spend` names the price");
    let rows = statement.query_map([], |row| Ok(row.get::<_, Option<String>>(0)?.unwrap_or_default()));
    rows.and_then(Iterator::collect).expect("the names are readable")
}

/// What both sides must agree on: deployment, tokens, nano-USD.
type Line = (String, u64, u64, u64, u64, i64);

fn invoice_line(row: &InvoiceRow) -> Line {
    let name = row.model.strip_prefix(UPSTREAM_PREFIX).unwrap_or(&row.model);
    let name = name.split('~').next().unwrap_or(name);
    let written = row.cache_write_5m + row.cache_write_1h;
    let cost = objects::cost_nano_usd(row.input_tokens, row.output_tokens, row.cache_read, written);
    (format!("default/{name}"), row.input_tokens, row.output_tokens, row.cache_read, written, cost)
}

fn ledger_line(row: &SpendRow) -> Line {
    let tokens = |count: i64| u64::try_from(count).expect("tokens are never negative");
    let SpendRow { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_nano_usd, .. } = row;
    (
        row.deployment.clone(),
        tokens(*input_tokens),
        tokens(*output_tokens),
        tokens(*cache_read_tokens),
        tokens(*cache_write_tokens),
        *cost_nano_usd,
    )
}

/// Billed rows of all mocks; counting tokens is free.
fn billed(mocks: &[&Mock]) -> Vec<InvoiceRow> {
    let rows = mocks.iter().flat_map(|mock| mock.invoice());
    rows.filter(|row| row.billed && row.surface != Surface::CountTokens).collect()
}

/// Stops the gateway and holds its ledger against the invoice: every billed request is exactly one `exact` row with the
/// same tokens and cost, and every other row is `released` and free.
///
/// # Panics
/// They differ.
pub async fn assert_ledger_equals_invoice(gateway: &mut Gateway, mocks: &[&Mock]) -> Vec<SpendRow> {
    gateway.stop().await;
    let rows = ledger_rows(gateway.data());
    let mut invoice: Vec<Line> = billed(mocks).iter().map(invoice_line).collect();
    let mut ledger: Vec<Line> = rows.iter().filter(|row| row.outcome != "released").map(ledger_line).collect();
    invoice.sort();
    ledger.sort();
    assert_eq!(ledger, invoice, "the ledger (left) is not the invoice (right); its rows: {rows:#?}");
    for row in &rows {
        match row.outcome.as_str() {
            "exact" => {}
            "released" => assert_eq!(row.cost_nano_usd, 0, "a released attempt is free: {row:?}"),
            other => panic!("usage was seen, so no row may be `{other}`: {row:?}"),
        }
    }
    rows
}

/// Stops the gateway and holds its ledger against the invoice where usage was not always seen: `exact` rows equal their
/// invoice rows, and for every other billed request there is a flagged row of the same deployment. With `hard`, flagged
/// rows cost at least what was billed and at most their hold.
///
/// # Panics
/// They differ.
pub async fn assert_every_attempt_is_booked(gateway: &mut Gateway, mocks: &[&Mock], hard: bool) -> Vec<SpendRow> {
    gateway.stop().await;
    let rows = ledger_rows(gateway.data());
    let mut open: Vec<Line> = billed(mocks).iter().map(invoice_line).collect();
    for row in rows.iter().filter(|row| row.outcome == "exact") {
        let line = ledger_line(row);
        let at = open.iter().position(|billed| *billed == line);
        let at = at.unwrap_or_else(|| panic!("an exact row that nobody billed: {row:#?}; the invoice: {open:#?}"));
        open.swap_remove(at);
    }
    let mut flagged: BTreeMap<String, Vec<&SpendRow>> = BTreeMap::new();
    for row in &rows {
        match row.outcome.as_str() {
            "exact" => {}
            "released" => assert_eq!(row.cost_nano_usd, 0, "a released attempt is free: {row:?}"),
            "estimated" | "charged" | "dropped" | "recovered" => {
                flagged.entry(row.deployment.clone()).or_default().push(row)
            }
            other => panic!("an outcome that no stage has: {other}: {row:?}"),
        }
    }
    // Both sides by cost, so that the dearest bill meets the dearest row.
    open.sort_by_key(|line| std::cmp::Reverse(line.5));
    flagged.values_mut().for_each(|rows| rows.sort_by_key(|row| row.cost_nano_usd));
    for line in open {
        let row = flagged.get_mut(&line.0).and_then(Vec::pop);
        let row = row.unwrap_or_else(|| panic!("billed, but not in the ledger: {line:?}; its rows: {rows:#?}"));
        if hard {
            assert!(row.cost_nano_usd >= line.5, "a hard budget was charged less than was billed: {row:#?}, {line:?}");
            assert!(row.cost_nano_usd <= row.held_nano_usd, "more than the hold was charged: {row:#?}");
        }
    }
    rows
}
