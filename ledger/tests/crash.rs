//! What survives: `kill -9` at random and at named points of a real process, power loss, damaged files, and crashes
//! between the steps of copying.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{NOON_MS, adjusted, attempt, daily, exact, hard, hold, hold_part, options, rows, segments, spent};
use tollgate_faults::{Money, Run, seeds, this_test};
use tollgate_ledger::{Amounts, LastEnd, Ledger, Mode, OpenError, Options, RecoveryReport, Refusal};

const LIMIT: i64 = 150_000;
const CHILD: &str = "LEDGER_TEST_CHILD";
const POINT: &str = "LEDGER_TEST_POINT";
const SEED: &str = "LEDGER_TEST_SEED";

/// One line to the parent, in one write, so that a kill cannot tear it.
fn say(line: String) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Dies as by `kill -9`, here.
fn die() -> ! {
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    unreachable!("killed");
}

/// Not a test by itself: the process that is killed. Holds and settles on two threads, and tells each step.
#[test]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let point = std::env::var(POINT).unwrap_or_default();
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let (ledger, writers, _) = Ledger::open(options(Path::new(&folder), 2)).unwrap();
    std::thread::scope(|scope| {
        for (core, mut writer) in writers.into_iter().enumerate() {
            let (ledger, point) = (ledger.clone(), point.as_str());
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed * 2 + core as u64);
                let budgets = [ledger.budget(&hard("b", LIMIT)), ledger.budget(&hard("wide", i64::MAX / 4))];
                let mut held = Vec::new();
                for step in 0..100_000u128 {
                    let at = |name: &str| step == 40 && core == 0 && point == name;
                    let id = (u128::from(seed) << 64) | (core as u128) << 32 | step;
                    let amount = random.i64(1..300);
                    if at("before hold") {
                        die();
                    }
                    // Some hold a part at first, and more now and then.
                    let part = if random.bool() { amount } else { random.i64(1..=amount) };
                    say(format!("hold {id} {part}"));
                    match hold_part(&mut writer, &attempt(id, amount), nano(part), &budgets) {
                        Ok(one) => {
                            say(format!("held {id} {part}"));
                            held.push((id, amount, one));
                        }
                        Err(Refusal::Exhausted { .. } | Refusal::Reserved { .. }) => {
                            say(format!("refused {id} 0"));
                            held.drain(..).for_each(|(id, _, one)| {
                                let amount = one.amounts().nano_usd;
                                say(format!("settle {id} {amount}"));
                                one.settle(exact(amount));
                                say(format!("settled {id} {amount}"));
                            });
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                    if at("held") {
                        die();
                    }
                    if let Some((id, amount, one)) = held.last_mut() {
                        let now = one.amounts().nano_usd;
                        let to = now + (*amount - now) / 2;
                        say(format!("extend {id} {to}"));
                        if writer.extend(one, nano(to), NOON_MS, true).is_ok() {
                            say(format!("held {id} {to}"));
                        }
                        if at("extended") {
                            die();
                        }
                    }
                    if held.len() > 6 {
                        let (id, _, one) = held.swap_remove(random.usize(..held.len()));
                        let actual = random.i64(0..=one.amounts().nano_usd);
                        say(format!("settle {id} {actual}"));
                        if at("usage seen") {
                            die();
                        }
                        one.settle(exact(actual));
                        say(format!("settled {id} {actual}"));
                        if at("settled") {
                            die();
                        }
                    }
                    if at("flushed") {
                        ledger.flush().unwrap();
                        die();
                    }
                }
            });
        }
    });
}

/// What an attempt holds.
fn nano(nano_usd: i64) -> Amounts {
    Amounts { nano_usd, ..attempt(0, 0).hold }
}

/// What the children said they did.
#[derive(Default)]
struct Oracle {
    /// Attempts that may or must be in the journal, and the most they hold if so.
    asked: BTreeMap<u128, i64>,
    /// Those that must, and the least they hold.
    held: BTreeMap<u128, i64>,
    settling: BTreeMap<u128, i64>,
    settled: HashSet<u128>,
    refused: HashSet<u128>,
}

impl Oracle {
    fn hear(&mut self, line: &str) {
        let Some(line) = line.strip_prefix('@') else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let (id, amount): (u128, i64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        match words[0] {
            "hold" | "extend" => drop(self.asked.insert(id, amount)),
            "held" => drop(self.held.insert(id, amount)),
            "settle" => drop(self.settling.insert(id, amount)),
            "settled" => drop(self.settled.insert(id)),
            "refused" => drop(self.refused.insert(id)),
            other => panic!("{other}"),
        }
    }

    /// What there is to tell after kills. The settlements that were begun are the bills.
    fn tell(&self, fault: &str, times: usize, folder: &Path) {
        let rows = rows(folder);
        let ids: HashSet<u128> = rows.iter().map(|row| row.0).collect();
        let settled = |row: &&(u128, i64, String)| row.2 == "exact";
        let billed = rows.iter().filter(settled).map(|row| row.1).sum();
        let counted = rows.iter().map(|row| row.1).sum();
        let lost = self.held.keys().filter(|id| !ids.contains(id)).count();
        let money = Money { limit: LIMIT, billed, counted, false_refusals: None, unavailable: 0 };
        Run::of(fault, rows.len()).times(times).money(money).rows_lost(lost).tell();
    }

    /// Rows against what was said: nothing lost, nothing invented, nothing twice.
    fn check(&self, folder: &Path) {
        let rows = rows(folder);
        let ids: HashSet<u128> = rows.iter().map(|row| row.0).collect();
        assert_eq!(ids.len(), rows.len(), "an attempt has one row");
        for id in self.held.keys() {
            assert!(ids.contains(id), "attempt {id} was held and lost");
        }
        for (id, nano_usd, outcome) in &rows {
            assert!(!self.refused.contains(id), "attempt {id} was refused and is there");
            let asked = self.asked[id];
            match outcome.as_str() {
                "exact" => assert_eq!(Some(nano_usd), self.settling.get(id), "attempt {id}"),
                "recovered" => {
                    let held = self.held.get(id).copied().unwrap_or(*nano_usd);
                    assert!([held, asked].contains(nano_usd), "attempt {id}: {nano_usd}, held {held}, asked {asked}");
                    assert!(!self.settled.contains(id), "attempt {id} was settled and forgotten");
                }
                other => panic!("{other}"),
            }
        }
    }
}

fn run_child(folder: &Path, oracle: &mut Oracle, seed: u64, point: &str, live: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .envs([(CHILD, folder.to_str().unwrap()), (POINT, point), (SEED, &seed.to_string())])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut started = None;
    let mut killed = false;
    for line in &mut lines {
        let line = line.unwrap();
        oracle.hear(&line);
        let since: &Instant = started.get_or_insert_with(Instant::now);
        if point.is_empty() && !killed && since.elapsed() >= live {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the child was killed, it did not fail");
}

/// Opens after a kill and compares everything.
fn audit(folder: &Path, oracle: &Oracle) -> RecoveryReport {
    let (ledger, writers, report) = Ledger::open(options(folder, 1)).unwrap();
    assert_eq!((report.damaged_slots, report.adjustments), (0, 0));
    ledger.flush().unwrap();
    oracle.check(folder);
    let rows = rows(folder);
    let sum: i64 = rows.iter().map(|row| row.1).sum();
    assert_eq!(daily(folder), (rows.len() as i64, sum), "daily sums are the rows");
    ledger.budget(&hard("b", LIMIT));
    ledger.budget(&hard("wide", i64::MAX / 4));
    assert_eq!(spent(&ledger, "b"), sum, "the budget has what the rows have");
    assert_eq!(spent(&ledger, "wide"), sum);
    assert!(sum <= LIMIT);
    drop(writers);
    ledger.close().unwrap();
    report
}

#[test]
fn kill_9_at_any_moment_loses_nothing_and_never_overspends() {
    seeds::histories(this_test!(), 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut oracle = Oracle::default();
        for _ in 0..12 {
            let live = Duration::from_millis(random.u64(0..120));
            run_child(folder.path(), &mut oracle, random.u64(..1 << 32), "", live);
            audit(folder.path(), &oracle);
        }
        oracle.tell("ledger-random", 12, folder.path());
        assert!(oracle.settled.len() > 100, "the children did something: {}", oracle.settled.len());
    });
}

#[test]
fn kill_9_at_each_named_point_keeps_the_books() {
    for (round, point) in
        ["before hold", "held", "extended", "usage seen", "settled", "flushed"].into_iter().enumerate()
    {
        let folder = tempfile::tempdir().unwrap();
        let mut oracle = Oracle::default();
        for boot in 0..2 {
            run_child(folder.path(), &mut oracle, 100 + 2 * round as u64 + boot, point, Duration::MAX);
            assert_eq!(audit(folder.path(), &oracle).last_end, LastEnd::Killed);
        }
        oracle.tell(&format!("ledger-{}", point.replace(' ', "-")), 2, folder.path());
    }
}

#[test]
fn a_power_loss_charges_what_was_granted_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    let soft = tollgate_ledger::BudgetTerms { mode: Mode::Soft, ..hard("soft", 1000) };
    let budgets = [ledger.budget(&hard("b", 1000)), ledger.budget(&soft)];
    hold(&mut writers[0], &attempt(1, 100), &budgets).unwrap().settle(exact(70));
    drop((ledger, writers, budgets));
    for after in [500, 500] {
        let (ledger, writers, report) =
            Ledger::open(Options { kernel_boot: [2; 16], ..options(folder.path(), 1) }).unwrap();
        ledger.budget(&hard("b", 1000));
        ledger.budget(&soft);
        assert_eq!((spent(&ledger, "b"), spent(&ledger, "soft")), (after, 70), "half of the limit was granted");
        ledger.flush().unwrap();
        assert_eq!((rows(folder.path()).len(), adjusted(folder.path())), (1, 430));
        drop(writers);
        assert!(matches!(report.last_end, LastEnd::PowerLoss | LastEnd::Killed));
    }
}

#[test]
fn a_clean_stop_gives_the_unused_grant_back() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, report) = Ledger::open(options(folder.path(), 1)).unwrap();
    assert_eq!((report.last_end, report.boot), (LastEnd::None, 1));
    let budgets = [ledger.budget(&hard("b", 1000))];
    hold(&mut writers[0], &attempt(1, 100), &budgets).unwrap().settle(exact(70));
    drop(writers);
    ledger.close().unwrap();
    drop(budgets);
    // Another start of the machine makes no difference then.
    let (ledger, _writers, report) =
        Ledger::open(Options { kernel_boot: [9; 16], ..options(folder.path(), 1) }).unwrap();
    assert_eq!((report.last_end, report.boot, report.adjustments), (LastEnd::Stopped, 2, 0));
    ledger.budget(&hard("b", 1000));
    assert_eq!(spent(&ledger, "b"), 70);
}

/// A folder in which a process died with its journal uncopied: 40 attempts, 36 settled. Gives what they cost.
fn died(folder: &Path) -> i64 {
    let (ledger, mut writers, _) =
        Ledger::open(Options { copy_interval: Duration::from_secs(3600), ..options(folder, 1) }).unwrap();
    let budgets = [ledger.budget(&hard("b", 100_000))];
    let mut cost = 0;
    for id in 0..40 {
        let one = hold(&mut writers[0], &attempt(id, 100), &budgets).unwrap();
        if id % 10 == 3 {
            std::mem::forget(one);
            cost += 100;
        } else {
            one.settle(exact(7));
            cost += 7;
        }
    }
    cost
}

fn segment_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder.join("journal")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("journal")).unwrap();
    for name in ["grants.log", "names.log", "ledger.sqlite", "ledger.sqlite-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    for file in segment_files(from) {
        std::fs::copy(&file, to.join("journal").join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_damaged_journal_never_counts_less_and_never_invents_rows() {
    let original = tempfile::tempdir().unwrap();
    let cost = died(original.path());
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(original.path(), folder.path());
        let files = segment_files(folder.path());
        let file = &files[random.usize(..files.len())];
        let mut bytes = std::fs::read(file).unwrap();
        if round % 3 == 0 {
            bytes.truncate(random.usize(..bytes.len()));
        } else {
            let bit = random.usize(..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        std::fs::write(file, bytes).unwrap();
        let (ledger, _writers, report) = Ledger::open(options(folder.path(), 1)).unwrap();
        ledger.budget(&hard("b", 100_000));
        let now = spent(&ledger, "b");
        ledger.flush().unwrap();
        let rows = rows(folder.path());
        let known: i64 = rows.iter().map(|row| row.1).sum();
        assert_eq!(known + adjusted(folder.path()), now, "{round} {report:?}");
        for (id, nano_usd, outcome) in rows {
            let is_exact = outcome == "exact" && nano_usd == 7 && id % 10 != 3;
            assert!(id < 40 && (is_exact || (outcome == "recovered" && nano_usd == 100)), "{round} {id} {outcome}");
        }
        // The only slot whose loss cannot be told from an attempt that was never sent is the last of its segment.
        assert!(now >= cost || (now >= cost - 100 && report.damaged_slots == 0), "{round}: {now} of {cost}");
    }
}

#[test]
fn damaged_or_missing_grants_are_refused_never_taken_for_none() {
    let folder = tempfile::tempdir().unwrap();
    died(folder.path());
    let path = folder.path().join("grants.log");
    let bytes = std::fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[20] ^= 4;
    for broken in [flipped, Vec::new(), bytes[..bytes.len() / 3].to_vec()] {
        std::fs::write(&path, broken).unwrap();
        assert!(matches!(Ledger::open(options(folder.path(), 1)), Err(OpenError::Damaged { .. })));
    }
    std::fs::write(&path, bytes).unwrap();
    assert!(Ledger::open(options(folder.path(), 1)).is_ok());
}

#[test]
fn a_crash_between_copy_and_removal_copies_nothing_twice() {
    let original = tempfile::tempdir().unwrap();
    let cost = died(original.path());
    let folder = tempfile::tempdir().unwrap();
    copy_folder(original.path(), folder.path());
    // The rows were committed; the machine's memory of it was not: journal and grants are as before.
    let (ledger, writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    ledger.flush().unwrap();
    drop((ledger, writers));
    assert_eq!(rows(folder.path()).len(), 40);
    segment_files(folder.path()).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    for file in segment_files(original.path()) {
        std::fs::copy(&file, folder.path().join("journal").join(file.file_name().unwrap())).unwrap();
    }
    std::fs::copy(original.path().join("grants.log"), folder.path().join("grants.log")).unwrap();
    let (ledger, _writers, report) = Ledger::open(options(folder.path(), 1)).unwrap();
    assert_eq!((report.recovered_attempts, report.recovered_nano_usd), (4, 400));
    ledger.flush().unwrap();
    ledger.budget(&hard("b", 100_000));
    assert_eq!((rows(folder.path()).len(), daily(folder.path()), spent(&ledger, "b")), (40, (40, cost), cost));
}

#[test]
fn a_lost_or_damaged_database_loses_rows_and_no_money() {
    let folder = tempfile::tempdir().unwrap();
    let cost = died(folder.path());
    std::fs::write(folder.path().join("ledger.sqlite"), b"this is no database, and long enough to look like one")
        .unwrap();
    let (ledger, writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    ledger.flush().unwrap();
    assert_eq!(rows(folder.path()).len(), 40, "what was still in the journal is there");
    assert!(folder.path().join("ledger.damaged-1").exists());
    drop(writers);
    ledger.close().unwrap();
    std::fs::remove_file(folder.path().join("ledger.sqlite")).unwrap();
    let (ledger, _writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    ledger.budget(&hard("b", 100_000));
    assert_eq!(spent(&ledger, "b"), cost);
}

#[test]
fn a_locked_database_stops_copying_and_not_serving() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    let budgets = [ledger.budget(&hard("b", 100_000))];
    let mut other = rusqlite::Connection::open(folder.path().join("ledger.sqlite")).unwrap();
    let lock = other.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive).unwrap();
    for id in 0..50 {
        hold(&mut writers[0], &attempt(id, 100), &budgets).unwrap().settle(exact(7));
    }
    assert!(ledger.flush().is_err());
    lock.commit().unwrap();
    ledger.flush().unwrap();
    assert_eq!((rows(folder.path()).len(), spent(&ledger, "b")), (50, 350));
}

#[test]
fn segments_go_when_their_last_attempt_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    let budgets = [ledger.budget(&hard("b", 100_000))];
    let long = hold(&mut writers[0], &attempt(999, 100), &budgets).unwrap();
    for id in 0..300 {
        hold(&mut writers[0], &attempt(id, 100), &budgets).unwrap().settle(exact(7));
    }
    ledger.flush().unwrap();
    // The one with the long stream, the one in use, and those that are ready.
    assert!(segments(folder.path()) <= 5, "{}", segments(folder.path()));
    let id = attempt(999, 100).attempt_id.to_le_bytes();
    let holds_long =
        |path: &std::path::PathBuf| std::fs::read(path).unwrap().windows(id.len()).any(|bytes| bytes == id);
    let kept = segment_files(folder.path()).into_iter().find(holds_long).expect("what has not ended is kept");
    long.settle(exact(50));
    ledger.flush().unwrap();
    assert!(!kept.exists());
    assert_eq!((rows(folder.path()).len(), spent(&ledger, "b")), (301, 2150));
    drop((ledger, writers, budgets));
    let (ledger, _writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    ledger.budget(&hard("b", 100_000));
    assert_eq!(spent(&ledger, "b"), 2150, "sums of segments that are gone are kept");
}

#[test]
fn a_journal_of_the_first_layout_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    for boot in 1..=3 {
        let (ledger, _, report) = Ledger::open(options(folder.path(), 1)).unwrap();
        assert_eq!(report.boot, boot);
        ledger.close().unwrap();
    }
    // What a process of that version, the third, left: a header, and the slot that the record's own test reads.
    let number: u64 = (3 << 24) + 7;
    let mut segment = vec![0; 16 * 256];
    segment[..8].copy_from_slice(b"TollgJ01");
    segment[8..16].copy_from_slice(&number.to_le_bytes());
    segment[16..24].copy_from_slice(&3u64.to_le_bytes());
    segment[24..40].copy_from_slice(&[1; 16]);
    segment[40..44].copy_from_slice(&16u32.to_le_bytes());
    let checksum = crc32fast::hash(&segment[..44]);
    segment[44..48].copy_from_slice(&checksum.to_le_bytes());
    let digits: Vec<u8> = include_str!("../src/testdata/slot-first.hex")
        .bytes()
        .filter_map(|digit| (digit as char).to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    for (byte, pair) in segment[12 * 256..].iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] * 16 + pair[1];
    }
    let path = folder.path().join(format!("journal/{number:016x}.segment"));
    std::fs::write(&path, segment).unwrap();
    let (ledger, _writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    ledger.flush().unwrap();
    assert_eq!(rows(folder.path()), [(u128::MAX - 5, 70, "exact".to_owned())]);
    assert!(!path.exists());
}
