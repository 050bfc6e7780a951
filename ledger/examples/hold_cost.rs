//! What admission costs: nanoseconds for a hold and its settlement with two budgets, and for copying a row to SQLite.
//! `cargo run --release -p tollgate-ledger --example hold_cost`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tollgate_ledger::{
    Amounts, AttemptStart, BudgetTerms, CalendarUnit, Ledger, Mode, Options, Outcome, Period, Refusal, Settlement, Unit,
};

/// Attempts of a round; the database has all of them before the next, as it would at some thousands a second.
const ATTEMPTS: usize = 12_800;
/// Attempts that are timed together: four pages of the journal.
const CHUNK: usize = 64;
const ROUNDS: usize = 40;
const KEYS: usize = 1000;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ledger, mut writers, _) = Ledger::open(Options {
        copy_interval: Duration::from_secs(3600),
        max_segments: 4096,
        ..Options::new(folder.path(), 1)
    })
    .expect("an empty folder opens");
    let writer = &mut writers[0];
    let terms = |id: String, limit| BudgetTerms {
        id,
        unit: Unit::NanoUsd,
        limit,
        boost: None,
        mode: Mode::Hard,
        period: Period::Calendar { unit: CalendarUnit::Month, time_zone: "UTC".to_owned() },
        reset_token: None,
        allow_unavailable: false,
        throttle_percent: None,
    };
    let team = ledger.budget(&terms("team".to_owned(), 1_000_000_000_000_000));
    let keys: Vec<_> = (0..KEYS)
        .map(|key| {
            let budget = ledger.budget(&terms(format!("key-{key}"), 1_000_000_000_000));
            (ledger.intern(&format!("key-{key}")), [budget, team.clone()])
        })
        .collect();
    let model = ledger.intern("model");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let started_at_ms = 1_795_262_400_000;
    let mut attempt = |number: usize, attempt_settle: bool| {
        let (key, budgets) = &keys[number % KEYS];
        let start = AttemptStart {
            attempt_id: number as u128,
            started_at_ms,
            key: *key,
            model,
            hold: Amounts { nano_usd: 5000, tokens: 900, requests: 1 },
            ..AttemptStart::default()
        };
        let hold = loop {
            match writer.try_hold(&start, budgets) {
                Ok(hold) => break hold,
                Err(Refusal::Pending(grant)) => runtime.block_on(grant.wait()),
                Err(refusal) => panic!("{refusal:?}"),
            }
        };
        if !attempt_settle {
            return hold.release(0, 0);
        }
        hold.settle(Settlement {
            actual: Amounts { nano_usd: 1234, tokens: 300, requests: 1 },
            input_tokens: 250,
            output_tokens: 50,
            cache_read_tokens: 0,
            cache_write_tokens: 0,
            reasoning_tokens: 0,
            status: 200,
            outcome: Outcome::Exact,
            duration_ms: 12,
            first_byte_ms: 9,
        });
    };
    // Accounts are opened at first use, which waits for the disk.
    (0..KEYS).for_each(|number| attempt(number, false));
    let before = processor_time();
    let mut chunks: Vec<u64> = Vec::with_capacity(ROUNDS * ATTEMPTS / CHUNK);
    let mut copying = Duration::ZERO;
    for _ in 0..ROUNDS {
        for first in (0..ATTEMPTS).step_by(CHUNK) {
            let began = Instant::now();
            (first..first + CHUNK).for_each(|number| attempt(number, true));
            chunks.push(began.elapsed().as_nanos() as u64 / CHUNK as u64);
        }
        let began = Instant::now();
        ledger.flush().expect("the database takes rows");
        copying += began.elapsed();
    }
    let attempts = (ROUNDS * ATTEMPTS) as u64;
    chunks.sort_unstable();
    println!("hold + settle with 2 budgets: median {} ns", chunks[chunks.len() / 2]);
    println!("copy of a row, with the disk: {} ns", copying.as_nanos() as u64 / attempts);
    println!("processor time of each thread for an attempt:");
    for (name, nanos) in processor_time() {
        let since = nanos - before.get(&name).copied().unwrap_or(0);
        println!("    {name:<16} {} ns", since / attempts);
    }
    println!("{:?}", ledger.counters());
}

/// Nanoseconds that each thread ran.
fn processor_time() -> BTreeMap<String, u64> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((name.trim().to_owned(), times.split(' ').next()?.parse::<u64>().ok()?))
    });
    times.collect()
}
