//! Classes of a limit that several processes have leases of, in memory: what they get in all, whatever is lost or late. The
//! same steps as those of a call, on the same leases.

use std::sync::Arc;

use proptest::prelude::*;
use tollgate_ledger::leases::{Ask, Counter};

use super::{line, share};
use crate::lease::way::{Way, ways};
use crate::lease::{Lease, Next, Otherwise, Pressure, Taken, Wanted, Whose};

/// Of the limit, in percent.
const SHARES: [u64; 3] = [60, 10, 30];

/// Which limit is the whole one. The others are of the classes.
const WHOLE: usize = SHARES.len();

const PROCESSES: usize = 3;

/// The most that a call takes.
const MOST_TAKEN: u64 = 8;

/// Whoever waits is told after this how it stands.
const AGAIN_MS: u64 = 20;

/// What was heard is believed for so long.
const HEARD_MS: u64 = 100;

/// So many rounds are shorter than a call waits.
const ROUNDS: usize = 40;

/// A limit, and what one counter that every call asks would have counted.
#[derive(Default)]
struct Limit {
    counter: Counter,
    window: i64,
    used: u64,
    /// Of it: more than the share.
    borrowed: u64,
}

/// A process: its leases, and asks that are on their way for long.
struct Process {
    account: Arc<str>,
    ahead_ms: u64,
    leases: [Lease; WHOLE + 1],
    late: Vec<(usize, Ask)>,
}

/// A call under way.
struct Open {
    account: Arc<str>,
    at: usize,
    class: usize,
    amount: u64,
    borrows: bool,
    whole: (i64, Taken),
    of_class: (i64, Taken),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    In { borrows: bool },
    Waits,
    Refused,
}

struct World {
    now_ms: u64,
    most: u64,
    limits: [Limit; WHOLE + 1],
    processes: Vec<Process>,
    born: usize,
    calls: Vec<Open>,
}

impl World {
    fn new(most: u64, ahead_ms: [u64; PROCESSES]) -> World {
        let mut world = World {
            now_ms: 1_000,
            most,
            limits: Default::default(),
            processes: Vec::new(),
            born: 0,
            calls: Vec::new(),
        };
        world.processes = ahead_ms.map(|ahead_ms| world.process(ahead_ms)).into();
        world
    }

    fn process(&mut self, ahead_ms: u64) -> Process {
        self.born += 1;
        Process { account: self.born.to_string().into(), ahead_ms, leases: Default::default(), late: Vec::new() }
    }

    fn share(&self, class: usize) -> u64 {
        share(self.most, SHARES[class])
    }

    fn call(&mut self, at: usize, class: usize, amount: u64) -> Entered {
        let (most, share, line) = (self.most, self.share(class), line(self.most));
        let Process { account, ahead_ms, leases, .. } = &self.processes[at];
        let now_ms = self.now_ms + ahead_ms;
        let (whole, of_class) = (&leases[WHOLE], &leases[class]);
        let Some(taken) = whole.take(amount, most, now_ms) else {
            return match whole.otherwise(Wanted { limit: most, amount, pressure: None }, now_ms) {
                Otherwise::Borrowed { .. } => panic!("more than the limit"),
                Otherwise::Wanted => Entered::Waits,
                Otherwise::UsedUp { .. } => Entered::Refused,
            };
        };
        whole.runs_low();
        let pressure = whole.pressure(amount, line, now_ms);
        let (borrows, taken_of_class) = match of_class.take_share(amount, share, now_ms) {
            Some(taken) => {
                of_class.runs_low();
                (false, taken)
            }
            None => {
                let refused =
                    match of_class.otherwise(Wanted { limit: share, amount, pressure: Some(pressure) }, now_ms) {
                        Otherwise::Borrowed { taken, .. } => Ok(taken),
                        Otherwise::UsedUp { is_final: true } => Err(Entered::Refused),
                        Otherwise::UsedUp { is_final: false } | Otherwise::Wanted => Err(Entered::Waits),
                    };
                match refused {
                    Ok(taken) => (true, taken),
                    Err(refused) => {
                        whole.correct(taken.window, amount, 0);
                        if refused == Entered::Waits && pressure == Pressure::Unsure {
                            whole.doubt(line);
                        }
                        return refused;
                    }
                }
            }
        };
        let account = account.clone();
        let windows = [WHOLE, class].map(|limit| self.limits[limit].window);
        for limit in [WHOLE, class] {
            self.limits[limit].used += amount;
            self.limits[limit].borrowed += if borrows { amount } else { 0 };
        }
        let (whole, of_class) = ((windows[0], taken), (windows[1], taken_of_class));
        self.calls.push(Open { account, at, class, amount, borrows, whole, of_class });
        Entered::In { borrows }
    }

    /// A call turns out to have used less.
    fn settle(&mut self, actual: u64) {
        let Some(Open { account, at, class, amount, borrows, whole, of_class }) = self.calls.pop() else { return };
        let actual = actual.min(amount);
        if self.processes[at].account != account {
            return;
        }
        for (limit, (window, taken)) in [(WHOLE, whole), (class, of_class)] {
            let lease = &self.processes[at].leases[limit];
            match taken.is_borrowed {
                true => lease.correct_borrowed(taken.window, amount, actual),
                false => lease.correct(taken.window, amount, actual),
            };
            lease.is_worth_telling();
            if self.limits[limit].window == window {
                self.limits[limit].used -= amount - actual;
                self.limits[limit].borrowed -= if borrows { amount - actual } else { 0 };
            }
        }
    }

    fn ask(&mut self, limit: usize, ask: &Ask) -> tollgate_ledger::leases::Answer {
        let Limit { counter, window, used, borrowed } = &mut self.limits[limit];
        let answer = counter.ask(ask, self.now_ms as i64);
        if answer.window != *window {
            (*window, *used, *borrowed) = (answer.window, 0, 0);
        }
        answer
    }

    /// Asks what a process has to ask of one limit.
    fn exchange(&mut self, at: usize, limit: usize, way: Way) {
        let Process { account, ahead_ms, leases, .. } = &self.processes[at];
        let whose = Whose { limit: &format!("{limit}").into(), account, at_once: false, beside: 0 };
        let asked_ms = self.now_ms + ahead_ms;
        let Next::Ask(ask) = leases[limit].next(whose, asked_ms) else { return };
        // Both ways take a while.
        self.now_ms += 1;
        let answer = match way {
            Way::There => Some(self.ask(limit, &ask)),
            Way::Lost => None,
            Way::AnswerLost => {
                self.ask(limit, &ask);
                None
            }
            Way::Twice => {
                self.ask(limit, &ask);
                Some(self.ask(limit, &ask))
            }
            Way::Late => {
                self.processes[at].late.push((limit, ask.clone()));
                None
            }
        };
        self.now_ms += 1;
        let Process { leases, ahead_ms, .. } = &self.processes[at];
        match answer {
            Some(answer) => leases[limit].answered(&ask, &answer, asked_ms, self.now_ms + ahead_ms),
            None => leases[limit].unanswered(&ask),
        }
        if answer.is_some_and(|answer| answer.recalls) {
            for Process { leases, ahead_ms, .. } in &self.processes {
                if leases[limit].is_worth_a_recall(self.now_ms + ahead_ms) {
                    leases[limit].recall();
                }
            }
        }
    }

    fn exchange_all(&mut self) {
        for at in 0..PROCESSES {
            for limit in 0..=WHOLE {
                self.exchange(at, limit, Way::There);
            }
        }
    }

    /// As long as a call waits.
    fn call_patiently(&mut self, at: usize, class: usize, amount: u64) -> Entered {
        for _ in 0..ROUNDS {
            match self.call(at, class, amount) {
                Entered::Waits => {
                    self.exchange_all();
                    self.now_ms += 3;
                }
                entered => {
                    // What is low is asked for, and who is asked for what he does not use gives it back.
                    for _ in 0..2 {
                        self.exchange_all();
                        self.now_ms += AGAIN_MS;
                    }
                    return entered;
                }
            }
        }
        Entered::Waits
    }
}

#[derive(Clone, Debug)]
enum Event {
    Call(usize, usize, u64),
    Settle(u64),
    Exchange(usize, usize, Way),
    ExchangeAll(usize),
    Late(usize),
    Wait(u64),
    Die(usize),
}

fn events() -> impl Strategy<Value = Event> {
    let at = || 0..PROCESSES;
    prop_oneof![
        8 => (at(), 0..WHOLE, 1..=MOST_TAKEN).prop_map(|(at, class, amount)| Event::Call(at, class, amount)),
        2 => (0..MOST_TAKEN).prop_map(Event::Settle),
        8 => (at(), 0..=WHOLE, ways()).prop_map(|(at, limit, way)| Event::Exchange(at, limit, way)),
        4 => at().prop_map(Event::ExchangeAll),
        1 => at().prop_map(Event::Late),
        2 => prop_oneof![6 => 0..50u64, 2 => 0..3_000u64, 1 => 0..70_000u64].prop_map(Event::Wait),
        1 => at().prop_map(Event::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is lost, doubled or late, and whoever dies: no class has more than its share but for what it borrows, and all
    /// that is borrowed is below the line.
    #[test]
    fn classes_have_their_shares_and_borrow_below_the_line(
        most in 1..100u64,
        ahead_ms in [0..100_000u64, 0..100_000u64, 0..100_000u64],
        events in proptest::collection::vec(events(), 1..300),
    ) {
        let mut world = World::new(most, ahead_ms);
        for event in events {
            match event {
                Event::Call(at, class, amount) => _ = world.call(at, class, amount),
                Event::Settle(actual) => world.settle(actual),
                Event::Exchange(at, limit, way) => world.exchange(at, limit, way),
                Event::ExchangeAll(at) => (0..=WHOLE).for_each(|limit| world.exchange(at, limit, Way::There)),
                Event::Late(at) => {
                    if let Some((limit, ask)) = world.processes[at].late.pop() {
                        world.ask(limit, &ask);
                    }
                }
                Event::Wait(ms) => world.now_ms += ms,
                Event::Die(at) => world.processes[at] = world.process(ahead_ms[at]),
            }
            let Limit { used, borrowed, .. } = world.limits[WHOLE];
            prop_assert!(used <= most, "{used} of {most}");
            // The call that comes to the line goes over it.
            prop_assert!(borrowed < line(most) + MOST_TAKEN, "{borrowed} of {most}");
            for class in 0..WHOLE {
                let Limit { used, borrowed, .. } = world.limits[class];
                prop_assert!(used - borrowed <= world.share(class), "class {class}: {used}, {borrowed} of {most}");
            }
        }
    }

    /// Where all is well every call has the answer that one process alone would give, whichever process it comes to and
    /// whatever others hold: any class gets more than its share below the line, and exactly its share above. But for one
    /// that did not hear yet that others came to the line: it lends what it was given below it.
    #[test]
    fn over_several_processes_classes_get_what_they_get_from_one(
        most in 1..120u64,
        ahead_ms in [0..100_000u64, 0..100_000u64, 0..100_000u64],
        calls in proptest::collection::vec(
            (0..PROCESSES, 0..WHOLE, 1..4u64, 0..30usize, proptest::option::weighted(0.3, 0..4u64)),
            1..15,
        ),
    ) {
        let mut world = World::new(most, ahead_ms);
        let began_ms = world.now_ms;
        for (at, class, amount, count, actual) in calls {
            if let Some(actual) = actual {
                world.settle(actual);
                // What comes free is told within about a second.
                for wait_ms in [1_000, AGAIN_MS] {
                    world.now_ms += wait_ms;
                    world.exchange_all();
                }
                world.now_ms += HEARD_MS;
            }
            for _ in 0..count {
                let Limit { used, borrowed, .. } = world.limits[WHOLE];
                let (used_of_class, share) = (world.limits[class].used, world.share(class));
                let is_low = used < line(most);
                let entered = world.call_patiently(at, class, amount);
                let (fits, fits_share) = (used + amount <= most, used_of_class + amount <= share);
                let is_right = match entered {
                    Entered::In { borrows: false } => fits && fits_share,
                    Entered::In { borrows: true } => fits && (is_low || borrowed < line(most)),
                    Entered::Refused | Entered::Waits => !fits || !is_low && !fits_share,
                };
                let what = format!("{used} of {most}, {used_of_class} of {share} for class {class}");
                prop_assert!(is_right, "{amount} {entered:?} by {at}: {what}");
                prop_assert!(world.now_ms - began_ms < 60_000);
            }
        }
    }
}
