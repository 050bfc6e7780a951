//! The journal: memory-mapped segments of fixed slots, one writer for each core. A hold is a store into the map before
//! dispatch and its settlement a second store beside it (what a part of it holds, stores in between): no system call, no
//! allocation, and all survive `kill -9`.
//! A segment whose slots are all used is left behind; it lives on until its last attempt has settled and its rows are
//! copied. Blocks are allocated when a segment is made, never when it is written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memmap2::MmapMut;

use crate::map::map_segment;
use crate::record::{self, Layout, MARK_BYTES, Place, SETTLEMENT_AT, SETTLEMENT_BYTES, SLOT_BYTES, Slot};
use crate::terms::{Amounts, AttemptStart, Settlement};

const FIRST_MAGIC: &[u8; 8] = b"TollgJ01";
const MAGIC: &[u8; 8] = b"TollgJ02";

/// Extension of a segment that is being made.
pub const UNFINISHED: &str = "unfinished";

/// Bits of a row's id that count slots, and of a segment's number that count segments of one boot.
pub const SLOT_BITS: u32 = 16;
pub const SEQUENCE_BITS: u32 = 24;

/// Files kept for use again: what a busy second fills.
const MAX_SPENT: usize = 12;

/// How often a stuck factory looks again.
const RETRY: Duration = Duration::from_millis(100);

/// Identifies a start of the machine: `/proc/sys/kernel/random/boot_id`. What is in memory-mapped files but not synced
/// survives the process, not the machine.
pub type KernelBoot = [u8; 16];

/// What all threads know of a segment.
#[derive(Debug)]
pub struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub file: File,
    /// Slots 1 to this are for attempts; slot 0 is the header.
    pub slots: u32,
    /// Highest slot with an intent.
    pub written: AtomicU32,
    /// Slots whose attempt has ended.
    pub ended: AtomicU32,
    /// No more intents will be written.
    pub full: AtomicBool,
}

/// First slot of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub number: u64,
    pub boot: u64,
    pub kernel_boot: KernelBoot,
    /// With this one.
    pub slots: u32,
}

/// A segment and its map, not in use yet.
#[derive(Debug)]
pub struct Ready {
    segment: Arc<Segment>,
    map: MmapMut,
}

/// Makes segments, and counts them.
#[derive(Debug)]
pub struct Pool {
    folder: PathBuf,
    boot: u64,
    kernel_boot: KernelBoot,
    segment_bytes: usize,
    max_segments: usize,
    sequence: AtomicU64,
    /// Files in the folder, of all boots.
    pub live: AtomicUsize,
    /// Files of segments that are done, with their blocks: cheaper than new ones.
    spent: Mutex<Vec<(PathBuf, File)>>,
    pub stopping: AtomicBool,
}

/// A segment that a core writes to, or that its attempts still settle in.
#[derive(Debug)]
pub struct Open {
    /// Nobody ever waits for it: one core writes here.
    map: Mutex<MmapMut>,
    pub segment: Arc<Segment>,
}

/// The journal of one core.
#[derive(Debug)]
pub struct Journal {
    pool: Arc<Pool>,
    spares: Arc<Mutex<Receiver<Ready>>>,
    /// Tells the copier about a segment in use.
    on_open: SyncSender<Arc<Segment>>,
    open: Option<Arc<Open>>,
    next_slot: u32,
}

impl Header {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let Header { number, boot, kernel_boot, slots } = self;
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..24].copy_from_slice(&boot.to_le_bytes());
        bytes[24..40].copy_from_slice(kernel_boot);
        bytes[40..44].copy_from_slice(&slots.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..44]);
        bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` when it is torn or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..48)?;
        let checksum = u32::from_le_bytes(bytes[44..48].try_into().expect("four bytes"));
        let known = [MAGIC, FIRST_MAGIC].iter().any(|magic| bytes.starts_with(*magic));
        if !known || crc32fast::hash(&bytes[..44]) != checksum {
            return None;
        }
        Some(Header {
            number: u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")),
            boot: u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")),
            kernel_boot: bytes[24..40].try_into().expect("sixteen bytes"),
            slots: u32::from_le_bytes(bytes[40..44].try_into().expect("four bytes")),
        })
    }
}

/// How the slots of a segment are laid out that begins with these bytes.
pub fn layout_of(header: &[u8]) -> Layout {
    if header.starts_with(FIRST_MAGIC) { Layout::First } else { Layout::Current }
}

/// Where a segment's file is.
pub fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.segment"))
}

/// The number in a segment's file name.
pub fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".segment")?;
    u64::from_str_radix(name, 16).ok()
}

/// The id that a slot has as a row.
pub fn row_id(place: Place) -> i64 {
    ((place.segment << SLOT_BITS) | u64::from(place.slot)) as i64
}

/// Slots that are read at once.
const READ_SLOTS: usize = 64;

/// Tells slots `first..=last` of a segment's file, in their order.
///
/// # Errors
/// The file is shorter, or cannot be read, or what is told fails: the rest is not told.
pub fn each_slot<E: From<io::Error>>(
    file: &File,
    layout: Layout,
    number: u64,
    first: u32,
    last: u32,
    mut tell: impl FnMut(Place, Slot) -> Result<(), E>,
) -> Result<(), E> {
    let mut bytes = [0; READ_SLOTS * SLOT_BYTES];
    let mut next = first;
    while next <= last {
        let count = READ_SLOTS.min((last - next) as usize + 1);
        let bytes = &mut bytes[..count * SLOT_BYTES];
        file.read_exact_at(bytes, u64::from(next) * SLOT_BYTES as u64)?;
        for bytes in bytes.chunks_exact(SLOT_BYTES) {
            let place = Place { segment: number, slot: next };
            tell(place, record::decode(layout, place, bytes))?;
            next += 1;
        }
    }
    Ok(())
}

/// Reads slots `first..=last` of a segment's file.
///
/// # Errors
/// The file is shorter, or cannot be read.
pub fn read_slots(file: &File, layout: Layout, number: u64, first: u32, last: u32) -> io::Result<Vec<(Place, Slot)>> {
    let mut slots = Vec::new();
    each_slot(file, layout, number, first, last, |place, slot| {
        slots.push((place, slot));
        io::Result::Ok(())
    })?;
    Ok(slots)
}

impl Pool {
    pub fn new(
        folder: PathBuf,
        boot: u64,
        kernel_boot: KernelBoot,
        segment_bytes: usize,
        max_segments: usize,
        live: usize,
    ) -> Pool {
        let slots = (segment_bytes / SLOT_BYTES).clamp(2, 1 << SLOT_BITS);
        Pool {
            folder,
            boot,
            kernel_boot,
            segment_bytes: slots * SLOT_BYTES,
            max_segments,
            sequence: AtomicU64::new(0),
            live: AtomicUsize::new(live),
            spent: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Makes a segment: its blocks allocated, its header written. Not synced: the copier does that, with its rows, and a
    /// page that is clean costs its next store more.
    ///
    /// # Errors
    /// The bound on segments is reached, or the disk refuses.
    pub fn make(&self) -> io::Result<Ready> {
        if self.live.fetch_add(1, Relaxed) >= self.max_segments {
            self.live.fetch_sub(1, Relaxed);
            return Err(io::Error::other(format!(
                "the journal has {} segments that are not copied to the database yet, and may have no more",
                self.max_segments
            )));
        }
        let made = self.make_file();
        if made.is_err() {
            self.live.fetch_sub(1, Relaxed);
        }
        made
    }

    fn make_file(&self) -> io::Result<Ready> {
        let number = (self.boot << SEQUENCE_BITS) | self.sequence.fetch_add(1, Relaxed);
        let path = path_of(&self.folder, number);
        let slots = (self.segment_bytes / SLOT_BYTES) as u32;
        let header = Header { number, boot: self.boot, kernel_boot: self.kernel_boot, slots };
        // It gets its name when it is whole: one that is not whole is damaged, never half made.
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (unfinished, file) = match spent {
            Some(spent) => spent,
            None => {
                let unfinished = path.with_extension(UNFINISHED);
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
                match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.segment_bytes as u64) {
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                    Err(error) => {
                        let _ = std::fs::remove_file(&unfinished);
                        return Err(error.into());
                    }
                }
                (unfinished, file)
            }
        };
        let made = self.fill(&file, &header).and_then(|map| {
            std::fs::rename(&unfinished, &path)?;
            Ok(map)
        });
        let map = made.inspect_err(|_| {
            // Half a segment is of no use, and its blocks are wanted on a full disk.
            let _ = std::fs::remove_file(&unfinished);
        })?;
        let slots = slots - 1;
        let segment = Segment {
            number,
            path,
            file,
            slots,
            written: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            full: AtomicBool::new(false),
        };
        Ok(Ready { segment: Arc::new(segment), map })
    }

    fn fill(&self, file: &File, header: &Header) -> io::Result<MmapMut> {
        // Written out as well: some file systems promise less than they say, and the first store finds the page.
        let mut bytes = vec![0; self.segment_bytes];
        bytes[..SLOT_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&bytes, 0)?;
        map_segment(file, self.segment_bytes)
    }

    /// Lets a segment go whose attempts have ended; its file is used again if nobody can have it mapped any more.
    pub fn recycle(&self, segment: Arc<Segment>) {
        let path = segment.path.clone();
        let unfinished = path.with_extension(UNFINISHED);
        match Arc::try_unwrap(segment) {
            Ok(Segment { file, .. }) if std::fs::rename(&path, &unfinished).is_ok() => {
                let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
                if spent.len() < MAX_SPENT {
                    spent.push((unfinished, file));
                    self.live.fetch_sub(1, Relaxed);
                } else {
                    drop(spent);
                    self.remove(&unfinished);
                }
            }
            Ok(_) | Err(_) => self.remove(&path),
        }
    }

    /// Forgets a segment: removes its file.
    pub fn remove(&self, path: &Path) {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "cannot remove {}", path.display()),
        }
        self.live.fetch_sub(1, Relaxed);
    }

    /// Keeps segments ready, so that a core seldom makes one itself. Runs until the pool stops.
    pub fn run(&self, spares: &SyncSender<Ready>) {
        while !self.stopping.load(Acquire) {
            match self.make() {
                Ok(mut ready) => {
                    // The queue is bounded; it is full most of the time.
                    while let Err(back) = spares.try_send(ready) {
                        ready = match back {
                            std::sync::mpsc::TrySendError::Full(ready) if !self.stopping.load(Acquire) => ready,
                            std::sync::mpsc::TrySendError::Full(ready)
                            | std::sync::mpsc::TrySendError::Disconnected(ready) => {
                                self.remove(&ready.segment.path);
                                return;
                            }
                        };
                        std::thread::park_timeout(RETRY);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no journal segment can be prepared now");
                    std::thread::park_timeout(RETRY);
                }
            }
        }
    }
}

impl Journal {
    pub fn new(pool: Arc<Pool>, spares: Arc<Mutex<Receiver<Ready>>>, on_open: SyncSender<Arc<Segment>>) -> Journal {
        Journal { pool, spares, on_open, open: None, next_slot: 1 }
    }

    /// Makes sure that the next [`Journal::write`] has a slot.
    ///
    /// # Errors
    /// No segment is left and none can be made: the reason, for people.
    pub fn prepare(&mut self) -> Result<(), String> {
        match &self.open {
            Some(open) if self.next_slot <= open.segment.slots => Ok(()),
            Some(_) | None => self.rotate(),
        }
    }

    #[cold]
    fn rotate(&mut self) -> Result<(), String> {
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).try_recv();
        let ready = match spare {
            Ok(ready) => ready,
            Err(_) => self.pool.make().map_err(|error| format!("no journal segment: {error}"))?,
        };
        let Ready { segment, map } = ready;
        // Bounded by the bound on segments; the copier always takes from it.
        if self.on_open.send(segment.clone()).is_err() {
            return Err("the ledger is closed".to_owned());
        }
        if let Some(previous) = self.open.replace(Arc::new(Open { map: Mutex::new(map), segment })) {
            previous.segment.full.store(true, Release);
        }
        self.next_slot = 1;
        Ok(())
    }

    /// Writes an intent, and what is held of it where that is less. [`Journal::prepare`] came right before.
    pub fn write(&mut self, start: &AttemptStart, accounts: &[u32], part: Option<&Amounts>) -> (Arc<Open>, u32) {
        let open = self.open.as_ref().expect("prepare opens a segment or fails");
        let slot = self.next_slot;
        let place = Place { segment: open.segment.number, slot };
        if let Some(part) = part {
            // First: without it the intent would count whole.
            open.mark(slot, part);
        }
        let at = slot as usize * SLOT_BYTES;
        let intent = record::encode_intent(place, start, accounts);
        open.map()[at..at + intent.len()].copy_from_slice(&intent);
        self.next_slot += 1;
        open.segment.written.store(slot, Release);
        (open.clone(), slot)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.segment.full.store(true, Release);
        }
    }
}

impl Open {
    /// Writes what the attempt of a slot holds now. Not after its settlement.
    pub fn mark(&self, slot: u32, part: &Amounts) {
        let place = Place { segment: self.segment.number, slot };
        let at = slot as usize * SLOT_BYTES + SETTLEMENT_AT;
        let bytes = record::encode_mark(place, part);
        self.map()[at..at + MARK_BYTES].copy_from_slice(&bytes);
    }

    /// Writes the settlement of a slot, once.
    pub fn settle(&self, slot: u32, settlement: &Settlement, over_hold: bool) {
        let place = Place { segment: self.segment.number, slot };
        let at = slot as usize * SLOT_BYTES + SETTLEMENT_AT;
        let bytes = record::encode_settlement(place, settlement, over_hold);
        self.map()[at..at + SETTLEMENT_BYTES].copy_from_slice(&bytes);
        self.segment.ended.fetch_add(1, Release);
    }

    fn map(&self) -> MutexGuard<'_, MmapMut> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
