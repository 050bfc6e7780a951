//! Every interleaving of a small world: two replicas that spend, two allocators that both believe to lead, messages
//! that are lost, doubled and late, crashes of everything. The allocator's side is the production code. With its rules
//! a Hard budget holds; without any one of them the checker finds how it breaks.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};
use tollgate_allocator::{Asker, Budget, Mode, Period, ReplicaId, Report, Terms, Unit};

const LIMIT: i64 = 2;
const NOW_MS: i64 = 1_000_000;

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The answer leaves although the state could not be written.
    AnswersBeforeItIsDurable,
    /// State is written over whatever is there.
    WritesOverAnyVersion,
    /// A replica says that it gave allowance back, and spends it still.
    SpendsWhatItGaveBack,
    /// A process that starts again goes on with the account of the one before.
    ResumesTheAccount,
    /// Closing an account charges what is known to be used.
    ClosesAtWhatIsUsed,
    /// What was given back is told as a difference.
    TellsDifferences,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    durable: Budget,
    version: u32,
    leaders: [(Budget, u32); 2],
    replicas: [Replica; 2],
    /// Whatever was sent may come at any time, any number of times, or never.
    reports: BTreeSet<(ReplicaIdOrd, [i64; 5])>,
    answers: BTreeSet<(usize, u8, i64)>,
    /// What providers billed or may bill.
    billed: i64,
}

type ReplicaIdOrd = (usize, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    boot: u8,
    granted: i64,
    returned: i64,
    /// Told to the allocator, not yet kept to: only where that rule is broken.
    told_returned: i64,
    used: i64,
    held: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Ask(usize),
    Deliver { leader: usize, from: ReplicaIdOrd, numbers: [i64; 5] },
    Receive { replica: usize, boot: u8, granted: i64 },
    Admit(usize),
    Settle(usize, i64),
    GiveBack(usize),
    Crash(usize),
    Close { leader: usize, replica: usize, boot: u8 },
    Reload(usize),
}

/// What can go wrong in a world; messages are lost, doubled and late in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Faults {
    two_leaders: bool,
    crashes: bool,
    closes: bool,
    gives_back: bool,
}

const LEADERS: Faults = Faults { two_leaders: true, crashes: false, closes: false, gives_back: false };
const GIVING_BACK: Faults = Faults { two_leaders: false, crashes: false, closes: false, gives_back: true };
const ENDS: Faults = Faults { two_leaders: false, crashes: true, closes: true, gives_back: false };
const ALL: Faults = Faults { two_leaders: true, crashes: true, closes: true, gives_back: true };

struct Small {
    broken: Broken,
    faults: Faults,
}

fn id((replica, boot): ReplicaIdOrd) -> ReplicaId {
    ReplicaId(format!("{replica}.{boot}"))
}

fn terms() -> Terms {
    Terms { unit: Unit::Requests, limit: LIMIT, mode: Mode::Hard, period: Period::Lifetime, reset_token: None }
}

fn report([returned, used, held, wanted, last]: [i64; 5]) -> Report {
    Report {
        budget: "b".to_owned(),
        unit: Unit::Requests,
        reset_token: None,
        span: Period::Lifetime.span(0),
        returned,
        used,
        held,
        wanted,
        refused: 0,
        last: last == 1,
    }
}

impl Small {
    fn leaders(&self) -> std::ops::Range<usize> {
        0..if self.faults.two_leaders { 2 } else { 1 }
    }

    /// The leader's new state is written, if nobody wrote since it read. Whether the answer may leave.
    fn write(&self, world: &mut World, leader: usize, state: Budget) -> bool {
        let current = world.leaders[leader].1 == world.version;
        if current || self.broken == Broken::WritesOverAnyVersion {
            world.version += 1;
            world.durable = state.clone();
            world.leaders[leader] = (state, world.version);
            return true;
        }
        if self.broken == Broken::AnswersBeforeItIsDurable {
            world.leaders[leader].0 = state;
            return true;
        }
        world.leaders[leader] = (world.durable.clone(), world.version);
        false
    }
}

impl Model for Small {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let empty = Budget::default();
        vec![World {
            durable: empty.clone(),
            version: 0,
            leaders: [(empty.clone(), 0), (empty, 0)],
            replicas: Default::default(),
            reports: BTreeSet::new(),
            answers: BTreeSet::new(),
            billed: 0,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (at, replica) in world.replicas.iter().enumerate() {
            actions.push(Action::Ask(at));
            if replica.used + replica.held < replica.granted - replica.returned {
                actions.push(Action::Admit(at));
                if self.faults.gives_back {
                    actions.push(Action::GiveBack(at));
                }
            }
            if replica.held > 0 && self.faults.gives_back {
                actions.push(Action::Settle(at, 0));
                actions.push(Action::Settle(at, 1));
            }
            if replica.boot == 0 && self.faults.crashes {
                actions.push(Action::Crash(at));
            }
            // Also one that lives: who is taken for dead may not be.
            for leader in self.leaders().filter(|_| self.faults.closes) {
                actions.extend((0..=replica.boot).map(|boot| Action::Close { leader, replica: at, boot }));
            }
        }
        for leader in self.leaders() {
            if world.leaders[leader].1 != world.version {
                actions.push(Action::Reload(leader));
            }
            actions.extend(world.reports.iter().map(|(from, numbers)| Action::Deliver {
                leader,
                from: *from,
                numbers: *numbers,
            }));
        }
        actions.extend(world.answers.iter().map(|(replica, boot, granted)| Action::Receive {
            replica: *replica,
            boot: *boot,
            granted: *granted,
        }));
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Ask(at) => {
                let Replica { boot, granted, returned, told_returned, used, held } = world.replicas[at];
                let returned = returned.max(told_returned);
                let step = if self.faults.two_leaders { 1 } else { LIMIT };
                world.reports.insert(((at, boot), [returned, used, held, granted + step, 0]));
            }
            Action::Deliver { leader, from, numbers } => {
                let mut state = world.leaders[leader].0.clone();
                let replica = id(from);
                if self.broken == Broken::TellsDifferences
                    && let Some(account) = state.books.first_mut().and_then(|books| books.accounts.get_mut(&replica))
                {
                    account.returned += numbers[0];
                }
                let asker = Asker { replica: &replica, replicas: 2, now_ms: NOW_MS };
                let synced = state.sync(&terms(), asker, &report(numbers));
                if self.write(&mut world, leader, state) {
                    world.answers.insert((from.0, from.1, synced.answer.granted));
                }
            }
            Action::Receive { replica, boot, granted } => {
                let replica = &mut world.replicas[replica];
                if replica.boot == boot || self.broken == Broken::ResumesTheAccount {
                    replica.granted = replica.granted.max(granted);
                }
            }
            Action::Admit(at) => {
                world.replicas[at].held += 1;
                world.billed += 1;
            }
            Action::Settle(at, cost) => {
                let replica = &mut world.replicas[at];
                replica.held -= 1;
                replica.used += cost;
                world.billed -= 1 - cost;
            }
            Action::GiveBack(at) => {
                let replica = &mut world.replicas[at];
                let idle = replica.granted - replica.returned - replica.used - replica.held;
                if self.broken == Broken::SpendsWhatItGaveBack {
                    replica.told_returned = replica.returned + idle;
                } else {
                    replica.returned += idle;
                }
            }
            Action::Crash(at) => {
                let replica = &mut world.replicas[at];
                if self.broken == Broken::ResumesTheAccount {
                    // The grant is found again, what was spent of it is not.
                    *replica = Replica { boot: 1, granted: replica.granted, ..Replica::default() };
                } else {
                    // The next process proves what the one before spent: holds in flight are charged.
                    let numbers = [replica.returned, replica.used + replica.held, 0, 0, 1];
                    let boot = replica.boot;
                    *replica = Replica { boot: boot + 1, ..Replica::default() };
                    world.reports.insert(((at, boot), numbers));
                }
            }
            Action::Close { leader, replica, boot } => {
                let mut state = world.leaders[leader].0.clone();
                let replica = id((replica, boot));
                if !state.close(&replica) {
                    return None;
                }
                if self.broken == Broken::ClosesAtWhatIsUsed
                    && let Some(account) = state.books.first_mut().and_then(|books| books.accounts.get_mut(&replica))
                {
                    account.returned = account.granted - account.used;
                }
                self.write(&mut world, leader, state);
            }
            Action::Reload(leader) => world.leaders[leader] = (world.durable.clone(), world.version),
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is billed stays within the limit", |_, world: &World| world.billed <= LIMIT),
            Property::sometimes("the whole limit can be spent", |_, world: &World| world.billed == LIMIT),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.version <= 7 && world.reports.len() <= 5
    }
}

/// Explores to a depth; how many states there were.
fn explore(broken: Broken, faults: Faults, depth: usize) -> (usize, bool) {
    let checker = Small { broken, faults }.checker().threads(2).target_max_depth(depth).spawn_bfs().join();
    let breaks = checker.discovery("what is billed stays within the limit").is_some();
    assert!(breaks || checker.discovery("the whole limit can be spent").is_some(), "{faults:?}");
    (checker.unique_state_count(), breaks)
}

#[test]
fn with_its_rules_the_budget_holds_in_every_interleaving() {
    for (faults, depth) in [(LEADERS, 13), (GIVING_BACK, 15), (ENDS, 13), (ALL, 10)] {
        let (states, breaks) = explore(Broken::Nothing, faults, depth);
        assert!(!breaks, "{faults:?}");
        assert!(states > 1_000, "{faults:?}: {states} states");
    }
}

#[test]
fn without_any_one_rule_the_budget_breaks() {
    for (broken, faults, depth) in [
        (Broken::AnswersBeforeItIsDurable, LEADERS, 14),
        (Broken::WritesOverAnyVersion, LEADERS, 14),
        (Broken::SpendsWhatItGaveBack, GIVING_BACK, 16),
        (Broken::TellsDifferences, GIVING_BACK, 16),
        (Broken::ResumesTheAccount, ENDS, 14),
        (Broken::ClosesAtWhatIsUsed, ENDS, 14),
    ] {
        let (states, breaks) = explore(broken, faults, depth);
        assert!(
            breaks,
            "without {broken:?} nothing breaks in {states} states: the rule is not needed, or not modelled"
        );
    }
}
