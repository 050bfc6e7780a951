//! Sums of a month for who leads the cluster: told until they are taken, and exact over the death of a process.

mod common;

use std::path::Path;

use common::{NOON_MS, attempt, daily, exact, hold, options};
use tollgate_ledger::tallies::{Ask, Batch, Month, Of, Told};
use tollgate_ledger::{AttemptStart, Ledger, Options, Writer};

fn open(folder: &Path) -> (Ledger, Writer) {
    let (ledger, mut writers, _) = Ledger::open(Options { tallies: true, ..options(folder, 1) }).unwrap();
    (ledger, writers.pop().unwrap())
}

fn ask(ledger: &Ledger, source: &str, taken: u64) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ledger.tally(Ask { source: source.to_owned(), taken })).unwrap()
}

fn start(ledger: &Ledger, id: u128, key: &str, nano_usd: i64) -> AttemptStart {
    AttemptStart { key: ledger.intern(key), deployment: ledger.intern("n/m"), ..attempt(id, nano_usd) }
}

fn settle(ledger: &Ledger, writer: &mut Writer, id: u128, key: &str, nano_usd: i64) {
    hold(writer, &start(ledger, id, key, 100), &[]).unwrap().settle(exact(nano_usd));
}

/// `(name, requests, tokens, nano-USD)` of each sum of a kind, in all batches together.
fn sums(batches: &[Batch], of: Of) -> Vec<(String, i64, i64, i64)> {
    let all = batches.iter().flat_map(|batch| &batch.sums).filter(|sum| sum.of == of);
    all.map(|sum| (sum.name.clone(), sum.requests, sum.tokens, sum.nano_usd)).collect()
}

fn numbers(told: &Told) -> Vec<u64> {
    told.batches.iter().map(|batch| batch.number).collect()
}

#[test]
fn a_batch_is_told_until_it_is_taken_and_never_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    assert!(ledger.is_tallied());
    assert_eq!(ask(&ledger, "", 0), Told::default(), "there is nothing");
    settle(&ledger, &mut writer, 1, "n/a", 7);
    settle(&ledger, &mut writer, 2, "n/b", 9);
    settle(&ledger, &mut writer, 3, "n/a", 1);
    let first = ask(&ledger, "", 0);
    assert_eq!(numbers(&first), [1]);
    assert_eq!(sums(&first.batches, Of::Key), [("n/a".to_owned(), 2, 10, 8), ("n/b".to_owned(), 1, 5, 9)]);
    assert_eq!(sums(&first.batches, Of::Deployment), [("n/m".to_owned(), 3, 15, 17)]);
    assert_eq!(sums(&first.batches, Of::Team), [], "the keys have no team");
    assert!(first.batches[0].sums.iter().all(|sum| sum.month == Month::of(NOON_MS)));
    assert_eq!(ask(&ledger, &first.source, 0), first, "a lost answer is given again");
    settle(&ledger, &mut writer, 4, "n/a", 30);
    let both = ask(&ledger, "another", 1);
    assert_eq!((numbers(&both), &both.batches[0]), (vec![1, 2], &first.batches[0]), "it took nothing of this source");
    let second = ask(&ledger, &first.source, 1);
    assert_eq!(second.batches, both.batches[1..]);
    assert!(!ledger.is_tallied());
    let nothing = ask(&ledger, &first.source, 2);
    assert!(nothing.batches.is_empty() && ledger.is_tallied());
    assert_eq!(ask(&ledger, &first.source, 99), Told::default());
    settle(&ledger, &mut writer, 5, "n/a", 2);
    let third = ask(&ledger, &first.source, 99);
    assert_eq!((numbers(&third), sums(&third.batches, Of::Key)), (vec![3], vec![("n/a".to_owned(), 1, 5, 2)]));
}

#[test]
fn a_process_that_dies_takes_no_sum_with_it_and_leaves_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    settle(&ledger, &mut writer, 1, "n/a", 7);
    let first = ask(&ledger, "", 0);
    settle(&ledger, &mut writer, 2, "n/a", 11);
    ledger.flush().unwrap();
    settle(&ledger, &mut writer, 3, "n/b", 13);
    let in_flight = start(&ledger, 4, "n/b", 50);
    std::mem::forget(hold(&mut writer, &in_flight, &[]).unwrap());
    drop((ledger, writer));

    let (ledger, mut writer) = open(folder.path());
    assert!(!ledger.is_tallied());
    let told = ask(&ledger, "", 0);
    assert_eq!((&told.source, &told.batches[0]), (&first.source, &first.batches[0]));
    settle(&ledger, &mut writer, 5, "n/b", 1);
    let told = ask(&ledger, &told.source, 1);
    let of_deployments: i64 = sums(&told.batches, Of::Deployment).iter().map(|(.., nano_usd)| nano_usd).sum();
    assert_eq!(of_deployments, 11 + 13 + 50 + 1, "what was in flight is charged its hold");
    assert_eq!(daily(folder.path()), (5, 7 + of_deployments));
    ask(&ledger, &told.source, told.batches.last().unwrap().number);
    assert!(ledger.is_tallied());
}

#[test]
fn where_nobody_takes_sums_none_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    settle(&ledger, &mut writers[0], 1, "n/a", 7);
    ledger.flush().unwrap();
    assert_eq!(ask(&ledger, "", 0), Told::default());
    assert!(ledger.is_tallied());
    let database = rusqlite::Connection::open(folder.path().join("ledger.sqlite")).unwrap();
    let kept: i64 = database.query_row("SELECT count(*) FROM tally", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 0);
}
