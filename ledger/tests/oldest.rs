//! Rows that have no room: the oldest go, each was counted once, and none comes back.

mod common;

use std::path::Path;

use common::{attempt, daily, exact, hold, options, rows};
use tollgate_ledger::{Hold, Ledger, Options, Writer};

const ROWS: u128 = 12_000;

/// Less than the rows take of which nothing goes.
fn open(folder: &Path) -> (Ledger, Writer) {
    let (ledger, mut writers, _) = Ledger::open(Options { max_sqlite_bytes: 100_000, ..options(folder, 1) }).unwrap();
    (ledger, writers.pop().unwrap())
}

fn settle(hold: Hold) {
    hold.settle(exact(7));
}

fn fill(ledger: &Ledger, writer: &mut Writer) {
    for id in 1..=ROWS {
        settle(hold(writer, &attempt(id, 100), &[]).unwrap());
        if id % 1_000 == 0 {
            ledger.flush().unwrap();
        }
    }
}

#[test]
fn the_oldest_rows_go_and_sums_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    settle(hold(&mut writer, &attempt(0, 100), &[]).unwrap());
    let first = std::fs::read_dir(folder.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = first.map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    fill(&ledger, &mut writer);
    let left = rows(folder.path());
    assert!((3_500..6_000).contains(&left.len()), "{}", left.len());
    assert_eq!(ledger.counters().rows_removed as usize, ROWS as usize + 1 - left.len());
    assert!(left[0].0 > ROWS / 2 && left[left.len() - 1].0 == ROWS, "{} to {}", left[0].0, left[left.len() - 1].0);
    let sums = daily(folder.path());
    assert_eq!(sums.0, ROWS as i64 + 1);
    drop(writer);
    ledger.close().unwrap();
    // A segment whose rows went long ago is there again, as after a power loss.
    for (bytes, path) in kept {
        std::fs::write(path, bytes).unwrap();
    }
    let (ledger, _writer) = open(folder.path());
    ledger.flush().unwrap();
    assert_eq!(daily(folder.path()), sums, "it counts once");
}

#[test]
fn an_attempt_that_lasts_is_counted_though_all_around_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    let lasts = hold(&mut writer, &attempt(0, 100), &[]).unwrap();
    fill(&ledger, &mut writer);
    settle(lasts);
    ledger.flush().unwrap();
    assert_eq!(daily(folder.path()).0, ROWS as i64 + 1);
}
