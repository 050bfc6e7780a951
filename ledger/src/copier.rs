//! Copies ended attempts from the journal to SQLite, and lets segments go whose rows are all there. One thread, apart
//! from serving: when the database is locked, full or damaged, segments pile up to their bound and a counter tells.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tollgate_allocator::tally::{Ask, Told};

use crate::counters::Counters;
use crate::durable::Adjustment;
use crate::grants::Request;
use crate::journal::{Pool, Segment, each_slot, row_id};
use crate::log::sync_folder;
use crate::names::Names;
use crate::record::{Layout, Slot};
use crate::spool::Spool;
use crate::store::{Copying, Row, Store};
use crate::tally;
use crate::terms::Amounts;

/// Rows of one transaction, or a segment more: sums of a day are updated once for all of them, and few are in a page.
const BATCH: usize = 32_768;

/// What the copier is told.
#[derive(Debug)]
pub enum Message {
    /// Copy what has ended by now; answers when it is committed.
    Flush(SyncSender<Result<(), String>>),
    /// The same, and then tells the sums that were not taken yet.
    Tell(Ask, oneshot::Sender<Result<Told, String>>),
    /// As [`Message::Flush`], a last time. Answers with the segments that are left.
    Close(SyncSender<(Result<(), String>, Vec<u64>)>),
}

/// A segment of an earlier boot: what has no settlement was cut off by the end of its process.
#[derive(Debug)]
pub struct Inherited {
    pub number: u64,
    pub path: PathBuf,
    pub rows: Vec<Row>,
}

/// The copier thread's own.
#[derive(Debug)]
pub struct Copier {
    pub path: PathBuf,
    pub store: Option<Store>,
    pub names: Arc<Names>,
    pub pool: Arc<Pool>,
    /// Rows for PostgreSQL.
    pub spool: Arc<Spool>,
    pub counters: Arc<Counters>,
    pub grants: SyncSender<Request>,
    pub inherited: Vec<Inherited>,
    pub adjustments: Vec<Adjustment>,
    pub interval: Duration,
    /// The oldest rows go when the database is larger. Bytes.
    pub most_bytes: u64,
    /// Sums are kept for who leads the cluster; whether some are that were not taken yet. `None`: nobody takes any.
    pub tally: Option<Arc<AtomicBool>>,
    segments: Vec<Tracked>,
    failing: bool,
}

#[derive(Debug)]
struct Tracked {
    segment: Arc<Segment>,
    /// A bit for each slot whose row is in the database.
    copied: Vec<u64>,
    copied_count: u32,
    /// All slots below have been copied.
    low: u32,
    /// Its name in the folder is durable.
    is_named: bool,
}

impl Tracked {
    fn new(segment: Arc<Segment>) -> Tracked {
        let copied = vec![0; (segment.slots as usize + 1).div_ceil(64)];
        Tracked { segment, copied, copied_count: 0, low: 1, is_named: false }
    }

    fn is_copied(&self, slot: u32) -> bool {
        self.copied[slot as usize / 64] & (1 << (slot % 64)) != 0
    }

    fn mark(&mut self, slot: u32) {
        if !self.is_copied(slot) {
            self.copied[slot as usize / 64] |= 1 << (slot % 64);
            self.copied_count += 1;
        }
        while self.low <= self.segment.slots && self.is_copied(self.low) {
            self.low += 1;
        }
    }

    /// Copies what has ended. Answers the slots, which are in the database when the transaction is committed. `kept`: the
    /// rows go there too, where there is a use for them.
    fn copy(&mut self, copying: &mut Copying<'_>, kept: &mut Option<Vec<Row>>) -> Result<Vec<u32>, CopyError> {
        let mut slots = Vec::new();
        if self.segment.ended.load(Acquire) == self.copied_count {
            return Ok(slots);
        }
        let Segment { file, path, number, written, .. } = &*self.segment;
        each_slot(file, Layout::Current, *number, self.low, written.load(Acquire), |place, slot| {
            match slot {
                // One that is being written right now reads as bad; the next pass sees it whole.
                Slot::Empty | Slot::Bad => {}
                Slot::Intent(intent) if intent.settlement.is_some() && !self.is_copied(place.slot) => {
                    let row = Row { id: row_id(place), intent };
                    copying.add(&row)?;
                    slots.push(place.slot);
                    kept.iter_mut().for_each(|kept| kept.push(row.clone()));
                }
                Slot::Intent(_) => {}
            }
            Ok::<_, CopyError>(())
        })?;
        // The journal is at least as durable as its copy.
        file.sync_data()?;
        if !std::mem::replace(&mut self.is_named, true) {
            sync_folder(path.parent().unwrap_or(path))?;
        }
        Ok(slots)
    }

    fn is_done(&self) -> bool {
        // `full` first: after it no intent is written.
        self.segment.full.load(Acquire) && self.copied_count == self.segment.written.load(Acquire)
    }
}

impl Copier {
    #[allow(clippy::too_many_arguments, reason = "made once, by `open`, from what it read")]
    pub fn new(
        path: PathBuf,
        store: Option<Store>,
        names: Arc<Names>,
        pool: Arc<Pool>,
        spool: Arc<Spool>,
        counters: Arc<Counters>,
        grants: SyncSender<Request>,
        inherited: Vec<Inherited>,
        adjustments: Vec<Adjustment>,
        interval: Duration,
        most_bytes: u64,
        tally: Option<Arc<AtomicBool>>,
    ) -> Copier {
        let (segments, failing) = (Vec::new(), false);
        Copier {
            path,
            store,
            names,
            pool,
            spool,
            counters,
            grants,
            inherited,
            adjustments,
            interval,
            most_bytes,
            tally,
            segments,
            failing,
        }
    }

    /// Copies until all who could write are gone. What is then not copied is copied by the next process.
    pub fn run(mut self, messages: &Receiver<Message>, opened: &Receiver<Arc<Segment>>) {
        let mut next = Instant::now();
        loop {
            let message = messages.recv_timeout(next.saturating_duration_since(Instant::now()));
            self.segments.extend(opened.try_iter().map(Tracked::new));
            match message {
                Ok(Message::Flush(done)) => {
                    let result = self.pass();
                    // Who asked may have given up.
                    let _ = done.send(result);
                }
                Ok(Message::Tell(ask, told)) => {
                    // Where rows cannot be copied now, what was copied before is told.
                    let _ = self.pass();
                    let _ = told.send(self.tell(&ask));
                }
                Ok(Message::Close(done)) => {
                    let result = self.pass();
                    let inherited = self.inherited.iter().map(|inherited| inherited.number);
                    let left = self.segments.iter().map(|tracked| tracked.segment.number).chain(inherited).collect();
                    let _ = done.send((result, left));
                }
                Err(RecvTimeoutError::Timeout) => {
                    // The failure was told by the counter and the log.
                    let _ = self.pass();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            next = Instant::now() + self.interval;
        }
    }

    fn pass(&mut self) -> Result<(), String> {
        let result = self.try_pass();
        match &result {
            Ok(()) if self.failing => tracing::info!("rows are copied to {} again", self.path.display()),
            Err(error) => {
                self.counters.copy_failures.fetch_add(1, Relaxed);
                if !self.failing {
                    let path = self.path.display();
                    tracing::error!(%error, "cannot copy rows to {path}: they wait in the journal");
                }
                // A connection after an error is not to be trusted; opening is cheap.
                self.store = None;
            }
            Ok(()) => {}
        }
        self.failing = result.is_err();
        result
    }

    fn try_pass(&mut self) -> Result<(), String> {
        if self.is_idle() {
            return Ok(());
        }
        if self.store.is_none() {
            self.store = Some(Store::open(&self.path, self.tally.is_some()).map_err(text)?);
        }
        if let Some(last) = self.adjustments.last().map(|adjustment| adjustment.id) {
            let adjustments = self.adjustments.clone();
            self.store()?.adjust(&adjustments).map_err(text)?;
            self.store()?.sync().map_err(text)?;
            self.adjustments.clear();
            // Queue full or gone: the next process writes them again, which changes nothing.
            let _ = self.grants.try_send(Request::AdjustmentsCopied { id: last });
        }
        self.copy_inherited()?;
        let mut done = 0;
        while done < self.segments.len() {
            done += self.copy_segments(done)?;
        }
        self.retire()?;
        self.remove_oldest()
    }

    /// Of segments that are here some rows may not be copied yet.
    fn remove_oldest(&mut self) -> Result<(), String> {
        let from = self.segments.iter().map(|tracked| tracked.segment.number).min().unwrap_or(u64::MAX);
        let most_bytes = self.most_bytes;
        let gone = self.store()?.remove_oldest(most_bytes, from).map_err(text)?;
        self.counters.rows_removed.fetch_add(gone as u64, Relaxed);
        Ok(())
    }

    fn tell(&mut self, ask: &Ask) -> Result<Told, String> {
        let Some(is_left) = &self.tally else { return Ok(Told::default()) };
        if !is_left.load(Acquire) {
            return Ok(Told::default());
        }
        let mut store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path, true).map_err(text)?,
        };
        // As after a copy that failed, its connection is not to be trusted.
        let told = tally::tell(&mut store, ask).map_err(text)?;
        self.store = Some(store);
        is_left.store(!told.batches.is_empty(), Release);
        Ok(told)
    }

    fn is_idle(&self) -> bool {
        self.adjustments.is_empty()
            && self.inherited.is_empty()
            && self
                .segments
                .iter()
                .all(|tracked| tracked.segment.ended.load(Acquire) == tracked.copied_count && !tracked.is_done())
    }

    fn store(&mut self) -> Result<&mut Store, String> {
        self.store.as_mut().ok_or_else(|| "the database is not open".to_owned())
    }

    fn copy_inherited(&mut self) -> Result<(), String> {
        if self.inherited.is_empty() {
            return Ok(());
        }
        let Copier { store, names, spool, inherited, counters, tally, .. } = self;
        let store = store.as_mut().ok_or("the database is not open")?;
        for batch in inherited.iter().flat_map(|inherited| inherited.rows.chunks(BATCH)) {
            let copied = store.copy(|copying| {
                batch.iter().try_for_each(|row| copying.add(row))?;
                add_names(copying, names)
            });
            counters.rows_copied.fetch_add(copied.map_err(text)? as u64, Relaxed);
            tally.iter().for_each(|is_left| is_left.store(true, Release));
            spool.append(batch).map_err(text)?;
        }
        self.spool.sync().map_err(text)?;
        self.store()?.sync().map_err(text)?;
        for Inherited { number, path, rows: _ } in std::mem::take(&mut self.inherited) {
            self.pool.remove(&path);
            // If it is not heard, the log names a segment that does not exist, which is harmless.
            let _ = self.grants.try_send(Request::Removed { segment: number });
        }
        Ok(())
    }

    /// Copies what has ended in the segments from `from` on. Answers how many it did.
    fn copy_segments(&mut self, from: usize) -> Result<usize, String> {
        let Copier { store, names, spool, segments, counters, tally, .. } = self;
        let store = store.as_mut().ok_or("the database is not open")?;
        let mut kept = spool.is_on().then(Vec::new);
        let mut copied_slots: Vec<Vec<u32>> = Vec::new();
        let copied = store.copy(|copying| {
            let mut rows = 0;
            for tracked in &mut segments[from..] {
                if rows >= BATCH {
                    break;
                }
                let slots = tracked.copy(copying, &mut kept)?;
                rows += slots.len();
                copied_slots.push(slots);
            }
            add_names(copying, names)
        });
        let copied = copied.map_err(text)?;
        counters.rows_copied.fetch_add(copied as u64, Relaxed);
        if copied > 0 {
            tally.iter().for_each(|is_left| is_left.store(true, Release));
        }
        // After the copy, whose rows are there once however often it is tried.
        kept.map_or(Ok(()), |rows| spool.append(&rows)).map_err(text)?;
        for (tracked, slots) in segments[from..].iter_mut().zip(&copied_slots) {
            slots.iter().for_each(|slot| tracked.mark(*slot));
        }
        Ok(copied_slots.len())
    }

    /// Lets segments go: rows durable in the database, then their sums durable in the grants log, then the file.
    fn retire(&mut self) -> Result<(), String> {
        if !self.segments.iter().any(Tracked::is_done) {
            return Ok(());
        }
        self.spool.sync().map_err(text)?;
        self.store()?.sync().map_err(text)?;
        let (done, left): (Vec<Tracked>, Vec<Tracked>) =
            std::mem::take(&mut self.segments).into_iter().partition(Tracked::is_done);
        self.segments = left;
        let mut done = done.into_iter();
        while let Some(tracked) = done.next() {
            if let Err(error) = self.retire_one(&tracked.segment) {
                self.segments.push(tracked);
                self.segments.extend(done);
                return Err(error);
            }
            let number = tracked.segment.number;
            self.pool.recycle(tracked.segment);
            let _ = self.grants.try_send(Request::Removed { segment: number });
        }
        Ok(())
    }

    fn retire_one(&mut self, segment: &Segment) -> Result<(), String> {
        let mut used = HashMap::new();
        each_slot(&segment.file, Layout::Current, segment.number, 1, segment.written.load(Acquire), |_, slot| {
            add_used(&mut used, &slot);
            std::io::Result::Ok(())
        })
        .map_err(text)?;
        let used = used.into_iter().collect();
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        let gone = |_| "the grants thread is gone".to_owned();
        self.grants.send(Request::Retire { segment: segment.number, used, done }).map_err(|_| gone(()))?;
        if !answer.recv().map_err(|_| gone(()))? {
            return Err("sums of a segment cannot be written to the grants log".to_owned());
        }
        Ok(())
    }
}

/// Adds what each account of a slot used; what has no settlement counts by its hold.
pub fn add_used(used: &mut HashMap<u32, Amounts>, slot: &Slot) {
    let Slot::Intent(intent) = slot else { return };
    let cost = intent.cost();
    for account in intent.accounts() {
        let sum = used.entry(*account).or_default();
        sum.nano_usd = sum.nano_usd.saturating_add(cost.nano_usd.max(0));
        sum.tokens = sum.tokens.saturating_add(cost.tokens.max(0));
        sum.requests = sum.requests.saturating_add(cost.requests.max(0));
    }
}

/// Adds the names that the database does not have. After the rows: those that they name are there then.
fn add_names(copying: &mut Copying<'_>, names: &Names) -> Result<(), CopyError> {
    let since = names.since(copying.known_names())?;
    Ok(copying.add_names(&since)?)
}

/// Why rows were not copied.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error(transparent)]
    Journal(#[from] std::io::Error),
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
