//! What keys, teams and deployments used in a month, told by the proxies of a gateway to who leads, each amount exactly
//! once. A proxy writes sums into an open batch, together with the rows that they come from; it closes a batch before it
//! tells it, so that a batch of one number is the same whenever it is told, and keeps it until it was taken. Who leads
//! adds a batch to the shards of its names; each shard remembers which batches are in it, and is written whole over the
//! version that it was computed from. So whatever is lost, doubled, or done by two leaders at once, a batch is in a shard
//! once; and a proxy hears that one was taken only when every shard with a part of it is durable. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a sum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Of {
    Key,
    Team,
    Deployment,
}

/// What was used of one thing in one month, by attempts that ended. A part of the whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    pub of: Of,
    /// `namespace/name`
    pub name: String,
    pub month: Month,
    /// As budgets count them: attempts that a provider answered or was charged for.
    pub requests: i64,
    pub tokens: i64,
    pub nano_usd: i64,
}

/// A month of UTC, as in 202611.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Month(pub i32);

impl Month {
    /// Of a moment in Unix milliseconds. Moments that no calendar has belong to the first month.
    pub fn of(unix_ms: i64) -> Month {
        let moment = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
        let date = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
        Month(i32::from(date.year()) * 100 + i32::from(date.month()))
    }

    /// When the month after that of this moment begins. Both in Unix seconds.
    pub fn ends_after(unix_seconds: i64) -> i64 {
        let moment = jiff::Timestamp::from_second(unix_seconds).unwrap_or_default();
        let date = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
        let next = date.first_of_month().checked_add(jiff::Span::new().months(1)).ok();
        let next = next.and_then(|next| next.to_zoned(jiff::tz::TimeZone::UTC).ok());
        next.map_or(i64::MAX, |next| next.timestamp().as_second())
    }
}

/// Sums that are told together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Batch {
    /// From 1; of one source each is told before the next one.
    pub number: u64,
    pub sums: Vec<Sum>,
}

/// What a proxy is asked with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// As it called itself; empty: it was not heard yet.
    pub source: String,
    /// Its batches up to this one are taken for good.
    pub taken: u64,
}

/// What it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The database that the batches lie in, which no other has: numbers of two databases have nothing to do with each
    /// other.
    pub source: String,
    /// All that are not taken yet, in order.
    pub batches: Vec<Batch>,
}

/// What one thing used in the month that it was used last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(Month, i64, i64, i64)", into = "(Month, i64, i64, i64)")]
pub struct Totals {
    pub month: Month,
    pub requests: i64,
    pub tokens: i64,
    pub nano_usd: i64,
}

impl From<(Month, i64, i64, i64)> for Totals {
    fn from((month, requests, tokens, nano_usd): (Month, i64, i64, i64)) -> Totals {
        Totals { month, requests, tokens, nano_usd }
    }
}

impl From<Totals> for (Month, i64, i64, i64) {
    fn from(Totals { month, requests, tokens, nano_usd }: Totals) -> (Month, i64, i64, i64) {
        (month, requests, tokens, nano_usd)
    }
}

impl Totals {
    /// Begins anew with a later month; what is of an earlier one counts no more.
    fn add(&mut self, sum: &Sum) {
        if sum.month > self.month {
            *self = Totals { month: sum.month, ..Totals::default() };
        }
        if sum.month == self.month {
            self.requests = self.requests.saturating_add(sum.requests);
            self.tokens = self.tokens.saturating_add(sum.tokens);
            self.nano_usd = self.nano_usd.saturating_add(sum.nano_usd);
        }
    }
}

/// Totals of the names that fall to it, and what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Shard {
    /// Of each source, the last batch that had something for this shard.
    pub taken: BTreeMap<String, u64>,
    pub keys: BTreeMap<String, Totals>,
    pub teams: BTreeMap<String, Totals>,
    pub deployments: BTreeMap<String, Totals>,
}

impl Shard {
    /// Adds the part of a batch that falls to this shard, unless it is in it. Answers whether it was not.
    pub fn take<'s>(&mut self, source: &str, number: u64, sums: impl IntoIterator<Item = &'s Sum>) -> bool {
        let taken = self.taken.entry(source.to_owned()).or_default();
        if *taken >= number {
            return false;
        }
        *taken = number;
        for sum in sums {
            let totals = self.totals_mut(sum.of);
            match totals.get_mut(&sum.name) {
                Some(known) => known.add(sum),
                None => totals.entry(sum.name.clone()).or_default().add(sum),
            }
        }
        true
    }

    pub fn totals(&self, of: Of) -> &BTreeMap<String, Totals> {
        match of {
            Of::Key => &self.keys,
            Of::Team => &self.teams,
            Of::Deployment => &self.deployments,
        }
    }

    fn totals_mut(&mut self, of: Of) -> &mut BTreeMap<String, Totals> {
        match of {
            Of::Key => &mut self.keys,
            Of::Team => &mut self.teams,
            Of::Deployment => &mut self.deployments,
        }
    }

    /// Forgets sources that never come back, and what was used before `month`. Answers whether anything went.
    pub fn forget(&mut self, month: Month, is_gone: impl Fn(&str) -> bool) -> bool {
        let size = |shard: &Shard| {
            let Shard { taken, keys, teams, deployments } = shard;
            taken.len() + keys.len() + teams.len() + deployments.len()
        };
        let before = size(self);
        self.taken.retain(|source, _| !is_gone(source));
        for totals in [&mut self.keys, &mut self.teams, &mut self.deployments] {
            totals.retain(|_, totals| totals.month >= month);
        }
        size(self) != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: usize = 3;

    fn sum(name: usize, month: i32, nano_usd: i64) -> Sum {
        let name = name.to_string();
        Sum { of: Of::Key, name, month: Month(month), requests: 1, tokens: nano_usd * 2, nano_usd }
    }

    fn shard_of(sum: &Sum) -> usize {
        sum.name.parse::<usize>().unwrap() % SHARDS
    }

    #[test]
    fn months_are_of_the_calendar() {
        let moment = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        for (text, month) in [("2026-11-30T23:59:59Z", 202_611), ("2026-12-01T00:00:00Z", 202_612)] {
            assert_eq!(Month::of(moment(text).as_millisecond()), Month(month));
        }
        let end = Month::ends_after(moment("2026-12-05T01:02:03Z").as_second());
        assert_eq!(end, moment("2027-01-01T00:00:00Z").as_second());
    }

    #[test]
    fn a_later_month_begins_anew_and_an_earlier_one_counts_no_more() {
        let mut shard = Shard::default();
        shard.take("a", 1, &[sum(1, 202_611, 5), sum(1, 202_612, 7), sum(1, 202_611, 9), sum(1, 202_612, 1)]);
        let expected = Totals { month: Month(202_612), requests: 2, tokens: 16, nano_usd: 8 };
        assert_eq!(shard.keys["1"], expected);
        assert!(!shard.forget(Month(202_612), |_| false));
        assert!(shard.forget(Month(202_701), |source| source == "a"));
        assert_eq!(shard, Shard::default());
    }

    #[test]
    fn a_shard_is_read_as_it_was_written() {
        let mut shard = Shard::default();
        shard.take("pod/a", 3, &[sum(1, 202_611, 5)]);
        let text = serde_json::to_string(&shard).unwrap();
        let expected = r#"{"taken":{"pod/a":3},"keys":{"1":[202611,1,10,5]},"teams":{},"deployments":{}}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Shard>(&text).unwrap(), shard);
    }

    /// A proxy's side, as the ledger does it.
    #[derive(Default)]
    struct Source {
        name: String,
        closed: Vec<Batch>,
        open: Vec<Sum>,
        next: u64,
        nano_usd: i64,
    }

    impl Source {
        fn told(&mut self, taken: u64) -> Told {
            self.closed.retain(|batch| batch.number > taken);
            if !self.open.is_empty() {
                self.next += 1;
                self.closed.push(Batch { number: self.next, sums: std::mem::take(&mut self.open) });
            }
            Told { source: self.name.clone(), batches: self.closed.clone() }
        }
    }

    /// Who leads, or believes to: shards as it knows them, the version that each was read at, and which shards each batch
    /// still waits for.
    #[derive(Default)]
    struct Leader {
        shards: Vec<(u64, Shard)>,
        waits: BTreeMap<(usize, u64), Vec<usize>>,
        heard: BTreeMap<usize, u64>,
    }

    impl Leader {
        fn taken(&self, source: usize) -> u64 {
            let waits = self.waits.range((source, 0)..(source + 1, 0)).next();
            waits.map_or_else(|| self.heard.get(&source).copied().unwrap_or(0), |((_, number), _)| number - 1)
        }

        fn take(&mut self, source: usize, told: &Told) {
            for Batch { number, sums } in &told.batches {
                for at in 0..SHARDS {
                    let part: Vec<&Sum> = sums.iter().filter(|sum| shard_of(sum) == at).collect();
                    if !part.is_empty() && self.shards[at].1.take(&told.source, *number, part) {
                        self.waits.entry((source, *number)).or_default().push(at);
                    }
                }
                let heard = self.heard.entry(source).or_default();
                *heard = (*heard).max(*number);
            }
        }
    }

    /// Answers are lost and late, leaders die and go on beside each other: what is written in the end is what was used.
    #[test]
    fn whatever_happens_each_amount_is_counted_once() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sources: Vec<Source> =
                (0..2).map(|at| Source { name: format!("s{at}"), ..Source::default() }).collect();
            let mut stored: Vec<(u64, Shard)> = vec![Default::default(); SHARDS];
            let fresh = |stored: &[(u64, Shard)]| Leader { shards: stored.to_vec(), ..Leader::default() };
            let mut leaders = [fresh(&stored), fresh(&stored)];
            let mut late: Vec<(usize, usize, Told)> = Vec::new();
            let write = |leader: &mut Leader, stored: &mut Vec<(u64, Shard)>, at: usize| {
                if stored[at].0 == leader.shards[at].0 {
                    leader.shards[at].0 += 1;
                    stored[at] = leader.shards[at].clone();
                    leader.waits.retain(|_, waits| {
                        waits.retain(|waits| *waits != at);
                        !waits.is_empty()
                    });
                } else {
                    *leader = fresh(stored);
                }
            };
            for _ in 0..60 {
                let (source, leader) = (random.usize(..2), random.usize(..2));
                match random.u8(..6) {
                    0 | 1 => {
                        let amount = random.i64(1..100);
                        sources[source].nano_usd += amount;
                        sources[source].open.push(sum(random.usize(..6), 202_611, amount));
                    }
                    2 => {
                        let told = sources[source].told(leaders[leader].taken(source));
                        late.push((leader, source, told));
                    }
                    3 if !late.is_empty() => {
                        let (leader, source, told) = late.swap_remove(random.usize(..late.len()));
                        leaders[leader].take(source, &told);
                    }
                    4 => write(&mut leaders[leader], &mut stored, random.usize(..SHARDS)),
                    _ if random.u8(..8) == 0 => {
                        // It dies, and what it was told with it; or what it was told is lost.
                        late.retain(|(to, _, _)| *to != leader);
                        leaders[leader] = fresh(&stored);
                    }
                    _ => drop((!late.is_empty()).then(|| late.swap_remove(random.usize(..late.len())))),
                }
            }
            let mut last = fresh(&stored);
            for (at, source) in sources.iter_mut().enumerate() {
                last.take(at, &source.told(0));
            }
            (0..SHARDS).for_each(|at| write(&mut last, &mut stored, at));
            let counted: i64 = stored.iter().flat_map(|(_, shard)| shard.keys.values()).map(|one| one.nano_usd).sum();
            let used: i64 = sources.iter().map(|source| source.nano_usd).sum();
            assert_eq!(counted, used, "seed {seed}");
        }
    }
}
