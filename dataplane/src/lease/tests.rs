//! One limit that several processes have leases of, in memory.

use super::way::{Way, ways};
use super::*;
use proptest::prelude::*;
use tollgate_ledger::leases::Counter;

const MINUTE_MS: u64 = 60_000;

/// A process: its lease, and how far its clock is from the counter's.
struct Process {
    lease: Lease,
    account: Arc<str>,
    ahead_ms: u64,
    /// Asks that are on their way for long.
    late: Vec<Ask>,
    beside: u64,
}

impl Process {
    fn new(name: usize, ahead_ms: u64) -> Process {
        let account = format!("{name}").into();
        Process { lease: Lease::default(), account, ahead_ms, late: Vec::new(), beside: 0 }
    }

    fn next(&self, now_ms: u64) -> Option<Ask> {
        let limit = "key a/b requests".into();
        let whose = Whose { limit: &limit, account: &self.account, at_once: false, beside: self.beside };
        match self.lease.next(whose, now_ms + self.ahead_ms) {
            Next::Ask(ask) => Some(ask),
            Next::PutOff | Next::Nothing => None,
        }
    }
}

/// Processes that share a limit, and what a counter without leases would have counted.
struct World {
    now_ms: u64,
    most: u64,
    counter: Counter,
    processes: Vec<Process>,
    born: usize,
    /// Used in the window that is open, and when that one began.
    used: u64,
    window: i64,
    /// What those that died in this window held.
    lost: u64,
    calls: Vec<(usize, Arc<str>, i64, u16, u64)>,
}

impl World {
    fn new(most: u64, ahead_ms: &[u64]) -> World {
        let processes: Vec<Process> =
            ahead_ms.iter().enumerate().map(|(name, ahead_ms)| Process::new(name, *ahead_ms)).collect();
        let born = processes.len();
        let counter = Counter::default();
        World { now_ms: 1_000, most, counter, processes, born, used: 0, window: 0, lost: 0, calls: Vec::new() }
    }

    /// Whether it was let in.
    fn call(&mut self, at: usize, amount: u64) -> bool {
        let Process { lease, account, ahead_ms, .. } = &self.processes[at];
        let now_ms = self.now_ms + ahead_ms;
        match lease.take(amount, self.most, now_ms) {
            Some(taken) => {
                self.used += amount;
                self.calls.push((at, account.clone(), self.window, taken.window, amount));
                lease.runs_low();
                true
            }
            None if amount <= self.most && !lease.is_used_up(amount, self.most, now_ms) => {
                lease.want(amount, self.most);
                false
            }
            None => false,
        }
    }

    /// A call turns out to have used less.
    fn settle(&mut self, actual: u64) {
        let Some((at, account, window, taken_in, amount)) = self.calls.pop() else { return };
        let Process { lease, account: now, .. } = &self.processes[at];
        let actual = actual.min(amount);
        if *now == account {
            lease.correct(taken_in, amount, actual);
            if window == self.window {
                self.used -= amount - actual;
            }
        }
    }

    fn ask(&mut self, ask: &Ask) -> Answer {
        let answer = self.counter.ask(ask, self.now_ms as i64);
        if answer.window != self.window {
            (self.window, self.used, self.lost) = (answer.window, 0, 0);
        }
        answer
    }

    fn exchange(&mut self, at: usize, way: Way) {
        let Some(ask) = self.processes[at].next(self.now_ms) else { return };
        let asked_ms = self.now_ms + self.processes[at].ahead_ms;
        // Both ways take a while.
        self.now_ms += 1;
        let answer = match way {
            Way::There => Some(self.ask(&ask)),
            Way::Lost => None,
            Way::AnswerLost => {
                self.ask(&ask);
                None
            }
            Way::Twice => {
                self.ask(&ask);
                Some(self.ask(&ask))
            }
            Way::Late => {
                self.processes[at].late.push(ask.clone());
                None
            }
        };
        self.now_ms += 1;
        let Process { lease, ahead_ms, .. } = &self.processes[at];
        match answer {
            Some(answer) => lease.answered(&ask, &answer, asked_ms, self.now_ms + ahead_ms),
            None => lease.unanswered(&ask),
        }
        if answer.is_some_and(|answer| answer.recalls) {
            for other in &self.processes {
                other.lease.recall();
            }
        }
    }

    fn die(&mut self, at: usize) {
        let ahead_ms = self.processes[at].ahead_ms;
        let (used, held) = self.processes[at].lease.standing();
        if self.processes[at].lease.is_open(self.now_ms + ahead_ms) {
            // What an answer that was lost gave is lost too.
            self.lost = self.most.min(self.lost + held - used);
        }
        self.processes[at] = Process::new(self.born, ahead_ms);
        self.born += 1;
    }
}

#[derive(Clone, Debug)]
enum Event {
    Call(usize, u64),
    Settle(u64),
    Exchange(usize, Way),
    Late(usize),
    Wait(u64),
    Die(usize),
}

fn events() -> impl Strategy<Value = Event> {
    let at = || 0..3usize;
    prop_oneof![
        8 => (at(), 1..12u64).prop_map(|(at, amount)| Event::Call(at, amount)),
        2 => (0..12u64).prop_map(Event::Settle),
        8 => (at(), ways()).prop_map(|(at, way)| Event::Exchange(at, way)),
        1 => at().prop_map(Event::Late),
        2 => prop_oneof![0..50u64, 0..3_000u64, 0..70_000u64].prop_map(Event::Wait),
        1 => at().prop_map(Event::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is lost, doubled or late, and whoever dies: no more is let in than by one counter that every call asks.
    /// And where all is well again, one process alone gets all that is left of the window.
    #[test]
    fn leases_let_in_what_one_counter_would(
        most in 1..200u64,
        ahead_ms in proptest::collection::vec(0..100_000u64, 3),
        events in proptest::collection::vec(events(), 1..120),
    ) {
        let mut world = World::new(most, &ahead_ms);
        for event in events {
            match event {
                Event::Call(at, amount) => _ = world.call(at, amount),
                Event::Settle(actual) => world.settle(actual),
                Event::Exchange(at, way) => world.exchange(at, way),
                Event::Late(at) => {
                    if let Some(ask) = world.processes[at].late.pop() {
                        world.ask(&ask);
                    }
                }
                Event::Wait(ms) => world.now_ms += ms,
                Event::Die(at) => world.die(at),
            }
            prop_assert!(world.used <= most, "{} of {most}", world.used);
        }
        // The next window, in which nobody dies and nothing is lost; the others were there first.
        world.now_ms += 2 * MINUTE_MS;
        for at in [1, 2] {
            world.call(at, 1);
            world.exchange(at, Way::There);
        }
        let began_ms = world.now_ms;
        let mut refused = 0;
        // A call waits for longer than so many rounds take.
        while refused < 10 {
            match world.call(0, 1) {
                true => refused = 0,
                false => {
                    refused += 1;
                    for at in [0, 1, 2, 0] {
                        world.exchange(at, Way::There);
                        world.now_ms += AGAIN_MS / 4;
                    }
                }
            }
        }
        prop_assert!(world.now_ms - began_ms < MINUTE_MS);
        prop_assert_eq!(world.used, most);
    }
}

#[test]
fn many_threads_and_a_task_that_gives_back_never_pass_what_was_given() {
    let lease = Lease::default();
    let mut counter = Counter::default();
    let (limit, account) = ("key a/b requests".into(), "a".into());
    let whose = Whose { limit: &limit, account: &account, at_once: false, beside: 0 };
    lease.want(1, 10_000);
    let mut exchange = |lease: &Lease| {
        if let Next::Ask(ask) = lease.next(whose, 5) {
            let answer = counter.ask(&ask, 5);
            lease.answered(&ask, &answer, 5, 5);
            assert!(answer.held <= 10_000);
        }
    };
    exchange(&lease);
    let is_over = AtomicBool::new(false);
    let admitted: usize = std::thread::scope(|scope| {
        // Once more after all was exchanged: what is left then is there to be taken.
        let takes = || {
            let mut taken = 0;
            loop {
                let is_last = is_over.load(Acquire);
                taken += usize::from(lease.take(1, 10_000, 5).is_some());
                if is_last {
                    return taken;
                }
            }
        };
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(takes)).collect();
        for _ in 0..2_000 {
            lease.recall();
            exchange(&lease);
            lease.want(7, 10_000);
            exchange(&lease);
        }
        is_over.store(true, Release);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(admitted as u64, lease.used(false, 5));
    assert!(admitted > 0 && admitted <= 10_000, "{admitted}");
}

#[test]
fn what_was_used_above_a_lease_is_charged_and_what_came_free_is_there_again() {
    let mut world = World::new(100, &[0, 0]);
    assert!(!world.call(0, 40));
    world.exchange(0, Way::There);
    assert!(world.call(0, 40));
    let taken = world.calls[0].3;
    // The answer was longer than was reserved.
    world.processes[0].lease.correct(taken, 40, 90);
    world.now_ms += TELL_MS;
    world.exchange(0, Way::There);
    assert!(!world.call(1, 20));
    world.exchange(1, Way::There);
    assert!(world.processes[1].lease.is_used_up(20, 100, world.now_ms));
    assert_eq!(world.processes[1].lease.remaining(100, world.now_ms), 10);
    world.processes[0].lease.correct(taken, 90, 10);
    world.now_ms += IDLE_MS;
    world.exchange(0, Way::There);
    world.now_ms += IDLE_MS;
    world.exchange(0, Way::There);
    assert!(!world.call(1, 80));
    world.exchange(1, Way::There);
    assert!(world.call(1, 80));
}

#[test]
fn who_doubts_is_given_nothing_and_others_give_back_what_they_do_not_use() {
    let mut world = World::new(100, &[0, 0]);
    let hear = |world: &mut World| {
        world.processes[0].lease.doubt(80);
        world.exchange(0, Way::There);
    };
    assert!(!world.call(1, 55));
    world.exchange(1, Way::There);
    assert!(!world.call(0, 30));
    world.exchange(0, Way::There);
    assert!(world.processes[0].lease.take(30, 100, world.now_ms).is_some());
    assert_eq!(world.processes[0].lease.pressure(30, 80, world.now_ms), Pressure::Low, "before it was taken");
    let pressure = |world: &World| world.processes[0].lease.pressure(0, 80, world.now_ms);
    assert_eq!(pressure(&world), Pressure::Unsure);
    let before = world.processes[0].lease.standing();
    hear(&mut world);
    assert_eq!(world.processes[0].lease.standing(), before);
    assert_eq!(pressure(&world), Pressure::Unsure);
    world.exchange(1, Way::There);
    world.now_ms += AGAIN_MS;
    hear(&mut world);
    assert_eq!(pressure(&world), Pressure::Low);
    assert!(!world.call(1, 50));
    world.exchange(1, Way::There);
    assert!(world.call(1, 50));
    assert_eq!(pressure(&world), Pressure::Low, "as was heard last: it may lend what it holds");
    world.now_ms += TELL_MS;
    world.exchange(1, Way::There);
    hear(&mut world);
    assert_eq!(pressure(&world), Pressure::High);
    world.now_ms += PRESSURE_MS + 1;
    assert_eq!(pressure(&world), Pressure::Unsure, "others may have had less than they reserved");
}

#[test]
fn what_was_given_is_kept_for_whoever_waits_for_another_limit_too() {
    let mut world = World::new(100, &[0]);
    assert!(!world.call(0, 10));
    world.exchange(0, Way::There);
    assert!(world.call(0, 10));
    // For long nothing was used, and all that was left was given back.
    for _ in 0..2 {
        world.now_ms += IDLE_MS;
        world.exchange(0, Way::There);
    }
    assert!(!world.call(0, 10));
    world.exchange(0, Way::There);
    world.now_ms += IDLE_MS / 2;
    world.exchange(0, Way::There);
    assert!(world.call(0, 10));
}

#[test]
fn who_used_something_that_came_free_again_is_not_taken_for_dead() {
    let mut world = World::new(10, &[0, 0]);
    assert!(!world.call(0, 10));
    world.exchange(0, Way::There);
    for used in [true, false] {
        world.now_ms += TELL_MS / 2 - 20;
        match used {
            true => assert!(world.call(0, 10)),
            false => world.settle(0),
        }
        // It is too early to tell of the use, and then it is again as it was told.
        world.exchange(0, Way::There);
    }
    world.now_ms += IDLE_MS - TELL_MS / 2;
    world.exchange(0, Way::There);
    world.now_ms += TELL_MS / 2 + 60;
    world.processes[1].lease.want(1, 10);
    world.exchange(1, Way::There);
    assert_eq!(world.processes[1].lease.elsewhere.load(Relaxed), 0, "what it holds is not used");
}

#[test]
fn far_from_the_limit_few_calls_ask() {
    let mut world = World::new(10_000, &[0]);
    let mut asked = 0;
    for _ in 0..8_000 {
        let mut tries = 0;
        while !world.call(0, 1)
            || world.processes[0].next(world.now_ms).is_some_and(|ask| {
                let answer = world.counter.ask(&ask, world.now_ms as i64);
                world.processes[0].lease.answered(&ask, &answer, world.now_ms, world.now_ms);
                asked += 1;
                false
            })
        {
            world.exchange(0, Way::There);
            asked += 1;
            tries += 1;
            assert!(tries < 3);
        }
        world.now_ms += 5;
    }
    assert!(asked < 60, "{asked} of 8000");
}

#[test]
fn places_are_renewed_and_given_back() {
    let (limit, account): (Arc<str>, Arc<str>) = ("key a/b max_parallel_requests".into(), "a".into());
    let whose = Whose { limit: &limit, account: &account, at_once: true, beside: 0 };
    let (lease, mut counter) = (Lease::default(), Counter::default());
    let mut exchange = |now_ms: u64| match lease.next(whose, now_ms) {
        Next::Ask(ask) => {
            let answer = counter.ask(&ask, now_ms as i64);
            lease.answered(&ask, &answer, now_ms, now_ms);
            Some(answer)
        }
        Next::PutOff | Next::Nothing => None,
    };
    lease.want(1, 4);
    assert_eq!(exchange(10).unwrap().held, 2);
    assert!(lease.take(1, 4, 10).is_some() && lease.take(1, 4, 10).is_some());
    assert!(lease.take(1, 4, 10).is_none());
    // As long as they are told they are held.
    for now_ms in (10..60_000).step_by(500) {
        exchange(now_ms);
        assert!(lease.is_open(now_ms));
    }
    assert_eq!(lease.used(true, 60_000), 2);
    lease.leave();
    assert!(lease.take(1, 4, 60_000).is_some(), "a place that came free is here");
    lease.leave();
    lease.leave();
    let back = (60_000..64_000).step_by(250).filter_map(&mut exchange).last().unwrap();
    assert_eq!((back.held, back.room), (0, 4), "nobody used them for a while");
    assert!(lease.take(1, 4, 64_000).is_none());
}
