//! The thread that writes rows: connects, keeps tables and days in order, takes batches from the spool, tries again with
//! growing pauses when something fails. Does I/O.

use std::collections::HashSet;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use futures_util::SinkExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::rows::{COLUMNS, Encoder};
use super::target::{self, PostgresTarget, Way};
use super::{Progress, schema};
use crate::names::Names;
use crate::spool::{Batch, Spool};
use crate::store::Row;

/// Rows of one transaction.
const BATCH: usize = 4096;

/// How long connecting, one transaction, or a look at the tables may take altogether.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at which days there are and which are old.
const HOUSEKEEPING: Duration = Duration::from_secs(600);

/// Pauses after failures.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Clocks that are further apart are said to be.
const CLOCKS_APART_MS: i64 = 3_600_000;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// What the thread is to do.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub target: Option<Arc<PostgresTarget>>,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Sending,
    /// Send what is there, then end.
    Finishing,
}

/// The thread's own.
pub struct Sender {
    pub spool: Arc<Spool>,
    pub progress: Arc<Progress>,
    pub control: watch::Receiver<Control>,
    pub clock: fn() -> i64,
    encoder: Encoder,
    is_failing: bool,
}

/// Why rows are not written now. Texts are for people and hold no password.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("its URL is not known")]
    NoUrl,
    #[error("its URL cannot be used: {0}")]
    Url(String),
    #[error("{}", chain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silence,
    #[error("the connection was closed")]
    Closed,
    #[error("the spool cannot be read: {0}")]
    Spool(#[from] std::io::Error),
}

/// How a session ended that did not fail.
enum Ended {
    /// All rows were sent, and no more will come.
    Finished,
    /// Somebody wants something else.
    Interrupted,
}

impl Sender {
    pub fn new(
        spool: Arc<Spool>,
        progress: Arc<Progress>,
        names: Arc<Names>,
        control: watch::Receiver<Control>,
        clock: fn() -> i64,
    ) -> Sender {
        Sender { spool, progress, control, clock, encoder: Encoder::new(names), is_failing: false }
    }

    /// Sends until told to end, or until whoever controls it is gone. `ended` hears of it.
    pub fn run(mut self, ended: SyncSender<()>) {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.send()),
            Err(error) => tracing::error!(%error, "rows are not written to PostgreSQL: no runtime: {error}"),
        }
        // Nobody may wait.
        let _ = ended.try_send(());
    }

    async fn send(&mut self) {
        let mut pause = SHORTEST_PAUSE;
        while let Some(Control { target, phase }) = self.next() {
            let Some(target) = target else {
                self.progress.set_error(None);
                if phase == Phase::Finishing || self.control.changed().await.is_err() {
                    return;
                }
                continue;
            };
            self.look_at_oldest();
            let written = self.progress.written.load(Relaxed);
            let ended = self.session(&target).await;
            self.progress.is_connected.store(false, Relaxed);
            match ended {
                Ok(Ended::Finished) => return,
                Ok(Ended::Interrupted) => {}
                Err(failure) => {
                    self.note(&failure);
                    if phase == Phase::Finishing {
                        return;
                    }
                    if self.progress.written.load(Relaxed) > written {
                        pause = SHORTEST_PAUSE;
                    }
                    tokio::select! {
                        () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
                        // Gone or not, the loop looks.
                        _ = self.control.changed() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// What is to be done now; `None`: nobody is there who would say.
    fn next(&mut self) -> Option<Control> {
        self.control.has_changed().ok()?;
        Some(self.control.borrow_and_update().clone())
    }

    /// One connection, until it breaks or somebody wants something else.
    async fn session(&mut self, target: &PostgresTarget) -> Result<Ended, Failure> {
        let url = target.url.as_deref().ok_or(Failure::NoUrl)?;
        let Way { config, tls, place } = target::read(url).map_err(Failure::Url)?;
        let mut control = self.control.clone();
        let work = async {
            let connected = timeout(PATIENCE, config.connect(tls)).await.map_err(|_| Failure::Silence)?;
            let (client, connection) = connected?;
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = self.work(&client, target, &place) => ended,
                broken = connection.as_mut() => match broken {
                    Err(error) => Err(error.into()),
                    Ok(()) => Err(Failure::Closed),
                },
            }
        };
        tokio::select! {
            ended = work => ended,
            () = is_interrupted(&mut control, target) => Ok(Ended::Interrupted),
        }
    }

    async fn work(&mut self, client: &Client, target: &PostgresTarget, place: &str) -> Result<Ended, Failure> {
        within(async {
            client.batch_execute(schema::LIMITS).await?;
            schema::migrate(client).await?;
            client.batch_execute(schema::SESSION).await
        })
        .await?;
        self.progress.is_connected.store(true, Relaxed);
        let (mut is_told, mut is_clock_told) = (false, false);
        let mut control = self.control.clone();
        let mut days = HashSet::new();
        let mut housekeeping = Instant::now();
        // How far the clock of this machine is before the database's.
        let mut ahead_ms = 0;
        loop {
            let is_due = Instant::now() >= housekeeping;
            if is_due {
                ahead_ms = self.ahead_ms(client, &mut is_clock_told).await?;
            }
            let now_ms = (self.clock)();
            let oldest = match target.retention_days {
                0 => i64::MIN,
                // By the clock that is behind: rows of others must not go because this one is wrong.
                days => day_at(now_ms - ahead_ms.max(0)) - i64::from(days) + 1,
            };
            if is_due {
                days.clear();
                self.keep_days(client, day_at(now_ms), oldest).await?;
                housekeeping = Instant::now() + HOUSEKEEPING;
            }
            let mut batch = self.spool.peek(BATCH)?;
            if batch.rows.is_empty() {
                self.spool.sent(&batch);
                self.works(place, &mut is_told);
                self.progress.oldest_ms.store(0, Relaxed);
                if control.borrow().phase == Phase::Finishing {
                    return Ok(Ended::Finished);
                }
                tokio::select! {
                    () = self.spool.arrived.notified() => {}
                    () = sleep_until(housekeeping) => {}
                    changed = control.changed() => if changed.is_err() {
                        return Ok(Ended::Interrupted);
                    },
                }
                continue;
            }
            self.note_oldest(&batch);
            let before = batch.rows.len();
            batch.rows.retain(|row| day_of(row) >= oldest);
            self.progress.expired.fetch_add((before - batch.rows.len()) as u64, Relaxed);
            for row in &batch.rows {
                let day = day_of(row);
                if days.insert(day) {
                    within(schema::ensure_day(client, day)).await?;
                }
            }
            self.write(client, &target.gateway, &batch.rows).await?;
            self.works(place, &mut is_told);
            self.spool.sent(&batch);
        }
    }

    /// All that waited is written, or some of it was: said once for each connection.
    fn works(&mut self, place: &str, is_told: &mut bool) {
        if !std::mem::replace(is_told, true) {
            self.progress.set_error(None);
            let again = if std::mem::take(&mut self.is_failing) { " again" } else { "" };
            tracing::info!("rows are written to PostgreSQL {place}{again}");
        }
    }

    /// How far this machine's clock is before the database's; said once for each connection where it is far from it.
    async fn ahead_ms(&self, client: &Client, is_told: &mut bool) -> Result<i64, Failure> {
        let Some(there_ms) = within(schema::now_ms(client)).await? else { return Ok(0) };
        let ahead_ms = (self.clock)().saturating_sub(there_ms);
        if ahead_ms.abs() > CLOCKS_APART_MS && !std::mem::replace(is_told, true) {
            let (seconds, order) = (ahead_ms.abs() / 1000, if ahead_ms > 0 { "before" } else { "behind" });
            tracing::warn!(
                "the clock of this machine is {seconds} s {order} that of PostgreSQL: rows have the wrong time"
            );
        }
        Ok(ahead_ms)
    }

    /// Today and tomorrow have a place, and what is old goes: where that fails, rows are written all the same.
    async fn keep_days(&self, client: &Client, today: i64, oldest: i64) -> Result<(), Failure> {
        for day in [today, today + 1] {
            within(schema::ensure_day(client, day)).await?;
        }
        if oldest == i64::MIN {
            return Ok(());
        }
        match within(schema::remove_days_before(client, oldest)).await {
            Ok(None | Some(0)) => Ok(()),
            Ok(Some(removed)) => {
                tracing::info!("removed {removed} days from PostgreSQL that are older than rows are kept");
                Ok(())
            }
            Err(Failure::Database(error)) if error.code().is_some() => {
                self.progress.errors.fetch_add(1, Relaxed);
                tracing::warn!("cannot remove old days from PostgreSQL: {}", chain(&error));
                within(schema::stop_removing(client)).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Writes rows; of those that the database will never take each is left out and told.
    async fn write(&mut self, client: &Client, gateway: &str, rows: &[Row]) -> Result<(), Failure> {
        let mut pieces = vec![rows];
        while let Some(rows) = pieces.pop() {
            if rows.is_empty() {
                continue;
            }
            let stream = self.encoder.encode(gateway, rows);
            match within(write(client, stream)).await {
                Ok(new) => {
                    self.progress.written.fetch_add(new, Relaxed);
                }
                Err(Failure::Database(error)) if is_about_the_data(&error) => {
                    within(client.batch_execute("ROLLBACK")).await?;
                    match rows {
                        [row] => {
                            self.progress.refused.fetch_add(1, Relaxed);
                            let (id, error) = (row.intent.start.attempt_id, chain(&error));
                            tracing::error!("PostgreSQL does not take the row of attempt {id:032x}: {error}");
                        }
                        _ => {
                            let (first, second) = rows.split_at(rows.len() / 2);
                            pieces.extend([second, first]);
                        }
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn note(&mut self, failure: &Failure) {
        self.progress.errors.fetch_add(1, Relaxed);
        let text = failure.to_string();
        let before = self.progress.set_error(Some(text.clone()));
        if !std::mem::replace(&mut self.is_failing, true) || before.is_some_and(|before| before != text) {
            tracing::warn!("cannot write rows to PostgreSQL: {text}; they wait on disk");
        }
    }

    /// For the lag, while there is no connection.
    fn look_at_oldest(&self) {
        if let Ok(batch) = self.spool.peek(1) {
            self.note_oldest(&batch);
        }
    }

    fn note_oldest(&self, batch: &Batch) {
        let ended_ms = batch.rows.first().map_or(0, |row| {
            let duration_ms = row.intent.settlement.map_or(0, |settlement| settlement.duration_ms);
            row.intent.start.started_at_ms.saturating_add(i64::from(duration_ms))
        });
        self.progress.oldest_ms.store(ended_ms, Relaxed);
    }
}

/// Until another target is wanted, or nobody is there any more.
async fn is_interrupted(control: &mut watch::Receiver<Control>, target: &PostgresTarget) {
    let is_same = |control: &Control| control.target.as_deref() == Some(target);
    // An error: gone.
    let _ = control.wait_for(|control| !is_same(control)).await;
}

/// With an end, so that a server that does not answer is not waited for for ever.
async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    Ok(timeout(PATIENCE, work).await.map_err(|_| Failure::Silence)??)
}

/// One transaction. Gives the number of rows that were not there.
async fn write(client: &Client, stream: Vec<u8>) -> Result<u64, tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    let copy = format!("COPY tollgate_incoming ({COLUMNS}) FROM STDIN (FORMAT binary)");
    let sink = client.copy_in(copy.as_str()).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::from(stream)).await?;
    sink.as_mut().finish().await?;
    let done = client.simple_query(&insert()).await?;
    // The first statement is the one that inserts.
    let new = done.iter().find_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    client.batch_execute("COMMIT").await?;
    Ok(new.unwrap_or(0))
}

/// Rows that are not there yet, and their sums. In one order for all proxies, so that no two wait for each other.
fn insert() -> String {
    const SUMS: &str = "attempts, failures, nano_usd, input_tokens, output_tokens, cache_read_tokens, \
        cache_write_tokens, reasoning_tokens";
    const SELECT: &str = "count(*), count(*) FILTER (WHERE status >= 400 OR status = 0), sum(nano_usd), \
        sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(reasoning_tokens)";
    let add: Vec<String> = SUMS.split(", ").map(|sum| format!("{sum} = sums.{sum} + excluded.{sum}")).collect();
    let add = format!("DO UPDATE SET {}", add.join(", "));
    format!(
        "WITH new AS (
            INSERT INTO tollgate.attempts ({COLUMNS}) SELECT {COLUMNS} FROM tollgate_incoming
            ON CONFLICT DO NOTHING
            RETURNING (started_at AT TIME ZONE 'UTC')::date, key, team, user_name, model, deployment, tags, status,
                nano_usd, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens
        ) INSERT INTO tollgate_new SELECT * FROM new;
        INSERT INTO tollgate.daily AS sums (day, key, team, user_name, model, deployment, {SUMS})
            SELECT day, key, team, user_name, model, deployment, {SELECT} FROM tollgate_new
            GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
            ON CONFLICT (day, key, team, user_name, model, deployment) {add};
        INSERT INTO tollgate.daily_tags AS sums (day, tag, key, model, {SUMS})
            SELECT day, tag, key, model, {SELECT} FROM tollgate_new, unnest(tags) AS tag
            GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
            ON CONFLICT (day, tag, key, model) {add}"
    )
}

/// Whether the database will never take these rows, whoever sends them.
fn is_about_the_data(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22") || *code == SqlState::PROGRAM_LIMIT_EXCEEDED)
}

fn day_of(row: &Row) -> i64 {
    day_at(row.intent.start.started_at_ms)
}

/// Since 1970, UTC.
fn day_at(unix_ms: i64) -> i64 {
    unix_ms.div_euclid(DAY_MS)
}

/// An error with its causes.
pub(super) fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
