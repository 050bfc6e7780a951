//! Rows on their way to PostgreSQL: files of fixed records in the data folder, appended by the copier and read by the
//! thread that sends them. What was sent is forgotten in memory only, so that a crash sends some rows twice (which the
//! database notices) and loses none. Bounded: what comes above the bound is counted and left out. Does I/O.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::journal::row_id;
use crate::log::sync_folder;
use crate::record::{self, Layout, Place, SLOT_BYTES, Slot};
use crate::store::Row;

/// Begins each file.
const MAGIC: &[u8; 16] = b"TollgateSpool01\n";

/// The place of a slot, 4 bytes that are free, and the slot.
const RECORD_BYTES: usize = 16 + SLOT_BYTES;

/// Records of a file: 4 MiB and some.
const FILE_RECORDS: u64 = 15_500;

/// The spool.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
    /// Rows were appended.
    pub arrived: Notify,
    /// Rows that were left out because the spool was full.
    pub dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    is_on: bool,
    /// Oldest first.
    files: VecDeque<Part>,
    /// Appends to the last of them. `None`: the next append begins a file.
    writer: Option<File>,
    is_synced: bool,
    next_number: u64,
    /// Records of the oldest file that were sent.
    sent: u64,
    is_full: bool,
}

#[derive(Debug)]
struct Part {
    number: u64,
    path: PathBuf,
    records: u64,
}

/// Rows that are to be sent together.
#[derive(Debug, Default)]
pub struct Batch {
    pub rows: Vec<Row>,
    file: u64,
    /// Records of its file up to its end.
    end: u64,
}

impl Spool {
    /// What an earlier process left is found again; it is on if it was.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: PathBuf, max_bytes: u64) -> io::Result<Spool> {
        let mut state = State { is_on: folder.is_dir(), is_synced: true, ..State::default() };
        if state.is_on {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                let Some(number) = number_of(&path) else { continue };
                let bytes = path.metadata()?.len().saturating_sub(MAGIC.len() as u64);
                files.push(Part { number, path, records: bytes / RECORD_BYTES as u64 });
            }
            files.sort_by_key(|part| part.number);
            state.next_number = files.last().map_or(0, |part| part.number + 1);
            state.files = files.into();
        }
        let (arrived, dropped) = (Notify::new(), AtomicU64::new(0));
        Ok(Spool { folder, max_bytes, state: Mutex::new(state), arrived, dropped })
    }

    /// From now on rows are kept for sending.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn turn_on(&self) -> io::Result<()> {
        let mut state = self.lock();
        if !state.is_on {
            std::fs::create_dir_all(&self.folder)?;
            sync_folder(self.folder.parent().unwrap_or(&self.folder))?;
            state.is_on = true;
        }
        Ok(())
    }

    /// Whether rows are kept.
    pub fn is_on(&self) -> bool {
        self.lock().is_on
    }

    /// From now on rows are not kept. What waits stays, for a time when they are again.
    pub fn turn_off(&self) {
        let mut state = self.lock();
        if std::mem::take(&mut state.is_on) {
            state.writer = None;
            if state.forget_sent() == 0 {
                // Files of others, if anything: then it stays.
                let _ = std::fs::remove_dir(&self.folder);
            }
        }
    }

    /// Rows that wait.
    pub fn waiting(&self) -> u64 {
        self.lock().waiting()
    }

    /// Keeps rows for sending, if it is on; not durable before [`Spool::sync`]. Rows for which there is no room are counted.
    ///
    /// # Errors
    /// The disk's; some of the rows may be kept all the same, and come twice when they are appended again.
    pub fn append(&self, rows: &[Row]) -> io::Result<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.is_on || rows.is_empty() {
            return Ok(());
        }
        let is_full = |state: &State| (state.records() + rows.len() as u64) * RECORD_BYTES as u64 > self.max_bytes;
        if is_full(state) && state.waiting() == 0 {
            // All of the last file was sent: it goes, and another one begins.
            state.writer = None;
            state.forget_sent();
        }
        if is_full(state) {
            self.dropped.fetch_add(rows.len() as u64, Relaxed);
            if !std::mem::replace(&mut state.is_full, true) {
                let bound = self.max_bytes;
                tracing::error!("the spool for PostgreSQL has its {bound} bytes: rows are left out of the database");
            }
            return Ok(());
        }
        if std::mem::take(&mut state.is_full) {
            tracing::info!("the spool for PostgreSQL has room again");
        }
        for rows in rows.chunks(FILE_RECORDS as usize) {
            state.append(&self.folder, rows)?;
        }
        drop(guard);
        self.arrived.notify_one();
        Ok(())
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        self.lock().sync(&self.folder)
    }

    /// The oldest rows that wait, at most so many. They stay until [`Spool::sent`].
    ///
    /// # Errors
    /// The disk's.
    pub fn peek(&self, most: usize) -> io::Result<Batch> {
        let mut state = self.lock();
        state.forget_sent();
        let Some(part) = state.files.front() else { return Ok(Batch::default()) };
        let (number, path, first) = (part.number, part.path.clone(), state.sent);
        let count = (part.records - first).min(most as u64);
        drop(state);
        let mut bytes = vec![0; count as usize * RECORD_BYTES];
        let at = MAGIC.len() as u64 + first * RECORD_BYTES as u64;
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, at));
        if let Err(error) = read {
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) {
                // Somebody removed it: the others must not wait for it.
                self.forget(number);
            }
            return Err(error);
        }
        let rows: Vec<Row> = bytes.chunks_exact(RECORD_BYTES).filter_map(decode).collect();
        if (rows.len() as u64) < count {
            // The end of a file that a power loss cut: these rows are in the journal, or in a later file already.
            tracing::warn!("{} records of {} cannot be read", count - rows.len() as u64, path.display());
        }
        Ok(Batch { rows, file: number, end: first + count })
    }

    /// The rows of a batch are in the database.
    pub fn sent(&self, batch: &Batch) {
        let mut state = self.lock();
        if state.files.front().is_some_and(|part| part.number == batch.file) {
            state.sent = state.sent.max(batch.end);
        }
        state.forget_sent();
    }

    /// Removes the last file if all of it was sent, so that the next process does not send it again.
    pub fn close(&self) {
        let mut state = self.lock();
        state.writer = None;
        state.forget_sent();
    }

    /// Gives up the rest of a file.
    fn forget(&self, number: u64) {
        let mut state = self.lock();
        let Some(at) = state.files.iter().position(|part| part.number == number) else { return };
        if at + 1 == state.files.len() {
            state.writer = None;
        }
        let sent = if at == 0 { std::mem::take(&mut state.sent) } else { 0 };
        let Some(part) = state.files.remove(at) else { return };
        self.dropped.fetch_add(part.records - sent, Relaxed);
        tracing::error!("rows for PostgreSQL are lost: {} is gone or was cut", part.path.display());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn records(&self) -> u64 {
        self.files.iter().map(|part| part.records).sum()
    }

    fn waiting(&self) -> u64 {
        self.records() - self.sent
    }

    fn append(&mut self, folder: &Path, rows: &[Row]) -> io::Result<()> {
        if self.files.back().is_none_or(|part| part.records + rows.len() as u64 > FILE_RECORDS) || self.writer.is_none()
        {
            self.sync(folder)?;
            let number = self.next_number;
            let path = folder.join(format!("{number:016x}.spool"));
            let mut file = OpenOptions::new().append(true).create(true).truncate(false).open(&path)?;
            file.set_len(0)?;
            file.write_all(MAGIC)?;
            self.next_number += 1;
            self.files.push_back(Part { number, path, records: 0 });
            self.writer = Some(file);
        }
        let (Some(file), Some(part)) = (&mut self.writer, self.files.back_mut()) else {
            return Err(io::Error::other("the spool has no file to append to"));
        };
        let mut bytes = Vec::with_capacity(rows.len() * RECORD_BYTES);
        rows.iter().for_each(|row| encode(row, &mut bytes));
        self.is_synced = false;
        if let Err(error) = file.write_all(&bytes) {
            // A part of it may be there: cut it off, or begin another file.
            if file.set_len(MAGIC.len() as u64 + part.records * RECORD_BYTES as u64).is_err() {
                self.writer = None;
            }
            return Err(error);
        }
        part.records += rows.len() as u64;
        Ok(())
    }

    fn sync(&mut self, folder: &Path) -> io::Result<()> {
        if let Some(file) = self.writer.as_ref().filter(|_| !self.is_synced) {
            file.sync_data()?;
            sync_folder(folder)?;
        }
        self.is_synced = true;
        Ok(())
    }

    /// Removes files of which everything was sent, and that nobody appends to. Gives the number of rows that wait.
    fn forget_sent(&mut self) -> u64 {
        while let Some(part) = self.files.front() {
            let is_open = self.files.len() == 1 && self.writer.is_some();
            if self.sent < part.records || is_open {
                break;
            }
            if let Err(error) = std::fs::remove_file(&part.path) {
                tracing::warn!(%error, "cannot remove {}", part.path.display());
            }
            self.files.pop_front();
            self.sent = 0;
        }
        self.waiting()
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".spool")?;
    u64::from_str_radix(name, 16).ok()
}

fn encode(row: &Row, bytes: &mut Vec<u8>) {
    let place = row.place();
    bytes.extend_from_slice(&place.segment.to_le_bytes());
    bytes.extend_from_slice(&place.slot.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&record::encode(place, &row.intent));
}

/// `None` where it is damaged.
fn decode(bytes: &[u8]) -> Option<Row> {
    let (head, slot) = bytes.split_at(RECORD_BYTES - SLOT_BYTES);
    let place = Place {
        segment: u64::from_le_bytes(head[..8].try_into().ok()?),
        slot: u32::from_le_bytes(head[8..12].try_into().ok()?),
    };
    match record::decode(Layout::Current, place, slot) {
        Slot::Intent(intent) => Some(Row { id: row_id(place), intent }),
        Slot::Empty | Slot::Bad => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::AttemptStart;

    fn row(slot: u32) -> Row {
        let place = Place { segment: (5 << 24) + 3, slot };
        let start = AttemptStart { attempt_id: u128::from(slot), ..AttemptStart::default() };
        let mut bytes = [0; SLOT_BYTES];
        bytes[..record::INTENT_BYTES].copy_from_slice(&record::encode_intent(place, &start, &[7, 8]));
        let Slot::Intent(intent) = record::decode(Layout::Current, place, &bytes) else { unreachable!("whole") };
        Row { id: row_id(place), intent }
    }

    fn rows(slots: std::ops::Range<u32>) -> Vec<Row> {
        slots.map(row).collect()
    }

    fn ids(batch: &Batch) -> Vec<u128> {
        batch.rows.iter().map(|row| row.intent.start.attempt_id).collect()
    }

    fn open(folder: &Path) -> Spool {
        Spool::open(folder.join("spool"), 1 << 30).unwrap()
    }

    #[test]
    fn rows_come_out_as_they_went_in_and_stay_until_they_were_sent() {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(folder.path());
        spool.append(&rows(1..3)).unwrap();
        assert_eq!(spool.waiting(), 0, "off");
        spool.turn_on().unwrap();
        spool.append(&rows(3..8)).unwrap();
        let first = spool.peek(3).unwrap();
        assert_eq!((ids(&first), spool.waiting()), (vec![3, 4, 5], 5));
        assert_eq!(first.rows[0].intent, row(3).intent);
        assert_eq!(ids(&spool.peek(2).unwrap()), [3, 4]);
        spool.sent(&first);
        assert_eq!((ids(&spool.peek(9).unwrap()), spool.waiting()), (vec![6, 7], 2));
        // A crash: what was sent comes again, nothing is missing.
        drop(spool);
        let spool = open(folder.path());
        spool.append(&rows(8..9)).unwrap();
        let all = spool.peek(9).unwrap();
        assert_eq!(ids(&all), [3, 4, 5, 6, 7]);
        spool.sent(&all);
        let last = spool.peek(9).unwrap();
        assert_eq!(ids(&last), [8]);
        spool.sent(&last);
        spool.close();
        assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
        spool.turn_off();
        assert!(!folder.path().join("spool").exists());
    }

    #[test]
    fn a_torn_end_loses_no_whole_record() {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(folder.path());
        spool.turn_on().unwrap();
        spool.append(&rows(1..4)).unwrap();
        drop(spool);
        let path = std::fs::read_dir(folder.path().join("spool")).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let spool = open(folder.path());
            let whole = cut.saturating_sub(MAGIC.len()) / RECORD_BYTES;
            assert_eq!(spool.peek(9).unwrap().rows.len(), whole, "{cut}");
        }
    }

    #[test]
    fn a_file_that_somebody_removed_is_counted_and_the_next_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(folder.path());
        spool.turn_on().unwrap();
        spool.append(&rows(1..4)).unwrap();
        spool.sent(&spool.peek(1).unwrap());
        let path = std::fs::read_dir(folder.path().join("spool")).unwrap().next().unwrap().unwrap().path();
        std::fs::remove_file(path).unwrap();
        assert!(spool.peek(9).is_err());
        assert_eq!((spool.waiting(), spool.dropped.load(Relaxed)), (0, 2));
        spool.append(&rows(4..6)).unwrap();
        assert_eq!(ids(&spool.peek(9).unwrap()), [4, 5]);
    }

    #[test]
    fn what_is_above_the_bound_is_counted_and_files_follow_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path().join("spool"), 3 * FILE_RECORDS * RECORD_BYTES as u64).unwrap();
        spool.turn_on().unwrap();
        let many = rows(1..10_001);
        for _ in 0..4 {
            spool.append(&many).unwrap();
        }
        spool.append(&many).unwrap();
        assert_eq!((spool.waiting(), spool.dropped.load(Relaxed)), (40_000, 10_000));
        let mut seen = 0;
        loop {
            let batch = spool.peek(4_000).unwrap();
            if batch.rows.is_empty() {
                break;
            }
            seen += batch.rows.len();
            spool.sent(&batch);
        }
        assert_eq!((seen, spool.waiting()), (40_000, 0));
        spool.append(&many).unwrap();
        assert_eq!((spool.waiting(), spool.dropped.load(Relaxed)), (10_000, 10_000));
    }
}
