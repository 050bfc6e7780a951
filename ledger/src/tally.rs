//! Sums of a month by key, team and deployment that who leads the cluster has not taken yet, in the database beside the
//! rows that they are of: a row and its part of a sum are committed together, so that no crash counts one without the
//! other. A batch is closed, for good and through a power loss, before it is told; see `tollgate_allocator::tally`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tollgate_allocator::tally::{Ask, Batch, Month, Of, Sum, Told};

use crate::store::{DayKey, Store, Sums};
use crate::terms::Amounts;

/// The migration that makes the tables. `open` is the batch that rows are added to. Another database is another source.
pub const TABLES: &str = "
CREATE TABLE tally (
    batch INTEGER NOT NULL, kind INTEGER NOT NULL, name INTEGER NOT NULL, month INTEGER NOT NULL,
    requests INTEGER NOT NULL, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL,
    PRIMARY KEY (batch, kind, name, month)
) STRICT, WITHOUT ROWID;
CREATE TABLE tally_state (source TEXT NOT NULL, open INTEGER NOT NULL) STRICT;
INSERT INTO tally_state VALUES (lower(hex(randomblob(16))), 1);
";

const DAY_MS: i64 = 86_400_000;

/// Adds the sums of a copy to the open batch, in the copy's transaction.
///
/// # Errors
/// The database's.
pub fn add<'d>(
    transaction: &Transaction<'_>,
    days: impl IntoIterator<Item = (&'d DayKey, &'d Sums)>,
) -> rusqlite::Result<()> {
    let mut sums: BTreeMap<(u8, u32, Month), Amounts> = BTreeMap::new();
    for (DayKey { day, names: [key, team, _, _, deployment] }, day_sums) in days {
        let month = Month::of(day.saturating_mul(DAY_MS));
        for (of, name) in [(Of::Key, key), (Of::Team, team), (Of::Deployment, deployment)] {
            if *name != 0 {
                sums.entry((number_of(of), *name, month)).or_default().add(day_sums.used);
            }
        }
    }
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO tally SELECT open, ?1, ?2, ?3, ?4, ?5, ?6 FROM tally_state WHERE true
         ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens,
            nano_usd = nano_usd + excluded.nano_usd",
    )?;
    for ((of, name, Month(month)), Amounts { nano_usd, tokens, requests }) in sums {
        upsert.execute(params![of, name, month, requests, tokens, nano_usd])?;
    }
    Ok(())
}

/// Removes what was taken, closes the open batch, and tells all that is left.
///
/// # Errors
/// The database's; then nothing was told.
pub fn tell(store: &mut Store, ask: &Ask) -> rusqlite::Result<Told> {
    let transaction = store.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let (source, open): (String, i64) =
        transaction.query_row("SELECT source, open FROM tally_state", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if ask.source == source {
        // Not the open one, whatever is asked: nobody can have taken it.
        let taken = i64::try_from(ask.taken).unwrap_or(i64::MAX).min(open - 1);
        transaction.execute("DELETE FROM tally WHERE batch <= ?1", [taken])?;
    }
    let has_open = transaction.query_row("SELECT 1 FROM tally WHERE batch = ?1 LIMIT 1", [open], |_| Ok(()));
    let closes = has_open.optional()?.is_some();
    if closes {
        transaction.execute("UPDATE tally_state SET open = open + 1", [])?;
    }
    transaction.commit()?;
    if closes {
        // Of one number there must never be another batch, also where the machine loses power now.
        store.sync()?;
    }
    Ok(Told { source, batches: batches(&store.connection)? })
}

/// Whether something was not taken yet.
///
/// # Errors
/// The database's.
pub fn is_left(store: &Store) -> rusqlite::Result<bool> {
    Ok(store.connection.query_row("SELECT 1 FROM tally LIMIT 1", [], |_| Ok(())).optional()?.is_some())
}

fn batches(connection: &Connection) -> rusqlite::Result<Vec<Batch>> {
    let mut select = connection.prepare_cached(
        "SELECT batch, kind, names.name, month, requests, tokens, nano_usd
         FROM tally JOIN names ON names.id = tally.name WHERE batch < (SELECT open FROM tally_state) ORDER BY batch",
    )?;
    let mut rows = select.query([])?;
    let mut batches: Vec<Batch> = Vec::new();
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let number = number as u64;
        if batches.last().is_none_or(|batch| batch.number != number) {
            batches.push(Batch { number, sums: Vec::new() });
        }
        // A kind that only a newer version knows.
        let Some(of) = kind_of(row.get(1)?) else { continue };
        let sum = Sum {
            of,
            name: row.get(2)?,
            month: Month(row.get(3)?),
            requests: row.get(4)?,
            tokens: row.get(5)?,
            nano_usd: row.get(6)?,
        };
        if let Some(batch) = batches.last_mut() {
            batch.sums.push(sum);
        }
    }
    Ok(batches)
}

fn number_of(of: Of) -> u8 {
    match of {
        Of::Key => 1,
        Of::Team => 2,
        Of::Deployment => 3,
    }
}

fn kind_of(number: u8) -> Option<Of> {
    [Of::Key, Of::Team, Of::Deployment].into_iter().find(|of| number_of(*of) == number)
}
