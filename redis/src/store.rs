//! I/O: reports to the server, answers back. One call of the script for each shard that has reports, all at once.

use std::time::Duration;

use futures_util::future::join_all;
use redis::Script;
use tollgate_allocator::{Answers, Batch, Kind, Mode, Period, ReplicaId, Report, Terms, Unit};

use crate::address::Address;
use crate::connection::{Connection, StoreError};
use crate::decode::{Decided, Header, decode};
use crate::keys::{GatewayKeys, SHARDS, shard_of};
use crate::memory::{Memory, Place};

/// Numbers that the script counts exactly: doubles do to 2^53. Nine million USD, and a larger limit counts as this one.
pub const MOST: i64 = 9_000_000_000_000_000;

/// Reports in one call: the server serves nobody else meanwhile, about half a millisecond.
const TOGETHER: usize = 32;

/// What came of an exchange.
#[derive(Debug, Default)]
pub struct Exchanged {
    pub answers: Vec<Answers>,
    /// Of each shard that answered.
    pub headers: Vec<(usize, Header)>,
    pub decided: Vec<(ReplicaId, Decided)>,
    /// Some shard did not answer.
    pub failed: Option<StoreError>,
}

/// The way to the books of one gateway.
pub struct Store {
    connection: Connection,
    script: Script,
    keys: GatewayKeys,
}

/// One call of the script.
struct Call<'a> {
    shard: usize,
    replica: &'a ReplicaId,
    reports: Vec<&'a Report>,
    limits: Vec<i64>,
    keys: Vec<String>,
    arguments: Vec<String>,
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn open(address: &Address, keys: GatewayKeys) -> Result<Store, StoreError> {
        let connection = Connection::open(address).await?;
        Ok(Store { connection, script: Script::new(include_str!("sync.lua")), keys })
    }

    pub(crate) fn keys(&self) -> &GatewayKeys {
        &self.keys
    }

    /// Clones share what is under way.
    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    pub fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    /// What may make the server forget: for people, `None` where nothing does.
    ///
    /// # Errors
    /// It does not say.
    pub async fn eviction(&mut self) -> Result<Option<String>, StoreError> {
        let value = self.connection.query(redis::cmd("INFO").arg("memory")).await?;
        let info: String = redis::from_redis_value(value).unwrap_or_default();
        let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let policy = of("maxmemory_policy").filter(|policy| *policy != "noeviction");
        Ok(policy.filter(|_| of("maxmemory") != Some("0")).map(str::to_owned))
    }

    /// Tells reports, and what was decided about them. `told`: for each shard, the epoch of which the replicas have told
    /// everything. `signs`: also a sign of life of this replica to each shard. `terms`: of a budget, where it is known.
    pub async fn exchange(
        &self,
        batches: &[Batch],
        memory: &mut Memory,
        told: &[i64; SHARDS],
        signs: Option<&ReplicaId>,
        terms: &(dyn Fn(&str) -> Option<Terms> + Sync),
        deadline: Duration,
    ) -> Exchanged {
        let calls = self.calls(batches, memory, told, signs, terms);
        for call in &calls {
            call.reports.iter().for_each(|report| memory.sent(call.replica, report));
        }
        let answers = join_all(calls.iter().map(|call| {
            let mut connection = self.connection.clone();
            async move {
                let answer = connection.run(&self.script, &call.keys, &call.arguments);
                let value = tokio::time::timeout(deadline, answer).await.map_err(|_| StoreError::Late(deadline))??;
                decode(value, &call.reports, &call.limits)
            }
        }))
        .await;
        let mut exchanged = Exchanged::default();
        for (call, answer) in calls.iter().zip(answers) {
            let Call { shard, replica, reports, .. } = call;
            let (header, decided) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    exchanged.failed = Some(error);
                    continue;
                }
            };
            for (report, one) in reports.iter().zip(&decided) {
                let place = Place { epoch: header.epoch, seq: one.seq, doubt: header.doubt };
                memory.answered(replica, report, &one.answer, place);
            }
            memory.forget(header.now_ms.div_euclid(1000));
            let answers = decided.iter().map(|one| one.answer.clone()).collect();
            exchanged.answers.push(Answers { replica: (*replica).clone(), answers });
            exchanged.decided.extend(decided.into_iter().map(|one| ((*replica).clone(), one)));
            exchanged.headers.push((*shard, header));
        }
        exchanged
    }

    fn calls<'a>(
        &self,
        batches: &'a [Batch],
        memory: &Memory,
        told: &[i64; SHARDS],
        signs: Option<&'a ReplicaId>,
        terms: &(dyn Fn(&str) -> Option<Terms> + Sync),
    ) -> Vec<Call<'a>> {
        let mut calls: Vec<Call<'a>> = Vec::new();
        let begin = |shard: usize, replica: &'a ReplicaId| Call {
            shard,
            replica,
            reports: Vec::new(),
            limits: Vec::new(),
            keys: self.keys.shard(shard).to_vec(),
            arguments: vec![replica.0.clone(), told[shard].to_string()],
        };
        for Batch { replica, reports } in batches {
            let mut by_shard: [Vec<&Report>; SHARDS] = Default::default();
            for report in reports {
                by_shard[shard_of(&report.budget)].push(report);
            }
            for (shard, reports) in by_shard.iter().enumerate() {
                for some in reports.chunks(TOGETHER) {
                    let mut call = begin(shard, replica);
                    for report in some.iter().copied() {
                        let terms = terms(&report.budget);
                        call.keys.push(self.keys.budget(shard, &report.budget));
                        call.limits.push(terms.as_ref().map_or(0, |terms| terms.limit));
                        encode(report, replica, terms, memory, &mut call.arguments);
                        call.reports.push(report);
                    }
                    calls.push(call);
                }
            }
        }
        if let Some(replica) = signs {
            for shard in 0..SHARDS {
                if !calls.iter().any(|call| call.shard == shard && call.replica == replica) {
                    calls.push(begin(shard, replica));
                }
            }
        }
        calls
    }
}

/// The fields of a report, in the order of the script.
fn encode(report: &Report, replica: &ReplicaId, terms: Option<Terms>, memory: &Memory, arguments: &mut Vec<String>) {
    let Report { budget, unit, reset_token, span, returned, used, held, wanted, refused, last } = report;
    let remembered = memory.of(replica, report);
    let has_terms = terms.is_some();
    let terms = terms.unwrap_or_else(|| Terms {
        unit: *unit,
        limit: 0,
        mode: Mode::Hard,
        period: Period::Lifetime,
        reset_token: reset_token.clone(),
    });
    // A larger limit counts as the largest that can be counted.
    let limit = terms.limit.min(MOST);
    let is_known = has_terms && terms.unit == *unit && terms.reset_token == *reset_token;
    let own = terms.period.span(span.starts_at);
    let may_open = own.kind == span.kind && own.starts_at == span.starts_at && own.ends_at == span.ends_at;
    let (period, seconds) = match &terms.period {
        Period::Calendar { .. } => ("C", 0),
        Period::Rolling { seconds } => ("R", *seconds),
        Period::Lifetime => ("L", 0),
    };
    let flag = |flag: bool| u8::from(flag).to_string();
    let amount = |amount: i64| amount.clamp(0, MOST).to_string();
    arguments.extend([
        budget.clone(),
        unit_name(*unit).to_owned(),
        token(reset_token.as_deref()),
        kind_name(span.kind).to_owned(),
        span.starts_at.to_string(),
        span.ends_at.to_string(),
        span.counts_until.to_string(),
        amount(*returned),
        amount(*used),
        amount(*held),
        amount(*wanted),
        flag(*last),
        amount(remembered.granted),
        remembered.epoch.to_string(),
        remembered.seq.to_string(),
        remembered.claim_seq.to_string(),
        amount(remembered.claim_elsewhere),
        amount(remembered.was()),
        flag(is_known),
        limit.to_string(),
        flag(terms.mode == Mode::Hard),
        period.to_owned(),
        seconds.to_string(),
        flag(may_open),
        unit_name(terms.unit).to_owned(),
        token(terms.reset_token.as_deref()),
        amount(*refused),
    ]);
}

/// No token and an empty one are two.
fn token(token: Option<&str>) -> String {
    token.map_or_else(|| "-".to_owned(), |token| format!("={token}"))
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::NanoUsd => "N",
        Unit::Tokens => "T",
        Unit::Requests => "R",
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Hour => "hour",
        Kind::Day => "day",
        Kind::Week => "week",
        Kind::Month => "month",
        Kind::Year => "year",
        Kind::Bucket => "bucket",
        Kind::Lifetime => "lifetime",
    }
}
