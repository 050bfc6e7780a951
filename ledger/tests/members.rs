//! Budgets that have one for each member: opened when they are used, bounded in number, and forgotten when they are over.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{NOON_MS, attempt, exact, hard, hold, options, spent};
use tollgate_ledger::{
    AttemptStart, Budget, BudgetTerms, CalendarUnit, Ledger, Members, Options, Period, Refusal, Room, TooMany, Writer,
};

static CLOCK_MS: AtomicI64 = AtomicI64::new(NOON_MS);

fn clock() -> i64 {
    CLOCK_MS.load(SeqCst)
}

fn daily(limit: i64) -> BudgetTerms {
    let period = Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() };
    BudgetTerms { period, ..hard("b", limit) }
}

#[test]
fn members_keep_what_they_spent_over_a_restart_and_follow_new_terms() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
        (ledger, writers.remove(0))
    };
    let (ledger, mut writer) = open();
    let members = ledger.members(&hard("b", 100), false);
    let alice = ledger.member(&members, "alice").unwrap();
    hold(&mut writer, &attempt(1, 60), &[alice]).unwrap().settle(exact(60));
    drop(writer);
    ledger.close().unwrap();

    let (ledger, mut writer) = open();
    let members = ledger.members(&hard("b", 100), false);
    assert_eq!(spent(&ledger, "b/alice"), 60, "seen before it is used");
    let (alice, bob) = (ledger.member(&members, "alice").unwrap(), ledger.member(&members, "bob").unwrap());
    assert!(matches!(
        hold(&mut writer, &attempt(2, 60), std::slice::from_ref(&alice)),
        Err(Refusal::Exhausted { spent: 60, limit: 100, .. })
    ));
    hold(&mut writer, &attempt(3, 60), &[bob]).unwrap().release(0, 0);
    ledger.members(&hard("b", 120), false);
    hold(&mut writer, &attempt(4, 60), &[alice]).unwrap().settle(exact(60));
}

#[test]
fn those_that_clients_name_are_seen_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    let members = ledger.members(&hard("b", 100), true);
    for (at, (name, cost)) in [("a", 10), ("b", 30), ("c", 20)].into_iter().enumerate() {
        let member = ledger.member(&members, name).unwrap();
        hold(&mut writers[0], &attempt(at as u128, 50), &[member]).unwrap().settle(exact(cost));
    }
    let views: Vec<(String, i64)> = ledger.views().into_iter().map(|view| (view.id, view.spent)).collect();
    assert_eq!(views, [("b".to_owned(), 30)]);
}

#[test]
fn there_is_room_again_when_the_period_is_over_and_no_old_period_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    const MOST: usize = 500;
    let room = Room { most: MOST, awake: usize::MAX };
    let options = Options { clock, room, ..options(folder.path(), 1) };
    let (ledger, mut writers, _) = Ledger::open(options).unwrap();
    let members = ledger.members(&daily(100), true);
    let now = |id: u128| AttemptStart { started_at_ms: clock(), ..attempt(id, 60) };
    let first = ledger.member(&members, "first").unwrap();
    hold(&mut writers[0], &now(1), &[first]).unwrap().settle(exact(60));
    for at in 1..MOST {
        ledger.member(&members, &at.to_string()).unwrap();
    }
    // Members that spent nothing make room at once, the one that did does not.
    ledger.member(&members, "new").unwrap();
    let again = ledger.member(&members, "first").unwrap();
    assert!(matches!(hold(&mut writers[0], &now(2), &[again]), Err(Refusal::Exhausted { spent: 60, .. })));

    CLOCK_MS.fetch_add(86_400_000, SeqCst);
    let kept: Vec<_> =
        (2..).map(|at: usize| ledger.member(&members, &format!("kept-{at}"))).map_while(Result::ok).collect();
    assert_eq!(kept.len(), MOST, "all others went, and those that somebody has stay");
    assert_eq!(ledger.member(&members, "one more").map(|_| ()), Err(TooMany));
    drop(kept);
    CLOCK_MS.fetch_add(2_000, SeqCst);
    ledger.member(&members, "one more").unwrap();

    // The clock goes back into the day that is over: what is spent counts in the new one all the same.
    CLOCK_MS.fetch_sub(86_400_000, SeqCst);
    let first = ledger.member(&members, "first").unwrap();
    hold(&mut writers[0], &now(3), &[first]).unwrap().settle(exact(10));
    assert_eq!(ledger.views()[0].period_label, "2026-11-22");
}

/// A ledger whose clock a test moves, with room for a few members in memory.
struct World {
    folder: tempfile::TempDir,
    clock: fn() -> i64,
    terms: BudgetTerms,
    ledger: Ledger,
    writer: Writer,
    members: Arc<Members>,
    attempts: u128,
}

fn open(folder: &tempfile::TempDir, clock: fn() -> i64, terms: &BudgetTerms) -> (Ledger, Writer, Arc<Members>) {
    let room = Room { most: 300, awake: 4 };
    let options = Options { clock, room, ..options(folder.path(), 1) };
    let (ledger, mut writers, _) = Ledger::open(options).unwrap();
    let members = ledger.members(terms, true);
    (ledger, writers.remove(0), members)
}

impl World {
    fn new(clock: fn() -> i64, terms: BudgetTerms) -> World {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, writer, members) = open(&folder, clock, &terms);
        World { folder, clock, terms, ledger, writer, members, attempts: 0 }
    }

    fn restarted(self, cleanly: bool) -> World {
        let World { folder, clock, terms, ledger, writer, members, attempts } = self;
        drop((writer, members));
        if cleanly {
            ledger.close().unwrap();
        } else {
            drop(ledger);
        }
        let (ledger, writer, members) = open(&folder, clock, &terms);
        World { folder, clock, terms, ledger, writer, members, attempts }
    }

    fn member(&self, name: &str) -> Arc<Budget> {
        self.ledger.member(&self.members, name).unwrap()
    }

    /// Holds 40 for a member and settles it with what it cost, or says what was spent already.
    fn call(&mut self, name: &str, cost: i64) -> Result<(), i64> {
        self.attempts += 1;
        let start = AttemptStart { started_at_ms: (self.clock)(), ..attempt(self.attempts, 40) };
        let member = self.member(name);
        match hold(&mut self.writer, &start, &[member]) {
            Ok(hold) => {
                hold.settle(exact(cost));
                Ok(())
            }
            Err(Refusal::Exhausted { spent, .. }) => Err(spent),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Until all but some members rest that nobody uses: new ones make the ledger look.
    fn rest(&mut self, clock: &AtomicI64) {
        let until = Instant::now() + Duration::from_secs(20);
        for turn in 0.. {
            clock.fetch_add(10_000, SeqCst);
            self.member(&format!("look-{turn}"));
            let settled = Instant::now() + Duration::from_millis(20);
            while Instant::now() < settled && self.members.count().0 > 8 {
                std::thread::yield_now();
            }
            if self.members.count().0 <= 8 {
                return;
            }
            assert!(Instant::now() < until, "{:?}", self.members.count());
        }
    }
}

#[test]
fn members_that_rest_go_on_where_they_were_and_what_they_spent_outlives_a_crash_and_a_stop() {
    static CLOCK: AtomicI64 = AtomicI64::new(NOON_MS);
    let mut world = World::new(|| CLOCK.load(SeqCst), hard("b", 100));
    let cost = |at: usize| [3, 25, 40][at % 3];
    for at in 0..200 {
        world.call(&format!("m{at}"), cost(at)).unwrap();
    }
    world.rest(&CLOCK);
    assert!(world.members.count().1 >= 195, "{:?}", world.members.count());
    assert_eq!(
        world.ledger.views().iter().map(|view| view.spent).max(),
        Some(40),
        "the fullest is seen, resting or not"
    );
    for at in 0..200 {
        // The second call after the rest has what the first left.
        world.call(&format!("m{at}"), 40).unwrap();
        let expected = cost(at) + 40;
        let left = 100 - expected;
        assert_eq!(world.call(&format!("m{at}"), 10).err(), (left < 40).then_some(expected), "{at}");
    }
    world.rest(&CLOCK);
    let spent = |at: usize| cost(at) + 40 + if cost(at) + 40 <= 60 { 10 } else { 0 };
    for cleanly in [false, true] {
        world = world.restarted(cleanly);
        assert_eq!(world.members.count().0, 0, "all rest after the start");
        assert_eq!(world.ledger.views()[0].spent, 80);
        for at in 0..200 {
            // More than any has left says what was spent.
            let start = AttemptStart { started_at_ms: NOON_MS, ..attempt(10_000 + at as u128, 100) };
            let member = world.member(&format!("m{at}"));
            let refusal = hold(&mut world.writer, &start, &[member]);
            assert!(
                matches!(refusal, Err(Refusal::Exhausted { spent: told, .. }) if told == spent(at)),
                "{at} {refusal:?}"
            );
        }
        world.rest(&CLOCK);
    }
}

#[test]
fn a_member_with_a_call_in_flight_stays_also_where_the_call_holds_nothing() {
    static CLOCK: AtomicI64 = AtomicI64::new(NOON_MS);
    let mut world = World::new(|| CLOCK.load(SeqCst), hard("b", 100));
    let (busy, free) = (world.member("busy"), world.member("free"));
    let held = hold(&mut world.writer, &attempt(1, 40), &[busy]).unwrap();
    let holds_nothing = hold(&mut world.writer, &attempt(2, 0), &[free]).unwrap();
    for at in 0..50 {
        world.call(&format!("m{at}"), 1).unwrap();
    }
    world.rest(&CLOCK);
    held.settle(exact(30));
    // It cost something all the same.
    holds_nothing.settle(exact(95));
    for (name, expected) in [("busy", 30), ("free", 95)] {
        let start = attempt(3, 99);
        let member = world.member(name);
        let refusal = hold(&mut world.writer, &start, &[member]);
        assert!(matches!(refusal, Err(Refusal::Exhausted { spent, .. }) if spent == expected), "{name} {refusal:?}");
    }
}

#[test]
fn whatever_comes_in_between_a_member_never_has_more_than_its_limit_and_never_less_than_it_has_left() {
    static CLOCK: AtomicI64 = AtomicI64::new(NOON_MS);
    const DAY: i64 = 86_400_000;
    for (seed, period) in [
        (1, Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() }),
        (2, Period::Lifetime),
        (3, Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() }),
    ] {
        let mut random = fastrand::Rng::with_seed(seed);
        let has_days = period != Period::Lifetime;
        let mut world = World::new(|| CLOCK.load(SeqCst), BudgetTerms { period, ..hard("b", 100) });
        let mut spent: std::collections::HashMap<(i64, u32), i64> = Default::default();
        for _ in 0..1500 {
            match random.u32(0..100) {
                0 => world.rest(&CLOCK),
                1 => {
                    let cleanly = random.bool();
                    world = world.restarted(cleanly);
                }
                2 if has_days => _ = CLOCK.fetch_add(DAY / 3, SeqCst),
                _ => {
                    let day = if has_days { CLOCK.load(SeqCst).div_euclid(DAY) } else { 0 };
                    let (name, cost) = (random.u32(0..40), random.i64(0..=40));
                    let spent = spent.entry((day, name)).or_default();
                    let expected = if *spent + 40 > 100 { Err(*spent) } else { Ok(()) };
                    assert_eq!(world.call(&format!("m{name}"), cost), expected, "seed {seed}, day {day}, m{name}");
                    *spent += if expected.is_ok() { cost } else { 0 };
                }
            }
        }
        assert!(world.members.count().0 + world.members.count().1 <= 300);
    }
}

#[test]
fn what_a_member_used_in_an_earlier_bucket_counts_until_that_expires() {
    static CLOCK: AtomicI64 = AtomicI64::new(NOON_MS);
    const HOUR: i64 = 3_600_000;
    let day = Period::Rolling { seconds: 86_400 };
    let mut world = World::new(|| CLOCK.load(SeqCst), BudgetTerms { period: day, ..hard("b", 100) });
    let others = |world: &mut World| (0..20).for_each(|at| world.call(&format!("m{at}"), 1).unwrap());
    world.call("rolls", 35).unwrap();
    others(&mut world);
    world.rest(&CLOCK);
    CLOCK.fetch_add(2 * HOUR, SeqCst);
    // Its account is over, and what it has used counts beside that of the new one.
    world.call("rolls", 30).unwrap();
    others(&mut world);
    world.rest(&CLOCK);
    assert_eq!(world.call("rolls", 1), Err(65));
    assert_eq!(world.ledger.views()[0].spent, 65);
    world.rest(&CLOCK);
    CLOCK.fetch_add(2 * HOUR, SeqCst);
    assert_eq!(world.call("rolls", 1), Err(65));
    world.rest(&CLOCK);
    CLOCK.fetch_add(21 * HOUR, SeqCst);
    world.call("rolls", 40).unwrap();
    world.rest(&CLOCK);
    world = world.restarted(false);
    assert_eq!(world.call("rolls", 1), Err(70));
}
