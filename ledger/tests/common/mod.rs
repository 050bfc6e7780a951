//! What the ledger's tests share: a small ledger in a folder, attempts, and a look into its database.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tollgate_ledger::{
    Amounts, AttemptStart, Budget, BudgetTerms, BudgetView, Hold, Ledger, Mode, Options, Outcome, Period, Refusal,
    Settlement, Unit, Writer,
};

/// 2026-11-21T12:00:00Z
pub const NOON_MS: i64 = 1_795_262_400_000;

pub fn noon() -> i64 {
    NOON_MS
}

/// Segments of 15 attempts, so that they rotate and retire all the time.
pub fn options(folder: &Path, cores: usize) -> Options {
    Options {
        segment_bytes: 4096,
        copy_interval: Duration::from_millis(3),
        clock: noon,
        kernel_boot: [1; 16],
        ..Options::new(folder, cores)
    }
}

pub fn hard(id: &str, limit: i64) -> BudgetTerms {
    BudgetTerms {
        id: id.to_owned(),
        unit: Unit::NanoUsd,
        limit,
        boost: None,
        mode: Mode::Hard,
        period: Period::Lifetime,
        reset_token: None,
        allow_unavailable: false,
        throttle_percent: None,
    }
}

pub fn attempt(id: u128, nano_usd: i64) -> AttemptStart {
    AttemptStart {
        attempt_id: id,
        started_at_ms: NOON_MS,
        hold: Amounts { nano_usd, tokens: 10, requests: 1 },
        ..AttemptStart::default()
    }
}

pub fn exact(nano_usd: i64) -> Settlement {
    Settlement {
        actual: Amounts { nano_usd, tokens: 5, requests: 1 },
        input_tokens: 3,
        output_tokens: 2,
        cache_read_tokens: 1,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        status: 200,
        outcome: Outcome::Exact,
        duration_ms: 12,
        first_byte_ms: 7,
    }
}

/// Tries until it is not the disk that is waited for.
pub fn hold(writer: &mut Writer, start: &AttemptStart, budgets: &[Arc<Budget>]) -> Result<Hold, Refusal> {
    hold_part(writer, start, start.hold, budgets)
}

/// The same for a part of the attempt.
pub fn hold_part(
    writer: &mut Writer,
    start: &AttemptStart,
    part: Amounts,
    budgets: &[Arc<Budget>],
) -> Result<Hold, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    loop {
        match writer.try_hold_part(start, part, budgets, &mut tollgate_ledger::LetThrough::default()) {
            Err(Refusal::Pending(grant)) => runtime.block_on(grant.wait()),
            other => return other,
        }
    }
}

pub fn view(ledger: &Ledger, id: &str) -> BudgetView {
    ledger.views().into_iter().find(|view| view.id == id).unwrap()
}

pub fn spent(ledger: &Ledger, id: &str) -> i64 {
    view(ledger, id).spent
}

/// `(attempt id, nano-USD, outcome)` of all rows, by attempt.
pub fn rows(folder: &Path) -> Vec<(u128, i64, String)> {
    let database = Connection::open(folder.join("ledger.sqlite")).unwrap();
    let mut select = database.prepare("SELECT attempt_id, nano_usd, outcome FROM spend ORDER BY attempt_id").unwrap();
    let rows = select.query_map([], |row| {
        let id: String = row.get(0)?;
        Ok((u128::from_str_radix(&id, 16).unwrap(), row.get(1)?, row.get(2)?))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Attempts and nano-USD of the daily sums.
pub fn daily(folder: &Path) -> (i64, i64) {
    let database = Connection::open(folder.join("ledger.sqlite")).unwrap();
    let sums = "SELECT coalesce(sum(attempts), 0), coalesce(sum(nano_usd), 0) FROM daily";
    database.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Sum of the adjustments.
pub fn adjusted(folder: &Path) -> i64 {
    let database = Connection::open(folder.join("ledger.sqlite")).unwrap();
    database.query_row("SELECT coalesce(sum(amount), 0) FROM adjustments", [], |row| row.get(0)).unwrap()
}

pub fn segments(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder.join("journal")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).count()
}
