//! The SQLite copy of the journal: a row for each attempt, sums for each day (and for each day and tag), and a view with
//! names for people. One writer. A row's id is its place in the journal, so that a row that is copied twice is there
//! once. Does I/O.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OpenFlags, OptionalExtension, Transaction, params};

use crate::durable::Adjustment;
use crate::inserts::{Columns, Inserts};
use crate::journal::{SEQUENCE_BITS, SLOT_BITS};
use crate::oldest;
use crate::record::{Intent, Place, charged};
use crate::tally;
use crate::terms::{Amounts, Outcome, Settlement};
use tollgate_allocator::Unit;

/// How long the writer waits for another process that has the database locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Pages of the write-ahead log (4 KiB each) before they are moved to the database.
const CHECKPOINT_PAGES: i64 = 4000;

/// Changes of the schema, in order; `user_version` counts those that were made.
const MIGRATIONS: [&str; 4] = [
    "
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    attempt_id BLOB NOT NULL,
    started_at_ms INTEGER NOT NULL,
    key INTEGER NOT NULL, team INTEGER NOT NULL, user INTEGER NOT NULL, end_user INTEGER NOT NULL,
    model INTEGER NOT NULL, deployment INTEGER NOT NULL, provider INTEGER NOT NULL, namespace INTEGER NOT NULL,
    attempt_no INTEGER NOT NULL, price_version INTEGER NOT NULL,
    held_nano_usd INTEGER NOT NULL, nano_usd INTEGER NOT NULL, tokens INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    status INTEGER NOT NULL, outcome INTEGER NOT NULL, over_hold INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL, first_byte_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE daily (
    day INTEGER NOT NULL,
    key INTEGER NOT NULL, team INTEGER NOT NULL, user INTEGER NOT NULL, model INTEGER NOT NULL, deployment INTEGER NOT NULL,
    attempts INTEGER NOT NULL, failures INTEGER NOT NULL, nano_usd INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, key, team, user, model, deployment)
) STRICT, WITHOUT ROWID;
CREATE TABLE adjustments (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL, budget TEXT NOT NULL, period TEXT NOT NULL, unit TEXT NOT NULL,
    amount INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE outcomes (id INTEGER PRIMARY KEY, word TEXT NOT NULL) STRICT;
CREATE VIEW spend AS
SELECT
    datetime(started_at_ms / 1000, 'unixepoch') AS started_at,
    key.name AS key, team.name AS team, user.name AS user, model.name AS model, deployment.name AS deployment,
    provider.name AS provider, namespace.name AS namespace, price_version.name AS price_version,
    attempt_no, printf('%d.%09d', nano_usd / 1000000000, nano_usd % 1000000000) AS usd,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
    status, outcomes.word AS outcome, over_hold, duration_ms, first_byte_ms, nano_usd, held_nano_usd,
    started_at_ms, lower(hex(attempt_id)) AS attempt_id, attempts.id AS id
FROM attempts
LEFT JOIN names AS key ON key.id = attempts.key
LEFT JOIN names AS team ON team.id = attempts.team
LEFT JOIN names AS user ON user.id = attempts.user
LEFT JOIN names AS model ON model.id = attempts.model
LEFT JOIN names AS deployment ON deployment.id = attempts.deployment
LEFT JOIN names AS provider ON provider.id = attempts.provider
LEFT JOIN names AS namespace ON namespace.id = attempts.namespace
LEFT JOIN names AS price_version ON price_version.id = attempts.price_version
LEFT JOIN outcomes ON outcomes.id = attempts.outcome;
",
    // The request's id differs from the attempt's in the last byte, by the attempt's number.
    "
ALTER TABLE attempts ADD COLUMN end_user_name INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN tags INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN served_model INTEGER NOT NULL DEFAULT 0;
CREATE TABLE daily_tags (
    day INTEGER NOT NULL, tag TEXT NOT NULL, key INTEGER NOT NULL, model INTEGER NOT NULL,
    attempts INTEGER NOT NULL, failures INTEGER NOT NULL, nano_usd INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, tag, key, model)
) STRICT, WITHOUT ROWID;
DROP VIEW spend;
CREATE VIEW spend AS
SELECT
    datetime(started_at_ms / 1000, 'unixepoch') AS started_at,
    key.name AS key, team.name AS team, user.name AS user, model.name AS model, deployment.name AS deployment,
    provider.name AS provider, namespace.name AS namespace, price_version.name AS price_version,
    attempt_no, printf('%d.%09d', nano_usd / 1000000000, nano_usd % 1000000000) AS usd,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
    status, outcomes.word AS outcome, over_hold, duration_ms, first_byte_ms, nano_usd, held_nano_usd,
    started_at_ms, digits AS attempt_id, attempts.id AS id,
    served_model.name AS served_model, coalesce(tags.name, '[]') AS tags,
    coalesce(end_user_name.name, CASE WHEN end_user != 0 THEN printf('#%016x', end_user) END) AS end_user,
    substr(digits, 1, 8) || '-' || substr(digits, 9, 4) || '-' || substr(digits, 13, 4) || '-' || substr(digits, 17, 4)
        || '-' || substr(digits, 21, 10) || printf('%02x', (last_byte | attempt_no) - (last_byte & attempt_no))
        AS request_id
FROM (
    SELECT *, lower(hex(attempt_id)) AS digits,
        16 * (instr('0123456789ABCDEF', substr(hex(attempt_id), 31, 1)) - 1)
            + instr('0123456789ABCDEF', substr(hex(attempt_id), 32, 1)) - 1 AS last_byte
    FROM attempts
) AS attempts
LEFT JOIN names AS key ON key.id = attempts.key
LEFT JOIN names AS team ON team.id = attempts.team
LEFT JOIN names AS user ON user.id = attempts.user
LEFT JOIN names AS model ON model.id = attempts.model
LEFT JOIN names AS served_model ON served_model.id = attempts.served_model
LEFT JOIN names AS deployment ON deployment.id = attempts.deployment
LEFT JOIN names AS provider ON provider.id = attempts.provider
LEFT JOIN names AS namespace ON namespace.id = attempts.namespace
LEFT JOIN names AS price_version ON price_version.id = attempts.price_version
LEFT JOIN names AS tags ON tags.id = attempts.tags
LEFT JOIN names AS end_user_name ON end_user_name.id = attempts.end_user_name
LEFT JOIN outcomes ON outcomes.id = attempts.outcome;
",
    tally::TABLES,
    oldest::TABLE,
];

/// The database.
#[derive(Debug)]
pub struct Store {
    pub(crate) connection: Connection,
    /// Names up to this number are in it.
    known_names: u32,
    /// Sums are kept for whoever collects them.
    tallies: bool,
    /// Rows with lower ids were here and went, or never come.
    pub(crate) removed_below: i64,
}

/// A row to copy.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    pub intent: Intent,
}

impl Row {
    /// The slot it comes from.
    pub fn place(&self) -> Place {
        Place { segment: self.id as u64 >> SLOT_BITS, slot: self.id as u32 & ((1 << SLOT_BITS) - 1) }
    }

    /// How it ended; what nobody settled was cut off by the end of its process.
    pub fn settlement(&self) -> Settlement {
        self.intent.settlement.unwrap_or_else(|| charged(self.intent.held(), Outcome::Recovered))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DayKey {
    pub day: i64,
    /// Key, team, user, model, deployment.
    pub names: [u32; 5],
}

/// Sums of rows with the same set of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SetKey {
    day: i64,
    set: u32,
    key: u32,
    model: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct TagKey {
    day: i64,
    tag: String,
    key: u32,
    model: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    attempts: i64,
    failures: i64,
    /// As budgets count.
    pub used: Amounts,
    usage: [i64; 5],
}

impl Sums {
    /// Of one row.
    fn of(settlement: &Settlement, usage: [i64; 5]) -> Sums {
        let failures = i64::from(settlement.status >= 400 || settlement.status == 0);
        Sums { attempts: 1, failures, used: settlement.actual, usage }
    }

    fn merge(&mut self, other: &Sums) {
        let Sums { attempts, failures, used, usage } = other;
        self.attempts += attempts;
        self.failures += failures;
        self.used.add(*used);
        for (sum, tokens) in self.usage.iter_mut().zip(usage) {
            *sum = sum.saturating_add(*tokens);
        }
    }
}

/// Adds to the sums of a day that are there already.
const ADD_SUMS: &str = "
ON CONFLICT DO UPDATE SET
    attempts = attempts + excluded.attempts, failures = failures + excluded.failures,
    nano_usd = nano_usd + excluded.nano_usd,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
    cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens";

impl Store {
    /// Opens or makes the database. A file that is no database any more is moved aside, with an error in the log: what
    /// it holds can be mended by hand, and books are kept elsewhere.
    ///
    /// # Errors
    /// It is locked, of a newer version, or the disk refuses.
    pub fn open(path: &Path, tallies: bool) -> rusqlite::Result<Store> {
        match Store::open_file(path, tallies) {
            Err(rusqlite::Error::SqliteFailure(failure, _))
                if matches!(failure.code, rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) =>
            {
                let aside = (1..).map(|n| path.with_extension(format!("damaged-{n}"))).find(|aside| !aside.exists());
                let aside: PathBuf = aside.expect("some number is free");
                tracing::error!("{} is damaged; it was moved to {}", path.display(), aside.display());
                std::fs::rename(path, &aside).map_err(|_| rusqlite::Error::InvalidPath(aside))?;
                for suffix in ["-wal", "-shm"] {
                    let mut name = path.as_os_str().to_owned();
                    name.push(suffix);
                    // They belong to the damaged file; without them its last rows are lost, not ours.
                    let _ = std::fs::remove_file(PathBuf::from(name));
                }
                Store::open_file(path, tallies)
            }
            other => other,
        }
    }

    fn open_file(path: &Path, tallies: bool) -> rusqlite::Result<Store> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        migrate(&mut connection)?;
        let known_names = connection.query_row("SELECT coalesce(max(id), 0) FROM names", [], |row| row.get(0))?;
        let removed_below = connection.query_row("SELECT below FROM removed", [], |row| row.get(0))?;
        Ok(Store { connection, known_names, tallies, removed_below })
    }

    /// The highest boot that has rows.
    ///
    /// # Errors
    /// The database's.
    pub fn highest_boot(&self) -> rusqlite::Result<u64> {
        let id: i64 = self.connection.query_row("SELECT coalesce(max(id), 0) FROM attempts", [], |row| row.get(0))?;
        Ok(id as u64 >> (SLOT_BITS + SEQUENCE_BITS))
    }

    /// Names up to this number are in the database.
    pub fn known_names(&self) -> u32 {
        self.known_names
    }

    /// Copies what `tell` adds, in one transaction: all or none. Rows that are there already change nothing. Answers how
    /// many were new.
    ///
    /// # Errors
    /// The database's: locked, full, damaged; or what `tell` met.
    pub fn copy<E: From<rusqlite::Error>>(
        &mut self,
        tell: impl FnOnce(&mut Copying<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let (new, known_names) = {
            let mut copying = Copying {
                names: transaction.prepare_cached("INSERT OR IGNORE INTO names (id, name) VALUES (?1, ?2)")?,
                rows: Inserts::new(&transaction)?,
                new: New::default(),
                known_names: self.known_names,
                removed_below: self.removed_below,
            };
            tell(&mut copying)?;
            let Copying { mut rows, mut new, known_names, .. } = copying;
            rows.flush(|counted| new.count(counted))?;
            (new, known_names)
        };
        let New { days, sets, rows } = new;
        if self.tallies {
            tally::add(&transaction, &days)?;
        }
        add_days(&transaction, days)?;
        add_tags(&transaction, sets)?;
        transaction.commit()?;
        self.known_names = known_names;
        Ok(rows)
    }

    /// Writes adjustments; those that are there already change nothing.
    ///
    /// # Errors
    /// The database's.
    pub fn adjust(&mut self, adjustments: &[Adjustment]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT OR IGNORE INTO adjustments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for Adjustment { id, at_ms, budget, period, unit, amount, reason } in adjustments {
                let unit = match unit {
                    Unit::NanoUsd => "nano-USD",
                    Unit::Tokens => "tokens",
                    Unit::Requests => "requests",
                };
                insert.execute(params![id, at_ms, budget, period, unit, amount, reason])?;
            }
        }
        transaction.commit()
    }

    /// Makes all that was committed survive a power loss, so that the journal's copy may go.
    ///
    /// # Errors
    /// The database's.
    pub fn sync(&mut self) -> rusqlite::Result<()> {
        // A commit in this mode syncs the write-ahead log, with all that came before; one that changes nothing does not.
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let version = MIGRATIONS.len() as i64;
        let synced = self.connection.pragma_update(None, "user_version", version);
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        synced
    }
}

/// Rows on their way into the database.
pub struct Copying<'t> {
    names: CachedStatement<'t>,
    rows: Inserts<'t, Counted>,
    new: New,
    known_names: u32,
    removed_below: i64,
}

/// What a row adds to the sums.
struct Counted {
    day: DayKey,
    set: Option<SetKey>,
    sums: Sums,
}

impl Copying<'_> {
    /// Names up to this number are there.
    pub fn known_names(&self) -> u32 {
        self.known_names
    }

    /// Adds names, by their numbers.
    ///
    /// # Errors
    /// The database's.
    pub fn add_names(&mut self, names: &[(u32, Arc<str>)]) -> rusqlite::Result<()> {
        for (id, name) in names {
            self.names.execute(params![id, &**name])?;
            self.known_names = self.known_names.max(*id);
        }
        Ok(())
    }

    /// Adds a row; one that is there already, or was, changes nothing.
    ///
    /// # Errors
    /// The database's.
    pub fn add(&mut self, row: &Row) -> rusqlite::Result<()> {
        if row.id < self.removed_below {
            return Ok(());
        }
        let (Row { id, intent }, settlement) = (row, row.settlement());
        let usage = [
            settlement.input_tokens,
            settlement.output_tokens,
            settlement.cache_read_tokens,
            settlement.cache_write_tokens,
            settlement.reasoning_tokens,
        ]
        .map(|tokens| i64::try_from(tokens).unwrap_or(i64::MAX));
        let start = &intent.start;
        let day = start.started_at_ms.div_euclid(86_400_000);
        let [key, team, user, model, deployment] =
            [start.key.0, start.team.0, start.user.0, start.model.0, start.deployment.0];
        let set = (start.tags.0 != 0).then_some(SetKey { day, set: start.tags.0, key, model });
        let day = DayKey { day, names: [key, team, user, model, deployment] };
        let numbers = [
            *id,
            start.started_at_ms,
            key.into(),
            team.into(),
            user.into(),
            start.end_user as i64,
            model.into(),
            deployment.into(),
            start.provider.0.into(),
            start.namespace.0.into(),
            start.attempt_no.into(),
            start.price_version.0.into(),
            start.hold.nano_usd,
            settlement.actual.nano_usd,
            settlement.actual.tokens,
            usage[0],
            usage[1],
            usage[2],
            usage[3],
            usage[4],
            settlement.status.into(),
            (settlement.outcome as u8).into(),
            intent.over_hold.into(),
            settlement.duration_ms.into(),
            settlement.first_byte_ms.into(),
            start.end_user_name.0.into(),
            start.tags.0.into(),
            start.served_model.0.into(),
        ];
        let columns = Columns { attempt_id: start.attempt_id, numbers };
        let Copying { rows, new, .. } = self;
        rows.add(columns, Counted { day, set, sums: Sums::of(&settlement, usage) }, |counted| new.count(counted))
    }
}

/// What was new.
#[derive(Default)]
struct New {
    days: HashMap<DayKey, Sums, foldhash::fast::RandomState>,
    sets: HashMap<SetKey, Sums, foldhash::fast::RandomState>,
    rows: usize,
}

impl New {
    fn count(&mut self, Counted { day, set, sums }: Counted) {
        self.rows += 1;
        self.days.entry(day).or_default().merge(&sums);
        if let Some(set) = set {
            self.sets.entry(set).or_default().merge(&sums);
        }
    }
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    if done > MIGRATIONS.len() {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "the database has version {done}, made by a newer Tollgate; this one knows {}",
            MIGRATIONS.len()
        )));
    }
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    for outcome in Outcome::ALL {
        transaction.execute(
            "INSERT OR IGNORE INTO outcomes (id, word) VALUES (?1, ?2)",
            params![outcome as u8, outcome.word()],
        )?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    transaction.commit()
}

/// The tags of a set, which is a name like any other: a JSON array.
fn tags_of(transaction: &Transaction<'_>, set: u32) -> rusqlite::Result<Vec<String>> {
    let mut select = transaction.prepare_cached("SELECT name FROM names WHERE id = ?1")?;
    let text: Option<String> = select.query_row([set], |row| row.get(0)).optional()?;
    // A name that was lost is no array.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

fn add_days(
    transaction: &Transaction<'_>,
    days: HashMap<DayKey, Sums, foldhash::fast::RandomState>,
) -> rusqlite::Result<()> {
    let insert = format!("INSERT INTO daily VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14) {ADD_SUMS}");
    let mut upsert = transaction.prepare_cached(&insert)?;
    // In the order of the table: neighbours are in the same page.
    let mut days: Vec<_> = days.into_iter().collect();
    days.sort_unstable_by_key(|(key, _)| *key);
    for (DayKey { day, names: [key, team, user, model, deployment] }, sums) in days {
        let Sums { attempts, failures, used, usage: [input, output, cache_read, cache_write, reasoning] } = sums;
        upsert.execute(params![
            day,
            key,
            team,
            user,
            model,
            deployment,
            attempts,
            failures,
            used.nano_usd,
            input,
            output,
            cache_read,
            cache_write,
            reasoning
        ])?;
    }
    Ok(())
}

fn add_tags(
    transaction: &Transaction<'_>,
    sets: HashMap<SetKey, Sums, foldhash::fast::RandomState>,
) -> rusqlite::Result<()> {
    if sets.is_empty() {
        return Ok(());
    }
    let mut tags: HashMap<TagKey, Sums, foldhash::fast::RandomState> = HashMap::default();
    for (SetKey { day, set, key, model }, sums) in sets {
        for tag in tags_of(transaction, set)? {
            tags.entry(TagKey { day, tag, key, model }).or_default().merge(&sums);
        }
    }
    let insert = format!("INSERT INTO daily_tags VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12) {ADD_SUMS}");
    let mut upsert = transaction.prepare_cached(&insert)?;
    let mut tags: Vec<_> = tags.into_iter().collect();
    tags.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (TagKey { day, tag, key, model }, sums) in tags {
        let Sums { attempts, failures, used, usage: [input, output, cache_read, cache_write, reasoning] } = sums;
        upsert.execute(params![
            day,
            tag,
            key,
            model,
            attempts,
            failures,
            used.nano_usd,
            input,
            output,
            cache_read,
            cache_write,
            reasoning
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_version_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(
            "INSERT INTO names VALUES (1, 'default/k');
             INSERT INTO outcomes VALUES (1, 'exact');
             INSERT INTO attempts VALUES (5, x'000102030405060708090a0b0c0d0e0f', 0, 1, 0, 0, 254, 0, 0, 0, 0, 3, 0,
                 9, 7, 2, 1, 1, 0, 0, 0, 200, 1, 0, 1, 1);
             PRAGMA user_version = 1",
        )
        .unwrap();
        drop(old);
        let store = Store::open(&path, false).unwrap();
        let select = "SELECT key, nano_usd, outcome, tags, served_model, end_user, request_id FROM spend";
        let row = store.connection.query_row(select, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        });
        let row: (String, i64, String, String, Option<String>, String, String) = row.unwrap();
        let id = "00010203-0405-0607-0809-0a0b0c0d0e0c";
        let expected = ("default/k", 7, "exact", "[]", None, "#00000000000000fe", id);
        let (key, nano_usd, outcome, tags, served_model, end_user, request_id) = &row;
        assert_eq!(
            (&**key, *nano_usd, &**outcome, &**tags, served_model.as_deref(), &**end_user, &**request_id),
            expected
        );
        drop(store);
        Store::open(&path, false).unwrap();
    }
}
