//! I/O: what replicas say of rate limits to the server, answers back. One call of the script for each shard, all at once.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{Script, Value};
use tollgate_allocator::leases::{Answer, Ask, MOST_COUNTED};

use crate::address::Address;
use crate::connection::{Connection, StoreError};
use crate::keys::{GatewayKeys, SHARDS, shard_of};

/// Asks in one call: the server serves nobody else meanwhile, about half a millisecond.
const TOGETHER: usize = 32;

/// The shard in which replicas are counted.
const OF_MEMBERS: usize = 0;

/// A set of shards, one bit for each.
pub type AllShards = u16;

/// What is said of a whole shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseHeader {
    /// The server's clock, unix milliseconds.
    pub now_ms: i64,
    /// Since when the shard is known; another one than before has lost what was there.
    pub life: i64,
    /// It gives nothing yet, because it may have lost what was there.
    pub is_young: bool,
    /// Replicas that spoke in the last seconds, in the one shard that counts them.
    pub members: Option<u64>,
    /// Limits that somebody waits for.
    pub tight: Vec<String>,
}

/// What came of an exchange.
#[derive(Debug, Default)]
pub struct Leased {
    /// In the order of the asks; `None`: not answered.
    pub answers: Vec<Option<Answer>>,
    /// Of each shard that answered.
    pub headers: Vec<(usize, LeaseHeader)>,
    /// Some shard did not answer.
    pub failed: Option<StoreError>,
}

/// The way to the counters of one gateway.
pub struct LeaseStore {
    connection: Connection,
    script: Script,
    keys: GatewayKeys,
    replica: String,
}

/// One call of the script.
struct Call {
    shard: usize,
    /// Places in the asks.
    asks: Vec<usize>,
    keys: Vec<String>,
    arguments: Vec<String>,
}

impl LeaseStore {
    /// Connects. `replica`: a name that no other process has.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn open(address: &Address, keys: GatewayKeys, replica: String) -> Result<LeaseStore, StoreError> {
        let connection = Connection::open(address).await?;
        Ok(LeaseStore { connection, script: Script::new(include_str!("leases.lua")), keys, replica })
    }

    pub fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    /// Asks, and looks at `shards` even where nothing is asked there.
    pub async fn exchange(&self, asks: &[Ask], shards: AllShards, deadline: Duration) -> Leased {
        let calls = self.calls(asks, shards);
        let answers = join_all(calls.iter().map(|call| {
            let mut connection = self.connection.clone();
            async move {
                let answer = connection.run(&self.script, &call.keys, &call.arguments);
                let value = tokio::time::timeout(deadline, answer).await.map_err(|_| StoreError::Late(deadline))??;
                decode(value, call.shard, call.asks.len()).ok_or(StoreError::Nonsense)
            }
        }))
        .await;
        let mut leased = Leased { answers: vec![None; asks.len()], ..Leased::default() };
        for (call, answer) in calls.iter().zip(answers) {
            match answer {
                Ok((header, answers)) => {
                    leased.headers.push((call.shard, header));
                    for (at, answer) in call.asks.iter().zip(answers) {
                        leased.answers[*at] = Some(answer);
                    }
                }
                Err(error) => leased.failed = Some(error),
            }
        }
        leased
    }

    fn calls(&self, asks: &[Ask], shards: AllShards) -> Vec<Call> {
        let mut by_shard: [Vec<usize>; SHARDS] = Default::default();
        for (at, ask) in asks.iter().enumerate() {
            by_shard[shard_of(&ask.limit)].push(at);
        }
        let mut calls = Vec::new();
        for (shard, all) in by_shard.into_iter().enumerate() {
            let is_looked_at = shards >> shard & 1 == 1;
            if all.is_empty() && is_looked_at {
                calls.push(self.call(shard, &[], asks));
            }
            calls.extend(all.chunks(TOGETHER).map(|some| self.call(shard, some, asks)));
        }
        calls
    }

    fn call(&self, shard: usize, some: &[usize], asks: &[Ask]) -> Call {
        let mut keys = self.keys.rates(shard).to_vec();
        let member = if shard == OF_MEMBERS { self.replica.clone() } else { String::new() };
        let mut arguments = vec![member];
        for ask in some.iter().map(|at| &asks[*at]) {
            keys.push(self.keys.rate(shard, &ask.limit));
            encode(ask, &mut arguments);
        }
        Call { shard, asks: some.to_vec(), keys, arguments }
    }
}

/// The fields of an ask, in the order of the script.
fn encode(ask: &Ask, arguments: &mut Vec<String>) {
    let Ask { limit, account, at_once, most, seq, window, is_open, age_ms, held, beside, used, wanted, least, burn } =
        ask;
    let flag = |flag: bool| u8::from(flag).to_string();
    let amount = |amount: i64| amount.clamp(0, MOST_COUNTED).to_string();
    arguments.extend([
        limit.to_string(),
        account.to_string(),
        flag(*at_once),
        amount(*most),
        seq.to_string(),
        window.to_string(),
        flag(*is_open),
        amount(*age_ms),
        amount(*held),
        amount(*beside),
        amount(*used),
        amount(*wanted),
        amount(*least),
        amount(*burn),
    ]);
}

fn decode(value: Value, shard: usize, asks: usize) -> Option<(LeaseHeader, Vec<Answer>)> {
    let parts: Vec<Vec<String>> = redis::from_redis_value(value).ok()?;
    let (header, answers) = parts.split_first()?;
    let [now_ms, life, young, members, tight @ ..] = &header[..] else { return None };
    let header = LeaseHeader {
        now_ms: now_ms.parse().ok()?,
        life: life.parse().ok()?,
        is_young: young == "1",
        members: if shard == OF_MEMBERS { Some(members.parse().ok()?) } else { None },
        tight: tight.to_vec(),
    };
    let answers: Option<Vec<Answer>> = answers.iter().map(|texts| answer(texts)).collect();
    Some((header, answers.filter(|answers| answers.len() == asks)?))
}

fn answer(texts: &[String]) -> Option<Answer> {
    let [window, held, room, elsewhere, idle, ends_in_ms, recalls] = texts else { return None };
    Some(Answer {
        window: window.parse().ok()?,
        held: held.parse().ok()?,
        room: room.parse().ok()?,
        elsewhere: elsewhere.parse().ok()?,
        idle: idle.parse().ok()?,
        ends_in_ms: ends_in_ms.parse().ok()?,
        recalls: recalls == "1",
    })
}
