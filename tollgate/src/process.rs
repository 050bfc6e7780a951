//! What `serve` and `dataplane` have in common as processes: limits, signals, the ledger, the threads that serve and how
//! they stop.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tollgate_dataplane::core::Shared;
use tollgate_dataplane::serve::{self as listeners, Listener, Phase};
use tollgate_dataplane::settings::Settings;
use tollgate_ledger::{Allocation, LastEnd, Ledger, Options, RecoveryReport, Writer};

/// Limits of the process.
#[derive(Debug, clap::Args)]
pub struct Limits {
    /// Threads that serve. Default: one for each processor, or for each begun one of the container's CPU limit.
    #[arg(long, env = "TOLLGATE_CORES", value_name = "NUMBER")]
    cores: Option<usize>,

    /// Largest request body, bytes.
    #[arg(long, env = "TOLLGATE_MAX_BODY", default_value_t = 32 << 20, value_name = "BYTES")]
    max_body: usize,

    /// Memory for all request bodies at once, bytes; what does not fit is refused with 503.
    #[arg(long, env = "TOLLGATE_MAX_BODIES", default_value_t = 512 << 20, value_name = "BYTES")]
    max_bodies: usize,

    /// Calls under way at once, for each thread; what comes above is refused with 503.
    #[arg(long, env = "TOLLGATE_MAX_IN_FLIGHT", default_value_t = 4096, value_name = "NUMBER")]
    max_in_flight: usize,

    /// Seconds until the head of a request must be complete, and that a connection may be idle between two.
    #[arg(long, env = "TOLLGATE_HEADER_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    header_timeout: u64,

    /// Seconds that the longest pause inside a request body may take.
    #[arg(long, env = "TOLLGATE_BODY_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    body_timeout: u64,

    /// Disk for rows that wait for PostgreSQL, bytes; rows above it are not written there, and counted.
    #[arg(long, env = "TOLLGATE_SPOOL", default_value_t = 1 << 30, value_name = "BYTES")]
    spool: u64,

    /// Disk for rows in SQLite, bytes; when they take more, the oldest are removed. Sums of days stay.
    #[arg(long, env = "TOLLGATE_SQLITE", default_value_t = 4 << 30, value_name = "BYTES")]
    sqlite: u64,

    /// Seconds that streams may go on after the gateway was asked to stop.
    #[arg(long, env = "TOLLGATE_DRAIN", default_value_t = 600, value_name = "SECONDS")]
    drain: u64,
}

/// Disk that rows may take. Bytes.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Those that wait for PostgreSQL.
    pub spool_bytes: u64,
    pub sqlite_bytes: u64,
}

impl Limits {
    /// Disk for rows.
    pub fn disk(&self) -> Disk {
        Disk { spool_bytes: self.spool, sqlite_bytes: self.sqlite }
    }

    pub fn settings(&self) -> Settings {
        let Limits { cores, max_body, max_bodies, max_in_flight, header_timeout, body_timeout, drain, .. } = self;
        Settings {
            cores: cores.unwrap_or_else(crate::cores::usable).max(1),
            max_body_bytes: *max_body,
            max_bodies_bytes: *max_bodies,
            max_in_flight: (*max_in_flight).max(1),
            header_timeout: Duration::from_secs((*header_timeout).max(1)),
            body_idle_timeout: Duration::from_secs((*body_timeout).max(1)),
            drain: Duration::from_secs(*drain),
            ..Settings::default()
        }
    }
}

/// The signals that ask to stop, from when it was made: none is lost between two waits.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal's name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "ctrl-c",
        }
    }
}

/// Opens the ledger of a data folder, which is made if it is not there, and says what the last process left. `tallies`:
/// an operator takes sums.
///
/// # Errors
/// The folder is not to be had, or another process has it.
pub fn open_ledger(
    data: &Path,
    writers: usize,
    allocation: Allocation,
    tallies: bool,
    disk: Disk,
) -> anyhow::Result<(Ledger, Vec<Writer>)> {
    let Disk { spool_bytes, sqlite_bytes } = disk;
    let options = Options {
        allocation,
        tallies,
        max_spool_bytes: spool_bytes,
        max_sqlite_bytes: sqlite_bytes,
        ..Options::new(data.join("ledger"), writers)
    };
    let (ledger, writers, recovery) =
        Ledger::open(options).with_context(|| format!("cannot open the ledger in `{}`", data.display()))?;
    report_recovery(&recovery);
    Ok((ledger, writers))
}

/// What was used is told to the allocator of budgets, so that nothing more is charged, and to who leads, for the sums that
/// statuses show. One that is away charges what was granted instead, until it hears of it.
pub async fn tell_last(ledger: &Ledger) {
    const PATIENCE: Duration = Duration::from_secs(3);
    const LOOK: Duration = Duration::from_millis(20);
    ledger.end();
    // What is not copied is in no sum; if it cannot be, the next process of the data folder does it.
    let copied = ledger.clone();
    let _ = tokio::task::spawn_blocking(move || copied.flush()).await;
    let told = async {
        while !(ledger.is_told() && ledger.is_tallied()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(PATIENCE, told).await.is_ok() {
        return;
    }
    if !ledger.is_told() {
        tracing::warn!(
            "the allocator did not hear what was used: budgets are charged all that this process was granted, until the \
             next process of its data folder tells"
        );
    }
    if !ledger.is_tallied() {
        tracing::warn!(
            "the operator did not take the last sums of keys, teams and deployments: statuses lack them until the next \
             process of the data folder tells"
        );
    }
}

/// Makes the data folder.
///
/// # Errors
/// It cannot be made.
pub fn make_data_folder(data: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot make the data folder `{}`", data.display()))
}

/// Says what a last run that did not end in good order left.
fn report_recovery(recovery: &RecoveryReport) {
    let RecoveryReport { last_end, boot: _, recovered_attempts, recovered_nano_usd, adjustments, damaged_slots } =
        recovery;
    let charged = tollgate_snapshot::money::NanoUsd(*recovered_nano_usd);
    let how = match last_end {
        LastEnd::None | LastEnd::Stopped => return,
        LastEnd::Killed => "was killed",
        LastEnd::PowerLoss => "ended with the machine, or its journal is damaged",
    };
    tracing::warn!(
        "the last process {how}: {recovered_attempts} attempts in flight were charged {charged}, {adjustments} budgets \
         adjusted, {damaged_slots} slots of the journal could not be read"
    );
}

/// A stream takes two file descriptors, and the usual soft limit of 1,024 is there for programs that cannot do with more.
pub fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files: {error}");
    }
}

/// The threads that serve.
pub struct Serving {
    phase: watch::Sender<Phase>,
    ended: oneshot::Receiver<std::io::Result<()>>,
    thread: JoinHandle<()>,
}

/// How the threads that serve ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All calls were finished, or the drain time was over.
    Drained,
    /// A second signal: the threads still run, and end with the process.
    Cut,
}

impl Serving {
    /// Starts them.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn start(shared: &Arc<Shared>, sockets: Vec<Listener>, writers: Vec<Writer>) -> std::io::Result<Serving> {
        let (phase, phases) = watch::channel(Phase::Serving);
        let (end, ended) = oneshot::channel();
        let shared = shared.clone();
        let thread = std::thread::Builder::new().name("serve".into()).spawn(move || {
            // Nobody asks any more after a second signal.
            let _ = end.send(listeners::run(&shared, sockets, writers, &phases));
        })?;
        Ok(Serving { phase, ended, thread })
    }

    /// Takes no new connections, and waits for those that are open or for a second signal.
    ///
    /// # Errors
    /// A thread panicked or had no runtime.
    pub async fn drain(self, signals: &mut Signals) -> anyhow::Result<End> {
        let Serving { phase, ended, thread } = self;
        phase.send_replace(Phase::Draining);
        tokio::select! {
            ended = ended => {
                ended.map_err(|_| anyhow::anyhow!("a serving thread panicked"))??;
                thread.join().map_err(|_| anyhow::anyhow!("a serving thread panicked"))?;
                Ok(End::Drained)
            }
            reason = signals.next() => {
                tracing::warn!("{reason} again: calls in flight are cut and charged what they hold");
                Ok(End::Cut)
            }
        }
    }
}
