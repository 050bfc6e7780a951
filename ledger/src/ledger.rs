//! The ledger as its users see it: opened once for each process, shared by all cores, closed at the end. Owns the
//! threads and the lock on the data folder.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::account::Account;
use crate::allowance::Allowances;
use crate::budget::{Budget, Closed, Past};
use crate::copier::{Copier, Message};
use crate::counters::{CounterValues, Counters};
use crate::durable::BooksId;
use crate::grants::{Grants, Request};
use crate::hold::Writer;
use crate::journal::{Journal, KernelBoot, Pool};
use crate::lock::{Lock, LockError};
use crate::members::{Found, Members, Room, TooMany};
use crate::names::Names;
use crate::postgres::{Control, Phase, PostgresTarget, PostgresView, Progress, Sender};
use crate::recover::{RecoveryReport, recover};
use crate::spool::Spool;
use crate::store::Store;
use crate::tally;
use crate::terms::{BudgetTerms, BudgetView, NameId};
use tollgate_allocator::tally::{Ask, Told};
use tollgate_allocator::{Answer, Batch, ReplicaId, Terms};

/// Requests to the grants thread that may wait; who finds the queue full tries again in a moment.
const GRANT_QUEUE: usize = 4096;

/// How long the end waits for PostgreSQL to take the last rows; those that are left go with the next process.
const LAST_ROWS: Duration = Duration::from_secs(5);

/// What the ledger is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made if it does not exist.
    pub folder: PathBuf,
    /// Writers wanted.
    pub cores: usize,
    /// Size of a journal segment; 256 bytes for each attempt.
    pub segment_bytes: usize,
    /// Segments on disk, in use or waiting to be copied. When all are taken, attempts are refused.
    pub max_segments: usize,
    /// Disk for rows that wait for PostgreSQL; what comes above it is left out there, and counted. Bytes.
    pub max_spool_bytes: u64,
    /// Disk for rows in SQLite: when they take more, the oldest go. Bytes; the newest million stays.
    pub max_sqlite_bytes: u64,
    /// How often rows are copied to the database.
    pub copy_interval: Duration,
    /// Unix milliseconds.
    pub clock: fn() -> i64,
    /// Which start of the machine this is.
    pub kernel_boot: KernelBoot,
    /// Who hands out the limits of budgets.
    pub allocation: Allocation,
    /// Of a budget that has one for each member, where limits are this process's own; else [`Room::SHARED`].
    pub room: Room,
    /// Sums of a month are kept for who leads the cluster, until [`Ledger::tally`] says that they were taken.
    pub tallies: bool,
}

/// Who hands out the limits of budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// This process: nobody else spends.
    Own,
    /// An allocator elsewhere, told and asked through [`Ledger::due`] and [`Ledger::answered`].
    Shared,
}

impl Options {
    /// The usual settings for a folder: segments of 1 MiB, 256 of them, copied each second, a spool of 1 GiB, and 4 GiB for SQLite.
    pub fn new(folder: impl Into<PathBuf>, cores: usize) -> Options {
        Options {
            folder: folder.into(),
            cores,
            segment_bytes: 1 << 20,
            max_segments: 256,
            max_spool_bytes: 1 << 30,
            max_sqlite_bytes: 4 << 30,
            copy_interval: Duration::from_secs(1),
            clock: system_clock,
            kernel_boot: kernel_boot(),
            allocation: Allocation::Own,
            room: Room::OWN,
            tallies: false,
        }
    }
}

/// Why the ledger did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data folder {} is in use by {by}", .folder.display())]
    InUse { folder: PathBuf, by: String },
    #[error("cannot {what} {}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: {reason}; restore it, or move the data folder away to begin with empty books", .path.display())]
    Damaged { path: PathBuf, reason: String },
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { what, path, source }
    }
}

/// Rows wait in the journal: the database did not take them.
#[derive(Debug, thiserror::Error)]
#[error("rows are not in the database yet: {reason}")]
pub struct FlushError {
    pub reason: String,
}

/// The ledger. Clones are the same ledger; it ends with the last of them and of its writers.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Shared>);

/// What the ledger, its writers and its budgets share.
#[derive(Debug)]
pub struct Shared {
    pub counters: Arc<Counters>,
    /// `None` once all is closed.
    pub grants: Mutex<Option<SyncSender<Request>>>,
    /// Why the last grant failed.
    pub failure: Arc<Mutex<String>>,
    copier: Mutex<Option<SyncSender<Message>>>,
    /// `None` where limits are this process's own.
    pub allowances: Option<Arc<Allowances>>,
    /// Whether sums are in the database that nobody has taken. `None`: nobody takes any.
    tally: Option<Arc<AtomicBool>>,
    names: Arc<Names>,
    pool: Arc<Pool>,
    spool: Arc<Spool>,
    /// `None` until rows are wanted in PostgreSQL.
    sending: Mutex<Option<Sending>>,
    budgets: RwLock<HashMap<Box<str>, Arc<Budget>, foldhash::fast::RandomState>>,
    /// Of budgets that have one for each member, by id.
    members: Mutex<HashMap<Box<str>, Arc<Members>>>,
    /// Of earlier boots, for budgets that are not in use yet.
    closed: Mutex<HashMap<Arc<str>, Vec<Closed>>>,
    room: Room,
    next_order: AtomicU64,
    clock: fn() -> i64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    // Last: threads are joined before the folder is let go.
    _lock: Lock,
}

/// The thread that writes rows to PostgreSQL, as seen from here.
#[derive(Debug)]
struct Sending {
    control: tokio::sync::watch::Sender<Control>,
    progress: Arc<Progress>,
    ended: Receiver<()>,
}

impl Ledger {
    /// Opens the ledger of a folder: takes its lock, closes the books of the last process, starts the threads. Gives a
    /// writer for each core.
    ///
    /// # Errors
    /// Another process has the folder, the grants log is damaged, or the disk refuses. A database that cannot be opened
    /// is no error: rows wait in the journal.
    pub fn open(options: Options) -> Result<(Ledger, Vec<Writer>, RecoveryReport), OpenError> {
        let Options {
            folder,
            cores,
            segment_bytes,
            max_segments,
            max_spool_bytes,
            max_sqlite_bytes,
            copy_interval,
            clock,
            kernel_boot,
            allocation,
            room,
            tallies,
        } = options;
        let journal = folder.join("journal");
        std::fs::create_dir_all(&journal).map_err(OpenError::io("make", &journal))?;
        let lock_path = folder.join("lock");
        let lock = Lock::take(&lock_path).map_err(|error| match error {
            LockError::Held { by } => OpenError::InUse { folder: folder.clone(), by },
            LockError::Io(source) => OpenError::Io { what: "lock", path: lock_path, source },
        })?;
        let database = folder.join("ledger.sqlite");
        let store = Store::open(&database, tallies)
            .inspect_err(
                |error| tracing::error!(%error, "cannot open {}: rows wait in the journal", database.display()),
            )
            .ok();
        let is_left = store.as_ref().is_some_and(|store| tally::is_left(store).unwrap_or(false));
        let tally = tallies.then(|| Arc::new(AtomicBool::new(is_left)));
        let known_boot = store.as_ref().and_then(|store| store.highest_boot().ok()).unwrap_or(0);
        let known_names = store.as_ref().map_or(0, Store::known_names);
        let names_path = folder.join("names.log");
        let names = Arc::new(Names::open(&names_path).map_err(OpenError::io("open", &names_path))?);
        let recovered = recover(&journal, &folder.join("grants.log"), kernel_boot, known_boot, clock(), allocation)?;
        names.reserve(recovered.highest_name.max(known_names));

        let counters = Arc::new(Counters::default());
        let failure = Arc::new(Mutex::new(String::new()));
        let live = recovered.inherited.len();
        // Those left behind must not keep a new process from serving.
        let max_segments = max_segments.max(cores + 2) + live;
        let boot = recovered.report.boot;
        let pool = Arc::new(Pool::new(journal, boot, kernel_boot, segment_bytes, max_segments, live));
        let spool_path = folder.join("spool");
        let spool = Spool::open(spool_path.clone(), max_spool_bytes).map_err(OpenError::io("read", &spool_path))?;
        let spool = Arc::new(spool);
        let mut closed: HashMap<Arc<str>, Vec<Closed>> = HashMap::new();
        // What earlier processes spent is counted elsewhere, where limits are shared.
        let own = recovered.state.closed.iter().filter(|_| allocation == Allocation::Own);
        for (BooksId { budget, era }, amount) in own {
            let closed = closed.entry(budget.clone()).or_insert_with(|| Vec::with_capacity(1));
            closed.push(Closed { era: era.clone(), amount: *amount });
        }

        let (grants_sender, grants_receiver) = sync_channel(GRANT_QUEUE);
        let (copier_sender, copier_receiver) = sync_channel(16);
        let (opened_sender, opened_receiver) = sync_channel(max_segments);
        let (spare_sender, spare_receiver) = sync_channel(1);
        let spares = Arc::new(Mutex::new(spare_receiver));
        let adjustments = recovered.state.adjustments.clone();
        let allowances = match allocation {
            Allocation::Own => None,
            Allocation::Shared => {
                let name = folder_name(&folder.join("replica")).map_err(OpenError::io("write", &folder))?;
                Some(Arc::new(Allowances::new(name, boot, recovered.ended, !recovered.state.told)))
            }
        };
        let grants =
            Grants::new(recovered.log, recovered.state, counters.clone(), failure.clone(), allowances.clone(), clock);
        let copier = Copier::new(
            database,
            store,
            names.clone(),
            pool.clone(),
            spool.clone(),
            counters.clone(),
            grants_sender.clone(),
            recovered.inherited,
            adjustments,
            copy_interval,
            max_sqlite_bytes,
            tally.clone(),
        );
        let shared = Arc::new(Shared {
            counters,
            grants: Mutex::new(Some(grants_sender)),
            failure,
            copier: Mutex::new(Some(copier_sender)),
            allowances,
            tally,
            names,
            pool: pool.clone(),
            spool,
            sending: Mutex::default(),
            budgets: RwLock::default(),
            members: Mutex::default(),
            closed: Mutex::new(closed),
            room: if allocation == Allocation::Own { room } else { Room::SHARED },
            next_order: AtomicU64::new(0),
            clock,
            threads: Mutex::default(),
            _lock: lock,
        });
        let factory = pool.clone();
        let started = [
            spawn("ledger-grants", move || grants.run(&grants_receiver)),
            spawn("ledger-copier", move || copier.run(&copier_receiver, &opened_receiver)),
            spawn("ledger-journal", move || factory.run(&spare_sender)),
        ];
        for thread in started {
            let thread = thread.map_err(OpenError::io("start a thread for", &folder))?;
            shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        let writers = (0..cores)
            .map(|_| Writer::new(Journal::new(pool.clone(), spares.clone(), opened_sender.clone()), shared.clone()))
            .collect();
        Ok((Ledger(shared), writers, recovered.report))
    }

    /// The number of a name. The first time, it is written to the dictionary.
    pub fn intern(&self, name: &str) -> NameId {
        self.0.names.intern(name)
    }

    /// The number of a name that a client chose; `None` where there are too many of them.
    pub fn intern_chosen(&self, name: &str) -> Option<NameId> {
        self.0.names.intern_chosen(name)
    }

    /// The live budget with the id of these terms, which it takes over. The same id gives the same budget.
    pub fn budget(&self, terms: &BudgetTerms) -> Arc<Budget> {
        let find = || self.read_budgets().get(terms.id.as_str()).cloned();
        if let Some(budget) = find() {
            return self.updated(budget, terms);
        }
        let mut budgets = self.0.budgets.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(terms.id.as_str()) {
            return self.updated(budget.clone(), terms);
        }
        let closed = guard(&self.0.closed).remove(terms.id.as_str()).unwrap_or_default();
        let order = self.0.next_order.fetch_add(1, Relaxed);
        let past = Past { closed, resume: None };
        let budget = Arc::new(Budget::new(order, terms.clone(), past, self.0.allowances.is_some(), self.now()));
        budgets.insert(terms.id.as_str().into(), budget.clone());
        budget
    }

    fn updated(&self, budget: Arc<Budget>, terms: &BudgetTerms) -> Arc<Budget> {
        if budget.update(terms, self.now()) {
            terms.tell_reset();
        }
        if budget.boosted_until_ms() != i64::MAX
            && let Some(grants) = guard(&self.0.grants).as_ref()
        {
            // A full queue: holds look for themselves.
            let _ = grants.try_send(Request::Boosted { budget: budget.clone() });
        }
        budget
    }

    /// Gives a budget new terms if it is in use or was used by an earlier process; any other gets them when it is
    /// first used.
    pub fn update(&self, terms: &BudgetTerms) {
        let in_use = self.read_budgets().contains_key(terms.id.as_str());
        if in_use || guard(&self.0.closed).contains_key(terms.id.as_str()) {
            self.budget(terms);
        }
    }

    /// The members of a budget that has one for each, and takes its terms over; `terms.id` is what their ids begin with.
    /// The same id gives the same members. `private`: clients choose the names of members.
    pub fn members(&self, terms: &BudgetTerms, private: bool) -> Arc<Members> {
        let now = self.now();
        let prefix = format!("{}/", terms.id);
        let make = || {
            // Those that were in use before are to be seen: where their names are not, they rest.
            let before = if private { self.take_closed(&prefix) } else { Vec::new() };
            Arc::new(Members::new(terms.clone(), private, self.0.room, before, now))
        };
        let members = guard(&self.0.members).entry(terms.id.as_str().into()).or_insert_with(make).clone();
        members.update(terms, now);
        let before: Vec<Box<str>> = match private {
            true => Vec::new(),
            false => guard(&self.0.closed)
                .keys()
                .filter_map(|id| id.strip_prefix(&prefix).map(Box::from))
                .take(self.0.room.most)
                .collect(),
        };
        for member in before {
            // One for which there is no room is opened when it is used.
            let _ = self.member(&members, &member);
        }
        members
    }

    /// One of the members: opened at its first use.
    ///
    /// # Errors
    /// Too many are in use in this period.
    pub fn member(&self, members: &Arc<Members>, member: &str) -> Result<Arc<Budget>, TooMany> {
        if let Some(budget) = members.find(member) {
            return Ok(budget);
        }
        let now = self.now();
        let make = |terms: BudgetTerms, mut past: Past| {
            past.closed.extend(guard(&self.0.closed).remove(terms.id.as_str()).unwrap_or_default());
            let order = self.0.next_order.fetch_add(1, Relaxed);
            Budget::new(order, terms, past, self.0.allowances.is_some(), now)
        };
        let live = || self.0.allowances.as_ref().map(|allowances| allowances.live()).unwrap_or_default();
        let Found { budget, may_rest } = members.find_or_make(member, now, make, live)?;
        if may_rest && let Some(grants) = guard(&self.0.grants).as_ref() {
            // A full queue: another new member asks again in a while.
            let _ = grants.try_send(Request::Rest { members: members.clone() });
        }
        Ok(budget)
    }

    /// What earlier boots used of budgets whose ids begin so.
    fn take_closed(&self, prefix: &str) -> Vec<(Arc<str>, Past)> {
        let of = |(id, closed)| (id, Past { closed, resume: None });
        guard(&self.0.closed).extract_if(|id, _| id.starts_with(prefix)).map(of).collect()
    }

    /// The budget of this id where it is in use, or those of its members.
    pub fn view_of(&self, id: &str) -> Vec<BudgetView> {
        let now_ms = (self.0.clock)();
        let members = guard(&self.0.members).get(id).cloned();
        if let Some(members) = members {
            return members.views(now_ms);
        }
        let budget = self.read_budgets().get(id).cloned();
        budget.map(|budget| budget.view_and_pace(now_ms)).into_iter().collect()
    }

    /// All budgets in use, by id.
    pub fn views(&self) -> Vec<BudgetView> {
        let now_ms = (self.0.clock)();
        let budgets: Vec<Arc<Budget>> = self.read_budgets().values().cloned().collect();
        let mut views: Vec<BudgetView> = budgets.iter().map(|budget| budget.view_and_pace(now_ms)).collect();
        let members: Vec<Arc<Members>> = guard(&self.0.members).values().cloned().collect();
        views.extend(members.iter().flat_map(|members| members.views(now_ms)));
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    /// For how long what this process was granted lasts, at the pace of the last minute: of the hard budget where that is
    /// least. Milliseconds; `None`: none is used, or limits are this process's own.
    pub fn allowance_lasts_ms(&self) -> Option<i64> {
        self.0.allowances.as_ref()?.lasts_ms((self.0.clock)())
    }

    /// What the allocator should hear now, where limits are shared; sums of accounts, so that a batch that is lost is
    /// made good by the next. At least an empty batch: its answer may recall what is not used.
    pub fn due(&self) -> Vec<Batch> {
        self.0.allowances.as_ref().map(|allowances| allowances.due((self.0.clock)())).unwrap_or_default()
    }

    /// Nothing is held any more: the next reports are the last, with what was really used. Afterwards
    /// [`Ledger::is_told`] says when the allocator has heard them.
    pub fn end(&self) {
        if let Some(allowances) = &self.0.allowances {
            allowances.end();
        }
    }

    /// Whether the allocator has heard the last word of every account; always, where limits are this process's own.
    pub fn is_told(&self) -> bool {
        self.0.allowances.as_ref().is_none_or(|allowances| allowances.is_told())
    }

    /// Takes answers over that came for a batch of this replica.
    pub fn answered(&self, replica: &ReplicaId, answers: &[Answer]) {
        let Some(allowances) = &self.0.allowances else { return };
        let now_ms = (self.0.clock)();
        self.tell_grants(allowances.answered(replica, answers, now_ms), now_ms);
        if allowances.take_told()
            && let Some(grants) = guard(&self.0.grants).as_ref()
        {
            // A full queue: the next process tells it again, which counts nothing twice.
            let _ = grants.try_send(Request::Told);
        }
    }

    /// Who this process is to the allocator now. `None`, where limits are its own.
    pub fn replica(&self) -> Option<ReplicaId> {
        self.0.allowances.as_ref().map(|allowances| allowances.replica())
    }

    /// Somebody waits for allowance of these budgets, by id: what no call here holds is given back.
    pub fn recalled(&self, budgets: &[String]) {
        if let Some(allowances) = &self.0.allowances {
            allowances.recalled(budgets);
        }
    }

    /// The next [`Ledger::due`] has all accounts, also those that did not change: the allocator may have forgotten them.
    pub fn tell_all(&self) {
        if let Some(allowances) = &self.0.allowances {
            allowances.tell_all();
        }
    }

    /// The terms of a budget that is in use.
    pub fn terms(&self, budget: &str) -> Option<Terms> {
        let budget = self.read_budgets().get(budget).cloned()?;
        Some(budget.books().terms.shared(self.now()))
    }

    /// No answer came in time: Hard budgets refuse what they have no allowance for, at once, until one comes.
    pub fn unanswered(&self) {
        let Some(allowances) = &self.0.allowances else { return };
        for account in allowances.unanswered() {
            if let Some(budget) = account.budget.upgrade() {
                budget.announce();
            }
        }
    }

    /// Until a call waits for allowance. Cancel-safe. Never, where limits are this process's own.
    pub async fn urgent(&self) {
        match &self.0.allowances {
            Some(allowances) => allowances.urgent.notified().await,
            None => std::future::pending().await,
        }
    }

    fn tell_grants(&self, accounts: Vec<Arc<Account>>, at_ms: i64) {
        let Some(grants) = guard(&self.0.grants).clone() else { return };
        for budget in accounts.iter().filter_map(|account| account.budget.upgrade()) {
            // A full queue: the next answer brings it again, and who waits asks again.
            let _ = grants.try_send(Request::Answered { budget, at_ms });
        }
    }

    /// What the ledger counts about itself.
    pub fn counters(&self) -> CounterValues {
        self.0.counters.values(self.0.pool.live.load(Relaxed))
    }

    /// From now on rows are written to this PostgreSQL as well, by a thread that is started at the first time; `None`: to
    /// none any more. While the URL of one is not known, rows wait, or go where they went.
    pub fn send_rows_to(&self, target: Option<PostgresTarget>) {
        let mut sending = guard(&self.0.sending);
        let kept = match &target {
            Some(_) => self.0.spool.turn_on(),
            None => {
                self.0.spool.turn_off();
                Ok(())
            }
        };
        if let Err(error) = kept {
            tracing::error!(%error, "rows are not written to PostgreSQL: there is no spool for them: {error}");
            return;
        }
        if let Some(Sending { control, .. }) = &*sending {
            control.send_if_modified(|control| {
                let known = control.target.as_ref().and_then(|target| target.url.clone());
                let target = target.map(|target| PostgresTarget { url: target.url.clone().or(known), ..target });
                let is_new = control.target.as_deref() != target.as_ref();
                if is_new {
                    control.target = target.map(Arc::new);
                }
                is_new
            });
        } else if target.is_some() {
            let first = Control { target: target.map(Arc::new), phase: Phase::Sending };
            let (control, receiver) = tokio::sync::watch::channel(first);
            let progress = Arc::new(Progress::default());
            let (spool, names) = (self.0.spool.clone(), self.0.names.clone());
            let sender = Sender::new(spool, progress.clone(), names, receiver, self.0.clock);
            let (end, ended) = sync_channel(1);
            match spawn("ledger-postgres", move || sender.run(end)) {
                Ok(thread) => guard(&self.0.threads).push(thread),
                Err(error) => tracing::error!(%error, "rows are not written to PostgreSQL: no thread: {error}"),
            }
            *sending = Some(Sending { control, progress, ended });
        }
    }

    /// How the way to PostgreSQL stands; `None` where rows were never to go there.
    pub fn postgres(&self) -> Option<PostgresView> {
        let sending = guard(&self.0.sending);
        let Sending { progress, .. } = sending.as_ref()?;
        let spool = &self.0.spool;
        Some(progress.view(spool.waiting(), spool.dropped.load(Relaxed), (self.0.clock)()))
    }

    /// Gives the last rows a moment to reach PostgreSQL.
    fn finish_sending(&self) {
        let Some(Sending { control, progress: _, ended }) = guard(&self.0.sending).take() else { return };
        control.send_modify(|control| control.phase = Phase::Finishing);
        // In time or not, the rest is on disk.
        let _ = ended.recv_timeout(LAST_ROWS);
        drop(control);
        self.0.spool.close();
        let waiting = self.0.spool.waiting();
        if waiting > 0 {
            tracing::warn!("{waiting} rows wait for PostgreSQL; the next process writes them");
        }
    }

    /// Sums of all that has ended by now and that were not taken yet. Nothing, where nobody takes any. Cancel-safe.
    ///
    /// # Errors
    /// The database cannot be asked now; nothing is lost.
    pub async fn tally(&self, ask: Ask) -> Result<Told, FlushError> {
        let closed = || FlushError { reason: "the ledger is closed".to_owned() };
        if self.0.tally.is_none() {
            return Ok(Told::default());
        }
        let (told, telling) = tokio::sync::oneshot::channel();
        let copier = guard(&self.0.copier).clone().ok_or_else(closed)?;
        let busy = |_| FlushError { reason: "rows are being copied".to_owned() };
        copier.try_send(Message::Tell(ask, told)).map_err(busy)?;
        telling.await.map_err(|_| closed())?.map_err(|reason| FlushError { reason })
    }

    /// Whether who leads has taken all sums that are in the database; always, where nobody takes any.
    pub fn is_tallied(&self) -> bool {
        self.0.tally.as_ref().is_none_or(|is_left| !is_left.load(Acquire))
    }

    /// Waits until all that has ended by now is in the database. Blocks: for tests, reports and shutdown.
    ///
    /// # Errors
    /// The database does not take rows; they wait in the journal.
    pub fn flush(&self) -> Result<(), FlushError> {
        let closed = || FlushError { reason: "the ledger is closed".to_owned() };
        let (done, answer) = sync_channel(1);
        let copier = guard(&self.0.copier).clone().ok_or_else(closed)?;
        copier.send(Message::Flush(done)).map_err(|_| closed())?;
        answer.recv().map_err(|_| closed())?.map_err(|reason| FlushError { reason })
    }

    /// Closes the books: rows are copied, unused grants are given back. Nothing is held afterwards. Attempts still in
    /// flight are charged their hold. Drop the writers first, so that their segments can go. Blocks.
    ///
    /// # Errors
    /// The database does not take rows (the next process copies them), or the grants log cannot be written (the next
    /// process takes it for a crash, which loses nothing).
    pub fn close(self) -> Result<(), FlushError> {
        let gone = || FlushError { reason: "the ledger is closed".to_owned() };
        let copier = guard(&self.0.copier).take().ok_or_else(gone)?;
        let grants = guard(&self.0.grants).clone().ok_or_else(gone)?;
        let (done, answer) = sync_channel(1);
        copier.send(Message::Close(done)).map_err(|_| gone())?;
        let (copied, segments) = answer.recv().map_err(|_| gone())?;
        let (done, answer) = sync_channel(1);
        grants.send(Request::Close { segments, done }).map_err(|_| gone())?;
        let closed = answer.recv().map_err(|_| gone())?;
        self.finish_sending();
        copied.and(closed).map_err(|reason| FlushError { reason })
    }

    fn now(&self) -> i64 {
        (self.0.clock)().div_euclid(1000)
    }

    fn read_budgets(
        &self,
    ) -> std::sync::RwLockReadGuard<'_, HashMap<Box<str>, Arc<Budget>, foldhash::fast::RandomState>> {
        self.0.budgets.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Without their queues the threads end; without them the folder may be opened again.
        guard(&self.copier).take();
        guard(&self.grants).take();
        guard(&self.sending).take();
        self.pool.stopping.store(true, Release);
        let threads = std::mem::take(&mut *guard(&self.threads));
        for thread in threads {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger panicked");
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// The name of a data folder, made once: its processes follow one another, and no other has it.
fn folder_name(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let name: String = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    std::fs::write(path, &name)?;
    Ok(name)
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn system_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// This start of the machine. Where the kernel does not say: something new, so that nothing in memory is trusted.
pub fn kernel_boot() -> KernelBoot {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> =
        read.bytes().filter_map(|byte| (byte as char).to_digit(16)).map(|digit| digit as u8).collect();
    match <[u8; 32]>::try_from(digits) {
        Ok(digits) => std::array::from_fn(|at| digits[2 * at] * 16 + digits[2 * at + 1]),
        Err(_) => {
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            (nanos ^ u128::from(std::process::id()) << 96).to_le_bytes()
        }
    }
}
