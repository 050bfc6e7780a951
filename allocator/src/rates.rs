//! Shares of rate limits over the proxies of a gateway. Each proxy counts for itself and lets through its share; who leads
//! moves shares to where the calls are. Nothing here is durable: a minute later all is counted anew. Pure; time comes as
//! milliseconds of any clock that only rises.
//!
//! What holds, and is tested below: at any moment the shares in force, and what was used in minutes that are open (where
//! that is more), add up to the limit at most. So over all proxies a limit admits what one process admits with a window
//! of a minute. It rests on three rules: a share is raised only by what no other proxy may use; one that was lowered is
//! given on only after its proxy said that it holds; and what a proxy used in a minute stays counted until that minute
//! ends. Not covered, each for a minute at most: a limit smaller than the number of proxies (one for each until the leader
//! heard of it), a proxy that starts or ends, and calls that are being counted while a share is lowered (one for each core).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::message::ReplicaId;

/// What a proxy says of one limit: that it is near, that it refused somebody, or that its share is not the usual one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The same in all proxies.
    pub limit: String,
    /// The whole limit; 0: it was not asked for yet.
    pub most: u64,
    /// What the proxy lets through now.
    pub share: u64,
    /// The share is limit / proxies.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_usual: bool,
    /// Used in its open minute; of calls at once: those under way.
    pub used: u64,
    /// Until that minute ends; 0: none is open, or these are calls at once.
    pub resets_in_ms: u64,
    /// What did not fit since the last report.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// It limits calls at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A share that a proxy shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Share {
    pub limit: String,
    /// `None`: the usual one, limit / proxies.
    pub share: Option<u64>,
}

/// What the leader says to a proxy. It answers at once where something changes by it, else as soon as it has something to
/// tell, and after `wait_ms` at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// Another one than before knows nothing of what the proxy told.
    pub leader: String,
    /// How many proxies there are.
    pub replicas: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    pub wait_ms: u64,
}

/// What a proxy answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Telling {
    /// Of all limits of which it was told a share: what it does not report is the usual one, also where it was told
    /// otherwise before it began anew.
    pub reports: Vec<Report>,
}

/// A proxy that heard nothing for so long gives up what it has above the usual shares.
pub const AWAY_MS: u64 = 20_000;

/// And after so long it takes the usual share where it has less. Whoever had more may have heard a leader 20 s later, or
/// the next one 20 s after that and some seconds more before it counts this proxy in, may believe that for 20 s, and have
/// used it in a minute that began then.
pub const RETURN_MS: u64 = 130_000;

/// A proxy that a leader has not heard yet answers within this, or it is one that hears nobody.
const FIRST_WORD_MS: u64 = 5_000;

/// How long a proxy that is not there any more is remembered: what it used counts as long as its minute is open.
const REMEMBERED_MS: u64 = 90_000;

/// A leader that has not heard all proxies raises nothing for so long: until they believe no shares of a leader before,
/// and what they used by them is past.
const SETTLING_MS: u64 = AWAY_MS + 65_000;

/// Traffic is averaged over about so long.
const MEMORY_MS: f64 = 10_000.0;

/// Length of a window.
const MINUTE_MS: f64 = 60_000.0;

/// Shares differ from what they should be by less than this part of the limit: they stay.
const UNIMPORTANT: u64 = 16;

/// The leader's side of one gateway.
#[derive(Debug, Default)]
pub struct Sharing {
    leader: String,
    began_ms: u64,
    replicas: BTreeMap<ReplicaId, Replica>,
    limits: HashMap<String, Limit>,
}

#[derive(Debug)]
struct Replica {
    is_there: bool,
    /// Seen or heard last.
    seen_ms: u64,
    was_heard: bool,
    /// How many proxies it was told that there are.
    told_replicas: u64,
}

/// What is known of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Heard,
    /// Not yet, by this leader.
    Unheard,
    /// It may have gone back to usual shares, or will.
    Silent,
    Gone,
}

impl Life {
    fn of(replica: Option<&Replica>, now_ms: u64) -> Life {
        match replica {
            Some(replica) if !replica.is_there => Life::Gone,
            Some(replica) if replica.was_heard && now_ms < replica.seen_ms + AWAY_MS => Life::Heard,
            Some(replica) if !replica.was_heard && now_ms < replica.seen_ms + FIRST_WORD_MS => Life::Unheard,
            Some(_) | None => Life::Silent,
        }
    }
}

#[derive(Debug, Default)]
struct Limit {
    most: u64,
    at_once: bool,
    accounts: BTreeMap<ReplicaId, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// What it shall have; `None`: the usual.
    told: Option<u64>,
    /// What it may have in force; `None`: the usual.
    holds: Option<u64>,
    /// It said that it holds what it was told.
    is_agreed: bool,
    /// What was said to it last.
    sent: Option<Option<u64>>,
    used: u64,
    window_ends_ms: u64,
    /// Use of late, decaying.
    level: f64,
    level_ms: u64,
    /// Used more than half of its share, or refused somebody.
    is_hungry: bool,
}

impl Sharing {
    /// `leader`: a name that no other leader has.
    pub fn new(leader: String, now_ms: u64) -> Sharing {
        Sharing { leader, began_ms: now_ms, ..Sharing::default() }
    }

    /// Which proxies there are.
    pub fn present(&mut self, there: impl IntoIterator<Item = ReplicaId>, now_ms: u64) {
        for replica in self.replicas.values_mut() {
            replica.is_there = false;
        }
        for id in there {
            let new = Replica { is_there: true, seen_ms: now_ms, was_heard: false, told_replicas: 0 };
            let replica = self.replicas.entry(id).or_insert(new);
            replica.is_there = true;
        }
        let forgotten = |replica: &Replica| !replica.is_there && now_ms >= replica.seen_ms + REMEMBERED_MS;
        if self.replicas.values().any(forgotten) {
            self.replicas.retain(|_, replica| !forgotten(replica));
            let replicas = &self.replicas;
            self.limits.values_mut().for_each(|limit| limit.accounts.retain(|id, _| replicas.contains_key(id)));
        }
    }

    /// How many proxies share limits.
    pub fn count(&self) -> u64 {
        self.replicas.values().filter(|replica| replica.is_there).count().max(1) as u64
    }

    /// What is to be said to a proxy now.
    pub fn tell(&mut self, replica: &ReplicaId, wait_ms: u64) -> Told {
        let replicas = self.count();
        let mut shares = Vec::new();
        // One that was not heard may hold less than the usual share, and would be raised by what is meant to lower it.
        let was_heard = self.replicas.get(replica).is_some_and(|known| known.was_heard);
        for (name, limit) in self.limits.iter_mut().filter(|_| was_heard) {
            let Some(account) = limit.accounts.get_mut(replica).filter(|account| !account.is_agreed) else { continue };
            // From now on it may have this.
            let usual = usual(limit.most, replicas);
            account.holds = Some(account.holds.unwrap_or(usual).max(account.told.unwrap_or(usual)));
            account.sent = Some(account.told);
            shares.push(Share { limit: name.clone(), share: account.told });
        }
        if let Some(replica) = self.replicas.get_mut(replica) {
            replica.told_replicas = replicas;
        }
        Told { leader: self.leader.clone(), replicas, shares, wait_ms }
    }

    /// Whether there is something to be said to a proxy that was not said yet.
    pub fn has_news(&self, replica: &ReplicaId) -> bool {
        let is_new = |account: &Account| !account.is_agreed && account.sent != Some(account.told);
        let of_replica = |limit: &Limit| limit.accounts.get(replica).is_some_and(is_new);
        let Some(known) = self.replicas.get(replica) else { return false };
        known.told_replicas != self.count() || known.was_heard && self.limits.values().any(of_replica)
    }

    /// Takes what a proxy answered, and moves shares of the limits in it. Afterwards [`Sharing::has_news`] says who is to
    /// be told.
    pub fn hear(&mut self, id: &ReplicaId, telling: &Telling, now_ms: u64) {
        let Some(replica) = self.replicas.get_mut(id) else { return };
        replica.seen_ms = now_ms;
        replica.was_heard = true;
        let reported: HashSet<&str> = telling.reports.iter().map(|report| report.limit.as_str()).collect();
        let mut changed = Vec::new();
        for (name, limit) in &mut self.limits {
            let Some(account) = limit.accounts.get_mut(id).filter(|_| !reported.contains(name.as_str())) else {
                continue;
            };
            // It has the usual share, of which it uses less than half.
            account.is_hungry = false;
            if limit.at_once {
                account.used = 0;
            }
            if account.holds.is_some() {
                account.holds = None;
                account.is_agreed = account.told.is_none();
                changed.push(name.clone());
            }
        }
        for report in &telling.reports {
            self.take(id, report, now_ms);
        }
        for name in changed.iter().map(String::as_str).chain(reported) {
            self.look_at(name, now_ms);
        }
    }

    fn take(&mut self, id: &ReplicaId, report: &Report, now_ms: u64) {
        let Report { limit, most, share, is_usual, used, resets_in_ms, refused, at_once } = report;
        let limit = self.limits.entry(limit.clone()).or_default();
        if *most != 0 {
            limit.most = *most;
        }
        limit.at_once = *at_once;
        let account = limit.accounts.entry(id.clone()).or_insert(Account { is_agreed: true, ..Account::default() });
        let holds = (!is_usual).then_some(*share);
        if account.sent.is_none() {
            // Of a leader before.
            account.told = holds;
        }
        account.holds = holds;
        account.is_agreed = account.told == holds;
        let decayed = account.level * (-(now_ms.saturating_sub(account.level_ms) as f64) / MEMORY_MS).exp();
        let ends_ms = now_ms + resets_in_ms;
        account.level = if *at_once {
            decayed.max((used + refused) as f64)
        } else {
            let is_same = account.window_ends_ms.abs_diff(ends_ms) < 2_000;
            let more = if is_same { used.saturating_sub(account.used) } else { *used };
            decayed + (more + refused) as f64
        };
        account.level_ms = now_ms;
        account.used = *used;
        account.window_ends_ms = if *at_once { u64::MAX } else { ends_ms };
        account.is_hungry = *refused > 0 || used.saturating_mul(2) > *share;
    }

    /// Moves shares of all limits, because time passed.
    pub fn look(&mut self, now_ms: u64) {
        let names: Vec<String> = self.limits.keys().cloned().collect();
        for name in names {
            self.look_at(&name, now_ms);
            if self.limits.get(&name).is_some_and(|limit| limit.is_over(now_ms)) {
                self.limits.remove(&name);
            }
        }
    }

    fn look_at(&mut self, name: &str, now_ms: u64) {
        // One that was not heard may have any share that a leader before told it, until it believes that no more.
        let is_settled = self.replicas.values().filter(|replica| replica.is_there).all(|replica| replica.was_heard)
            || now_ms >= self.began_ms + SETTLING_MS;
        let replicas = self.count();
        let Some(limit) = self.limits.get_mut(name) else { return };
        for id in self.replicas.keys() {
            if !limit.accounts.contains_key(id) {
                limit.accounts.insert(id.clone(), Account { is_agreed: true, ..Account::default() });
            }
        }
        limit.aim(&self.replicas, replicas, is_settled, now_ms);
    }

    /// Limits that are being moved or watched.
    pub fn watched(&self) -> usize {
        self.limits.len()
    }
}

/// The share of who was told nothing.
pub fn usual(most: u64, replicas: u64) -> u64 {
    (most / replicas.max(1)).max(1)
}

impl Account {
    fn demand(&self, at_once: bool, most: u64, now_ms: u64) -> f64 {
        let decayed = self.level * (-(now_ms.saturating_sub(self.level_ms) as f64) / MEMORY_MS).exp();
        let demand = if at_once { decayed } else { decayed * MINUTE_MS / MEMORY_MS };
        demand.min(most as f64)
    }

    /// The most that it may use, or has used in a minute that is open.
    fn committed(&self, usual: u64, life: Life, now_ms: u64) -> u64 {
        let told = self.holds.unwrap_or(usual).max(self.told.unwrap_or(usual));
        let holds = match life {
            Life::Heard => told,
            Life::Unheard | Life::Silent => told.max(usual),
            Life::Gone => 0,
        };
        if now_ms < self.window_ends_ms { holds.max(self.used) } else { holds }
    }

    /// Its proxy is gone: of what it had only counts what it used.
    fn bury(&mut self, at_once: bool) {
        let Account { used, window_ends_ms, .. } = *self;
        let used = if at_once { 0 } else { used };
        *self = Account { is_agreed: true, used, window_ends_ms, ..Account::default() };
    }
}

impl Limit {
    /// Whether all is as it is where nobody says anything.
    fn is_over(&self, now_ms: u64) -> bool {
        self.accounts.values().all(|account| {
            let is_idle = if self.at_once { account.used == 0 } else { account.window_ends_ms <= now_ms };
            account.told.is_none() && account.holds.is_none() && account.is_agreed && !account.is_hungry && is_idle
        })
    }

    fn aim(&mut self, known: &BTreeMap<ReplicaId, Replica>, replicas: u64, is_settled: bool, now_ms: u64) {
        let Limit { most, at_once, accounts } = self;
        let (most, at_once) = (*most, *at_once);
        let usual = usual(most, replicas);
        let lives: Vec<Life> = accounts.keys().map(|id| Life::of(known.get(id), now_ms)).collect();
        for (account, life) in accounts.values_mut().zip(&lives) {
            if *life == Life::Gone {
                account.bury(at_once);
            }
            // More was meant for it and not said yet: what was free may not be so any more.
            if account.told.unwrap_or(usual) > account.holds.unwrap_or(usual) {
                account.told = account.holds;
                account.is_agreed = true;
            }
            // It has not said anything since; what it used may be past.
            if now_ms >= account.window_ends_ms && account.level_ms + MINUTE_MS as u64 <= now_ms {
                account.is_hungry = false;
            }
        }
        let aims = aims(accounts, &lives, (most, usual), at_once, now_ms);
        let is_hungry = accounts.values().any(|account| account.is_hungry);
        let is_quiet = aims.is_none();
        for (at, account) in accounts.values_mut().enumerate() {
            let aim = aims.as_ref().map_or(usual, |aims| aims[at]);
            let told = account.told.unwrap_or(usual);
            let is_off = is_quiet || is_hungry || told.abs_diff(aim) > most / UNIMPORTANT;
            if aim < told && is_off && lives[at] != Life::Gone {
                account.tell(aim, usual, is_quiet);
            }
        }
        if !is_settled {
            return;
        }
        // The hungriest first.
        let mut accounts: Vec<&mut Account> = accounts.values_mut().collect();
        let mut order: Vec<(u64, usize, u64)> = (0..accounts.len())
            .filter(|at| lives[*at] != Life::Gone)
            .map(|at| {
                let aim = aims.as_ref().map_or(usual, |aims| aims[at]);
                (aim.saturating_sub(accounts[at].told.unwrap_or(usual)), at, aim)
            })
            .filter(|(missing, ..)| *missing > 0)
            .collect();
        order.sort_by_key(|(missing, ..)| std::cmp::Reverse(*missing));
        for (missing, at, aim) in order {
            let committed = |at: usize| accounts[at].committed(usual, lives[at], now_ms);
            let all: u64 = (0..accounts.len()).map(committed).sum();
            // What it holds itself is its own already, as far as it is more than it was told last.
            let own = committed(at);
            let account = &mut *accounts[at];
            let told = account.told.unwrap_or(usual);
            let free = most.saturating_add(own - told.min(own)).saturating_sub(all);
            let more = if is_quiet && most < replicas { missing } else { missing.min(free) };
            let is_off = is_quiet || is_hungry || missing > most / UNIMPORTANT;
            if more > 0 && is_off {
                account.tell(told + more, usual, is_quiet && told + more == aim);
            }
        }
    }
}

impl Account {
    /// `is_usual`: it goes back to what it had before anybody said anything.
    fn tell(&mut self, share: u64, usual: u64, is_usual: bool) {
        let told = if is_usual && share == usual { None } else { Some(share) };
        if told != self.told {
            self.told = told;
            self.is_agreed = self.holds == told;
        }
    }
}

/// What each should have: shares by demand; what nobody demands is for all alike. Of a silent one nothing can be had.
/// `None`: nobody wants anything.
fn aims(
    accounts: &BTreeMap<ReplicaId, Account>,
    lives: &[Life],
    (most, usual): (u64, u64),
    at_once: bool,
    now_ms: u64,
) -> Option<Vec<u64>> {
    let demand = |(account, life): (&Account, &Life)| match life {
        Life::Heard | Life::Unheard => account.demand(at_once, most, now_ms),
        Life::Silent | Life::Gone => 0.0,
    };
    let demands: Vec<f64> = accounts.values().zip(lives).map(demand).collect();
    let total: f64 = demands.iter().sum();
    let is_open = accounts.values().any(|account| account.used > 0 && now_ms < account.window_ends_ms);
    if total < 0.5 && !is_open {
        return None;
    }
    let of_silent = accounts.values().zip(lives).filter(|(_, life)| **life == Life::Silent);
    let kept: u64 = of_silent.map(|(account, _)| account.holds.unwrap_or(usual).max(usual)).sum();
    let most = most.saturating_sub(kept);
    let is_reached = |life: &Life| matches!(life, Life::Heard | Life::Unheard);
    let there = lives.iter().filter(|life| is_reached(life)).count().max(1);
    let spare = (most as f64 - total).max(0.0) / there as f64;
    let scale = if total > most as f64 { most as f64 / total } else { 1.0 };
    let mut aims: Vec<u64> = demands.iter().map(|demand| (demand * scale + spare) as u64).collect();
    for ((aim, life), account) in aims.iter_mut().zip(lives).zip(accounts.values()) {
        match life {
            Life::Heard | Life::Unheard => {}
            // Whatever is told it is not heard.
            Life::Silent => *aim = account.told.unwrap_or(usual),
            Life::Gone => *aim = 0,
        }
    }
    let sum: u64 = aims.iter().zip(lives).filter(|(_, life)| is_reached(life)).map(|(aim, _)| *aim).sum();
    // What was rounded away is for the one with the largest demand.
    let largest =
        (0..demands.len()).filter(|at| is_reached(&lives[*at])).max_by(|a, b| demands[*a].total_cmp(&demands[*b]));
    if let Some(largest) = largest {
        aims[largest] = aims[largest].saturating_add(most.saturating_sub(sum));
    }
    Some(aims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: &str = "key a/b requests";
    const MINUTE: u64 = 60_000;

    /// A proxy as the data plane has it: a window of a minute that begins with its first call, and a share.
    #[derive(Debug, Default)]
    struct Proxy {
        share: Option<u64>,
        replicas: u64,
        used: u64,
        window_began: Option<u64>,
        refused: u64,
        heard_at: u64,
        unsaid: bool,
    }

    impl Proxy {
        fn cap(&self, most: u64) -> u64 {
            self.share.unwrap_or_else(|| usual(most, self.replicas)).min(most)
        }

        fn open(&self, now: u64) -> u64 {
            if self.window_began.is_some_and(|began| now < began + MINUTE) { self.used } else { 0 }
        }

        fn call(&mut self, most: u64, now: u64) -> bool {
            let used = self.open(now);
            if used >= self.cap(most) {
                self.refused += 1;
                return false;
            }
            if used == 0 {
                self.window_began = Some(now);
            }
            self.used = used + 1;
            true
        }

        fn hear(&mut self, told: &Told, now: u64) {
            self.heard_at = now;
            self.replicas = told.replicas;
            for Share { share, .. } in &told.shares {
                self.share = *share;
                self.unsaid = true;
            }
        }

        /// Nobody may have said anything for long.
        fn notice_absence(&mut self, most: u64, now: u64) {
            let silence = now - self.heard_at;
            let usual = usual(most, self.replicas);
            if silence >= RETURN_MS || silence >= AWAY_MS && self.share.is_some_and(|share| share >= usual) {
                self.share = None;
            }
        }

        fn report(&mut self, most: u64, now: u64) -> Vec<Report> {
            let used = self.open(now);
            let refused = std::mem::take(&mut self.refused);
            let unsaid = std::mem::take(&mut self.unsaid);
            if self.share.is_none() && refused == 0 && !unsaid && used * 2 <= self.cap(most) {
                return Vec::new();
            }
            let resets_in_ms = self.window_began.map_or(0, |began| (began + MINUTE).saturating_sub(now));
            vec![Report {
                limit: LIMIT.to_owned(),
                most,
                share: self.cap(most),
                is_usual: self.share.is_none(),
                used,
                resets_in_ms,
                refused,
                at_once: false,
            }]
        }
    }

    struct World {
        sharing: Sharing,
        proxies: Vec<Proxy>,
        most: u64,
        now: u64,
        admitted: Vec<u64>,
    }

    fn id(at: usize) -> ReplicaId {
        ReplicaId(format!("proxy-{at}"))
    }

    impl World {
        fn new(proxies: usize, most: u64) -> World {
            let mut sharing = Sharing::new("one".to_owned(), 0);
            sharing.present((0..proxies).map(id), 0);
            let proxy = || Proxy { replicas: proxies as u64, ..Proxy::default() };
            let mut world =
                World { sharing, proxies: (0..proxies).map(|_| proxy()).collect(), most, now: 0, admitted: Vec::new() };
            (0..proxies).for_each(|at| world.exchange(at));
            world
        }

        /// One question and its answer.
        fn exchange(&mut self, at: usize) {
            let told = self.sharing.tell(&id(at), 0);
            let proxy = &mut self.proxies[at];
            proxy.hear(&told, self.now);
            let reports = proxy.report(self.most, self.now);
            self.sharing.hear(&id(at), &Telling { reports }, self.now);
        }

        /// Time passes, and is noticed as often as the data plane looks.
        fn wait(&mut self, ms: u64) {
            let until = self.now + ms;
            while self.now < until {
                self.now = until.min(self.now + 1_000);
                self.sharing.look(self.now);
                for proxy in &mut self.proxies {
                    proxy.notice_absence(self.most, self.now);
                }
            }
        }

        /// All that is to be said is said.
        fn settle(&mut self) {
            for _ in 0..20 {
                for at in 0..self.proxies.len() {
                    if self.sharing.has_news(&id(at)) {
                        self.exchange(at);
                    }
                }
            }
        }

        fn call(&mut self, at: usize) -> bool {
            let is_in = self.proxies[at].call(self.most, self.now);
            if is_in {
                self.admitted.push(self.now);
            }
            is_in
        }

        fn held(&self) -> u64 {
            self.proxies.iter().map(|proxy| proxy.cap(self.most).max(proxy.open(self.now))).sum()
        }

        fn most_in_a_minute(&self) -> usize {
            let count = |from: &u64| self.admitted.iter().filter(|at| (*from..from + MINUTE).contains(*at)).count();
            self.admitted.iter().map(count).max().unwrap_or(0)
        }
    }

    #[test]
    fn a_client_of_one_proxy_gets_the_whole_limit() {
        let mut world = World::new(3, 90);
        // Twenty in a second, which the proxies tell each time half of what is left is gone.
        let mut admitted = 0;
        for _ in 0..100 {
            world.now += 50;
            admitted += u64::from(world.call(0));
            world.exchange(0);
            world.settle();
        }
        assert_eq!(admitted, 90);
        assert!(!world.call(1), "nothing is left for others in this minute");
        world.exchange(1);
        world.settle();
        assert!(world.held() <= 90);
        // A minute later the other one gets what it asks for, and in the end everybody has the usual share again.
        world.now += MINUTE;
        for _ in 0..40 {
            world.wait(1_000);
            (0..3).for_each(|at| world.exchange(at));
            world.settle();
        }
        assert!((0..20).all(|_| world.call(1)));
        for _ in 0..200 {
            world.wait(1_000);
            (0..3).for_each(|at| world.exchange(at));
            world.settle();
        }
        assert_eq!(world.proxies.iter().map(|proxy| proxy.share).collect::<Vec<_>>(), [None; 3]);
        assert_eq!(world.sharing.watched(), 0);
    }

    #[test]
    fn shares_follow_demand() {
        let mut world = World::new(2, 100);
        for tick in 0..600 {
            world.now += 100;
            // Three calls here for one there, together more than the limit.
            world.call(0);
            world.call(0);
            world.call(0);
            if tick % 2 == 0 {
                world.call(1);
                world.call(1);
            }
            (0..2).for_each(|at| world.exchange(at));
        }
        let shares: Vec<u64> = world.proxies.iter().map(|proxy| proxy.cap(100)).collect();
        assert!(shares[0] >= 50 && shares[1] >= 20 && shares[0] + shares[1] <= 100, "{shares:?}");
    }

    #[test]
    fn calls_at_once_are_shared_by_those_under_way() {
        let mut sharing = Sharing::new("one".to_owned(), 0);
        sharing.present([id(0), id(1)], 0);
        let report = |share, used, is_usual, refused| Telling {
            reports: vec![Report {
                limit: "key a/b max_parallel_requests".to_owned(),
                most: 10,
                share,
                is_usual,
                used,
                refused,
                at_once: true,
                ..Report::default()
            }],
        };
        sharing.hear(&id(1), &Telling::default(), 0);
        sharing.hear(&id(0), &report(5, 5, true, 3), 0);
        assert_eq!(sharing.tell(&id(0), 0).shares, [], "the other one has its part still");
        let to_other = sharing.tell(&id(1), 0).shares;
        let share = to_other[0].share.unwrap();
        assert!(share < 5, "{to_other:?}");
        sharing.hear(&id(1), &report(share, 0, false, 0), 1);
        assert_eq!(sharing.tell(&id(0), 0).shares[0].share, Some(10 - share));
        // When all have ended, nobody has anything but the usual share, and nothing is remembered.
        sharing.hear(&id(0), &report(10 - share, 0, false, 0), 2);
        for second in 1..60 {
            let now = second * 1_000;
            sharing.look(now);
            for at in 0..2 {
                let told = sharing.tell(&id(at), 0).shares;
                let telling = match told.first().map(|told| told.share) {
                    Some(Some(share)) => report(share, 0, false, 0),
                    Some(None) => report(5, 0, true, 0),
                    None => continue,
                };
                sharing.hear(&id(at), &telling, now);
            }
        }
        assert_eq!(sharing.watched(), 0);
    }

    #[test]
    fn a_new_leader_raises_nothing_before_it_has_heard_all() {
        let mut world = World::new(2, 100);
        for _ in 0..80 {
            world.now += 10;
            world.call(0);
            world.exchange(0);
            world.settle();
        }
        assert!(world.proxies[0].cap(100) > 80);
        // The next one hears of the second proxy first, which wants more.
        world.sharing = Sharing::new("two".to_owned(), world.now);
        world.sharing.present([id(0), id(1)], world.now);
        for _ in 0..30 {
            world.call(1);
        }
        world.exchange(1);
        world.exchange(1);
        assert!(world.held() <= 100, "{}", world.held());
        world.exchange(0);
        world.settle();
        assert!(world.held() <= 100, "{}", world.held());
    }

    #[test]
    fn a_process_that_starts_again_has_the_usual_share() {
        let mut world = World::new(2, 100);
        for _ in 0..100 {
            world.now += 10;
            world.call(0);
            world.exchange(0);
            world.settle();
        }
        world.proxies[0] = Proxy { replicas: 2, ..Proxy::default() };
        world.exchange(0);
        world.settle();
        assert!(world.proxies.iter().map(|proxy| proxy.cap(100)).sum::<u64>() <= 100);
    }

    #[test]
    fn of_one_that_is_gone_counts_what_it_used_until_its_minute_is_over() {
        let mut world = World::new(2, 100);
        for _ in 0..70 {
            world.now += 10;
            world.call(0);
            world.exchange(0);
            world.settle();
        }
        assert!(world.proxies[0].cap(100) > 90);
        world.sharing.present([id(1)], world.now);
        assert_eq!(world.sharing.count(), 1);
        let mut admitted = 0;
        for _ in 0..100 {
            admitted += u64::from(world.call(1));
            world.exchange(1);
        }
        assert_eq!(admitted, 30);
        world.now += MINUTE;
        for _ in 0..100 {
            admitted += u64::from(world.call(1));
            world.exchange(1);
        }
        assert_eq!(admitted, 130);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Calls(usize, u8),
        Exchange(usize),
        /// The question arrived, the answer did not.
        LostAnswer(usize),
        LostQuestion(usize),
        Wait(u64),
        Leader,
    }

    fn steps(proxies: usize) -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0..proxies, 1u8..30).prop_map(|(at, calls)| Step::Calls(at, calls)),
            6 => (0..proxies).prop_map(Step::Exchange),
            1 => (0..proxies).prop_map(Step::LostAnswer),
            1 => (0..proxies).prop_map(Step::LostQuestion),
            4 => (1u64..5_000).prop_map(Step::Wait),
            1 => (20_000u64..140_000).prop_map(Step::Wait),
            1 => Just(Step::Leader),
        ];
        proptest::collection::vec(step, 1..250)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Whatever is lost, late or asked for, and whoever leads: shares in force and what open minutes have used add up to
        /// the limit, and no minute sees more than twice the limit, as with one window.
        #[test]
        fn the_sum_stays_at_the_limit(most in 4u64..120, steps in steps(4)) {
            let mut world = World::new(4, most);
            let mut leaders = 1;
            for step in steps {
                match step {
                    Step::Calls(at, calls) => (0..calls).for_each(|_| { world.call(at); }),
                    Step::Exchange(at) => world.exchange(at),
                    Step::LostAnswer(at) => {
                        let told = world.sharing.tell(&id(at), 0);
                        // It does not know that it was not heard.
                        let (most, now) = (world.most, world.now);
                        world.proxies[at].hear(&told, now);
                        world.proxies[at].report(most, now);
                    }
                    Step::LostQuestion(at) => {
                        world.sharing.tell(&id(at), 0);
                    }
                    Step::Wait(ms) => world.wait(ms),
                    Step::Leader => {
                        leaders += 1;
                        world.sharing = Sharing::new(format!("leader-{leaders}"), world.now);
                        world.sharing.present((0..4).map(id), world.now);
                                    }
                }
                prop_assert!(world.held() <= most, "{} of {most}", world.held());
            }
            prop_assert!(world.most_in_a_minute() as u64 <= 2 * most);
        }

        /// Where all is said, whoever has all the traffic has all of the limit.
        #[test]
        fn all_of_the_limit_is_where_the_calls_are(most in 4u64..200, proxies in 2usize..6, quiet in 0u64..100_000) {
            let mut world = World::new(proxies, most);
            world.now = quiet;
            (0..proxies).for_each(|at| world.exchange(at));
            let mut admitted = 0;
            for _ in 0..2 * most {
                world.now += 20;
                admitted += u64::from(world.call(1));
                world.exchange(1);
                world.settle();
            }
            prop_assert_eq!(admitted, most);
        }
    }
}
