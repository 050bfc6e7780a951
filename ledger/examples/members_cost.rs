//! What a budget with very many members costs: memory for each, the first call of each, the size of the log, and the next
//! start. `cargo run --release -p tollgate-ledger --example members_cost -- 1000000`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate_ledger::{
    Amounts, AttemptStart, Budget, BudgetTerms, CalendarUnit, Hold, Ledger, Members, Mode, Options, Outcome, Period,
    Refusal, Settlement, Unit, Writer,
};

/// Members that call at once.
const TOGETHER: usize = 1000;

/// No more come while more than these are in memory with all that serves a call.
const AT_HAND: usize = 30_000;

const COST: i64 = 1_234_567;

fn terms() -> BudgetTerms {
    BudgetTerms {
        id: "team-a/Budget/customers".to_owned(),
        unit: Unit::NanoUsd,
        limit: 1_000_000_000,
        boost: None,
        mode: Mode::Hard,
        period: Period::Calendar { unit: CalendarUnit::Month, time_zone: "UTC".to_owned() },
        reset_token: None,
        allow_unavailable: false,
        throttle_percent: None,
    }
}

fn name(at: usize) -> String {
    format!("customer-{at:08}@example.com")
}

fn start(attempt: usize) -> AttemptStart {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    AttemptStart {
        attempt_id: attempt as u128,
        started_at_ms: now.as_millis() as i64,
        hold: Amounts { nano_usd: 2 * COST, tokens: 1000, requests: 1 },
        ..AttemptStart::default()
    }
}

fn settlement() -> Settlement {
    Settlement {
        actual: Amounts { nano_usd: COST, tokens: 500, requests: 1 },
        input_tokens: 300,
        output_tokens: 200,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        status: 200,
        outcome: Outcome::Exact,
        duration_ms: 100,
        first_byte_ms: 10,
    }
}

/// One call of each of these members; all ask before any is waited for.
fn call_all(ledger: &Ledger, writer: &mut Writer, members: &Arc<Members>, all: std::ops::Range<usize>) {
    let mut waiting: Vec<(usize, Arc<Budget>)> =
        all.map(|at| (at, ledger.member(members, &name(at)).expect("there is room"))).collect();
    while !waiting.is_empty() {
        waiting.retain(|(at, budget)| {
            let held: Result<Hold, Refusal> = writer.try_hold(&start(*at), std::slice::from_ref(budget));
            match held {
                Ok(hold) => hold.settle(settlement()),
                Err(Refusal::Pending(_)) => return true,
                Err(Refusal::Unavailable { .. }) => {
                    std::thread::sleep(Duration::from_millis(20));
                    return true;
                }
                Err(other) => panic!("{other:?}"),
            }
            false
        });
        if !waiting.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a size");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
}

fn report(what: &str, since: Instant, before: f64, count: usize, members: &Members) {
    let (awake, resting) = members.count();
    let each = (resident() - before) / count as f64;
    println!(
        "{what}: {:.1} s, {:.0} MB resident, {each:.0} bytes for each member ({awake} at hand, {resting} rest)",
        since.elapsed().as_secs_f64(),
        resident() / 1e6
    );
}

/// One process: opens what the last one left, lets each member call once, and ends.
fn run(folder: &Path, count: usize, turn: usize) {
    let what = ["first process", "after a stop", "after a crash"][turn];
    let size = || std::fs::metadata(folder.join("grants.log")).map_or(0.0, |file| file.len() as f64 / 1e6);
    let begun = Instant::now();
    let before = resident();
    let (ledger, mut writers, _) = Ledger::open(Options::new(folder, 1)).expect("a folder");
    let members = ledger.members(&terms(), true);
    let mut writer = writers.remove(0);
    report(&format!("{what}: open"), begun, before, count, &members);
    let views = Instant::now();
    let fullest = ledger.views().first().map_or(0, |view| view.spent);
    let took = views.elapsed().as_secs_f64();
    println!("{what}: the fullest has {fullest}, found in {took:.3} s; the log has {:.0} MB", size());
    if turn < 2 {
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        for first in (0..count).step_by(TOGETHER) {
            let begun = Instant::now();
            call_all(&ledger, &mut writer, &members, first..(first + TOGETHER).min(count));
            slowest = slowest.max(begun.elapsed());
            while members.count().0 > AT_HAND {
                std::thread::sleep(Duration::from_millis(50));
                // One that is not at hand is what makes the ledger look.
                let far = (first + count / 2 + begun.elapsed().as_millis() as usize) % count;
                ledger.member(&members, &name(far)).expect("there is room");
            }
        }
        println!("{what}: the slowest thousand took {:.2} s", slowest.as_secs_f64());
        report(&format!("{what}: a call of each"), begun, before, count, &members);
        let begun = Instant::now();
        ledger.flush().expect("rows are copied");
        report(&format!("{what}: rows copied"), begun, before, count, &members);
    }
    drop((writer, members));
    let begun = Instant::now();
    if turn == 0 {
        ledger.close().expect("it closes");
        println!("{what}: closed in {:.1} s; the log has {:.0} MB", begun.elapsed().as_secs_f64(), size());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = |at: usize| arguments.get(at).and_then(|count| count.parse().ok());
    if let (Some(count), Some(turn), Some(folder)) = (count(0), count(1), arguments.get(2)) {
        return run(Path::new(folder), count, turn);
    }
    let folder = std::env::temp_dir().join(format!("members-cost-{}", std::process::id()));
    for turn in 0..3 {
        let of_one = std::process::Command::new(std::env::current_exe().expect("this file"))
            .args([count(0).unwrap_or(100_000).to_string(), turn.to_string()])
            .arg(&folder)
            .status();
        assert!(of_one.expect("it starts").success());
    }
    std::fs::remove_dir_all(&folder).expect("its own folder");
}
