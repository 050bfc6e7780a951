//! The tables: made and changed by whoever connects first, under an advisory lock; days of rows are partitions that are
//! attached before they are needed and detached when they are old. Nothing here takes a lock that readers or writers of
//! rows wait for. Migrations only add (a table, a column with a default), because proxies of the version before go on
//! writing. Does I/O.

use std::time::Duration;

use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Of the advisory locks: "tollgate" in ASCII.
const LOCK: i64 = 0x746f_6c6c_6761_7465;
/// Held by who removes old days.
const RETENTION_LOCK: i64 = LOCK + 1;

/// How long a change of a table waits for its lock, so that a long report does not stop what comes after it.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long removing a day waits for those who read it. Rows wait meanwhile.
const REMOVAL_WAIT: Duration = Duration::from_secs(10);

/// How long a statement may take, else. Milliseconds.
const STATEMENT_TIMEOUT: u32 = 60_000;

/// Changes of the schema, in order; the table `migrations` has the number of each that was made.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE tollgate.attempts (
    started_at timestamptz NOT NULL,
    attempt_id uuid NOT NULL,
    request_id uuid NOT NULL,
    attempt_no smallint NOT NULL,
    gateway text NOT NULL,
    namespace text NOT NULL,
    key text NOT NULL,
    team text NOT NULL,
    user_name text NOT NULL,
    end_user text NOT NULL,
    tags text[] NOT NULL,
    model text NOT NULL,
    served_model text NOT NULL,
    deployment text NOT NULL,
    provider text NOT NULL,
    price text NOT NULL,
    nano_usd bigint NOT NULL,
    held_nano_usd bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    status smallint NOT NULL,
    outcome text NOT NULL,
    over_hold boolean NOT NULL,
    duration_ms integer NOT NULL,
    first_byte_ms integer NOT NULL,
    PRIMARY KEY (started_at, attempt_id)
) PARTITION BY RANGE (started_at);
CREATE INDEX ON tollgate.attempts (request_id);
CREATE INDEX ON tollgate.attempts (key, started_at);
CREATE TABLE tollgate.daily (
    day date NOT NULL,
    key text NOT NULL,
    team text NOT NULL,
    user_name text NOT NULL,
    model text NOT NULL,
    deployment text NOT NULL,
    attempts bigint NOT NULL,
    failures bigint NOT NULL,
    nano_usd bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    PRIMARY KEY (day, key, team, user_name, model, deployment)
);
CREATE TABLE tollgate.daily_tags (
    day date NOT NULL,
    tag text NOT NULL,
    key text NOT NULL,
    model text NOT NULL,
    attempts bigint NOT NULL,
    failures bigint NOT NULL,
    nano_usd bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    PRIMARY KEY (day, tag, key, model)
);
CREATE VIEW tollgate.spend AS SELECT *, nano_usd / 1000000000.0 AS usd FROM tollgate.attempts;
"];

/// So that no lock outlives a process that stands still.
pub const LIMITS: &str = "SET statement_timeout = 60000; SET idle_in_transaction_session_timeout = '60s'";

/// Temporary tables of a session: rows on their way, and what is summed of those that were new.
pub const SESSION: &str = "
CREATE TEMPORARY TABLE tollgate_incoming (LIKE tollgate.attempts INCLUDING DEFAULTS) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE tollgate_new (
    day date, key text, team text, user_name text, model text, deployment text, tags text[], status smallint,
    nano_usd bigint, input_tokens bigint, output_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint,
    reasoning_tokens bigint
) ON COMMIT DELETE ROWS;
";

/// Makes the tables, or changes them to what this version knows. A database that a newer version changed is left alone.
///
/// # Errors
/// The database's: no right to make a schema, a lock that was not to be had.
pub async fn migrate(client: &Client) -> Result<(), Error> {
    begin_alone(client).await?;
    if !exists(client, "SELECT FROM pg_namespace WHERE nspname = 'tollgate'").await? {
        // Asked first: a role that may only use what was made for it cannot say IF NOT EXISTS.
        client.batch_execute("CREATE SCHEMA tollgate").await?;
    }
    if !exists(client, "SELECT WHERE to_regclass('tollgate.migrations') IS NOT NULL").await? {
        let table = "CREATE TABLE tollgate.migrations (number integer PRIMARY KEY, made_at timestamptz NOT NULL)";
        client.batch_execute(table).await?;
    }
    let made = first_value(client, "SELECT coalesce(max(number), 0) FROM tollgate.migrations").await?;
    let made: usize = made.and_then(|made| made.parse().ok()).unwrap_or(0);
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(made) {
        client.batch_execute(migration).await?;
        let number = at + 1;
        client.batch_execute(&format!("INSERT INTO tollgate.migrations VALUES ({number}, now())")).await?;
        tracing::info!("made change {number} of the tables in PostgreSQL");
    }
    client.batch_execute("COMMIT").await
}

/// The database's clock: Unix milliseconds.
///
/// # Errors
/// The database's.
pub async fn now_ms(client: &Client) -> Result<Option<i64>, Error> {
    let now = first_value(client, "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint").await?;
    Ok(now.and_then(|now| now.parse().ok()))
}

/// Makes sure that rows of a day have a place. `day`: since 1970, UTC.
///
/// # Errors
/// The database's.
pub async fn ensure_day(client: &Client, day: i64) -> Result<(), Error> {
    let (name, from, to) = (partition(day), date(day), date(day + 1));
    let attached = format!(
        "SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'tollgate.attempts'::regclass AND relname = '{name}' AND NOT inhdetachpending"
    );
    if exists(client, &attached).await? {
        return Ok(());
    }
    begin_alone(client).await?;
    if !exists(client, &attached).await? {
        // Made and then attached: neither reads nor writes of the other days wait for it.
        client
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS tollgate.{name} (LIKE tollgate.attempts INCLUDING ALL);
                 ALTER TABLE tollgate.attempts ATTACH PARTITION tollgate.{name}
                     FOR VALUES FROM ('{from} 00:00:00+00') TO ('{to} 00:00:00+00')"
            ))
            .await?;
    }
    client.batch_execute("COMMIT").await
}

/// Removes the days before this one. Gives how many went; `None` where another proxy is at it.
///
/// # Errors
/// The database's. What was begun is finished the next time; [`stop_removing`] lets others try.
pub async fn remove_days_before(client: &Client, day: i64) -> Result<Option<usize>, Error> {
    let wait_ms = REMOVAL_WAIT.as_millis();
    if !exists(client, &format!("SELECT WHERE pg_try_advisory_lock({RETENTION_LOCK})")).await? {
        return Ok(None);
    }
    let old = format!(
        "SELECT relname, coalesce(inhdetachpending::text, 'detached')
         FROM pg_class LEFT JOIN pg_inherits ON pg_class.oid = inhrelid
         WHERE relnamespace = 'tollgate'::regnamespace AND relkind = 'r' AND relname ~ '^attempts_[0-9]{{8}}$'
             AND relname < '{}' ORDER BY relname",
        partition(day)
    );
    client.batch_execute(&format!("SET statement_timeout = {wait_ms}")).await?;
    let mut removed = 0;
    for message in client.simple_query(&old).await? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let name = row.get(0).unwrap_or_default();
        let detach = match row.get(1) {
            Some("false") => Some("CONCURRENTLY"),
            // It waits for transactions that read the day, and may have been cut short.
            Some("true") => Some("FINALIZE"),
            _ => None,
        };
        if let Some(how) = detach {
            client
                .batch_execute(&format!("ALTER TABLE tollgate.attempts DETACH PARTITION tollgate.{name} {how}"))
                .await?;
        }
        client.batch_execute(&format!("DROP TABLE tollgate.{name}")).await?;
        removed += 1;
    }
    stop_removing(client).await?;
    Ok(Some(removed))
}

/// Lets another proxy remove days.
///
/// # Errors
/// The database's.
pub async fn stop_removing(client: &Client) -> Result<(), Error> {
    let unlock = format!("SELECT pg_advisory_unlock({RETENTION_LOCK})");
    client.batch_execute(&format!("SET statement_timeout = {STATEMENT_TIMEOUT}; {unlock}")).await
}

/// A transaction that no other proxy is in at the same time, and that gives up soon where a lock is not to be had.
async fn begin_alone(client: &Client) -> Result<(), Error> {
    let wait_ms = LOCK_WAIT.as_millis();
    let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK}); SET LOCAL lock_timeout = {wait_ms}");
    client.batch_execute(&begin).await
}

async fn exists(client: &Client, select: &str) -> Result<bool, Error> {
    let messages = client.simple_query(select).await?;
    Ok(messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))))
}

async fn first_value(client: &Client, select: &str) -> Result<Option<String>, Error> {
    let messages = client.simple_query(select).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

/// The table of a day's rows.
fn partition(day: i64) -> String {
    let (year, month, day) = civil(day);
    format!("attempts_{year:04}{month:02}{day:02}")
}

fn date(day: i64) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day since 1970, in the years 1 to 9999.
fn civil(day: i64) -> (i64, i64, i64) {
    // Days from 0000-03-01, in cycles of 400 years; a year begins in March, so that the leap day is its last.
    let since = day.clamp(-719_162, 2_932_896) + 719_468;
    let (cycle, of_cycle) = (since.div_euclid(146_097), since.rem_euclid(146_097));
    let year_of_cycle = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (400 * cycle + year_of_cycle + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_names_of_their_dates() {
        for (day, name) in [
            (0, "attempts_19700101"),
            (-1, "attempts_19691231"),
            (11_016, "attempts_20000229"),
            (20_513, "attempts_20260301"),
            (20_785, "attempts_20261128"),
            (20_879, "attempts_20270302"),
        ] {
            assert_eq!(partition(day), name);
        }
        assert_eq!((date(i64::MIN), date(i64::MAX)), ("0001-01-01".into(), "9999-12-31".into()));
    }
}
