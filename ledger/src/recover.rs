//! What a new process makes of what the last one left. Same start of the machine: the journal is whole, so what was
//! used is exact, and attempts that nobody settled are charged their hold. Another start (a power loss), or a journal
//! that is damaged: every Hard account is charged all it was granted. Either way the old accounts are closed, in one
//! step, before anything is admitted. Reads files; writes only the grants log.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::allowance::Ended;
use crate::copier::{Inherited, add_used};
use crate::durable::{Adjustment, Durable, Record};
use crate::journal::{Header, KernelBoot, SEQUENCE_BITS, UNFINISHED, layout_of, number_of, read_slots, row_id};
use crate::ledger::{Allocation, OpenError};
use crate::log::{self, Log};
use crate::record::{Place, SLOT_BYTES, Slot};
use crate::store::Row;
use crate::terms::Amounts;

/// How the last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastEnd {
    /// There was none.
    None,
    /// It closed its books.
    Stopped,
    /// It died and the machine did not: nothing is lost.
    Killed,
    /// The machine was started anew, or the journal is damaged: what was granted is charged.
    PowerLoss,
}

/// What was found and done when the ledger was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    pub last_end: LastEnd,
    /// Number of this process, from 1.
    pub boot: u64,
    /// Attempts in flight when the last process died: each is charged its hold, and its row says `recovered`.
    pub recovered_attempts: u64,
    pub recovered_nano_usd: i64,
    /// Charged to budgets without a row, in their units.
    pub adjustments: u64,
    /// Slots of the journal that could not be read.
    pub damaged_slots: u64,
}

/// All that a new process begins with.
#[derive(Debug)]
pub struct Recovered {
    pub log: Log,
    pub state: Durable,
    pub inherited: Vec<Inherited>,
    /// What an allocator elsewhere is to be told of ended processes.
    pub ended: Vec<Ended>,
    pub highest_name: u32,
    pub report: RecoveryReport,
}

/// One segment as it was found.
struct Found {
    number: u64,
    path: PathBuf,
    slots: Vec<(Place, Slot)>,
    header: Option<Header>,
    damaged_slots: u64,
}

/// Closes the books of the last process and opens those of this one. `known_boot`: no boot up to it may be used again.
///
/// # Errors
/// The log is damaged, or files cannot be read or written. Nothing was changed then.
pub fn recover(
    folder: &Path,
    log_path: &Path,
    kernel_boot: KernelBoot,
    known_boot: u64,
    at_ms: i64,
    allocation: Allocation,
) -> Result<Recovered, OpenError> {
    let mut last = Durable::default();
    let mut existed = false;
    let extent = log::each(log_path, |record: Record| {
        existed = true;
        last.apply(&record);
    })
    .map_err(OpenError::io("read", log_path))?;
    if let Some(offset) = extent.damaged_at {
        return Err(OpenError::Damaged {
            path: log_path.to_owned(),
            reason: format!("byte {offset} and following are not what was written, good records come after"),
        });
    }
    let found = find_segments(folder)?;
    let highest = found.iter().map(|found| found.number >> SEQUENCE_BITS).max().unwrap_or(0);
    if highest > last.boot {
        return Err(OpenError::Damaged {
            path: log_path.to_owned(),
            reason: format!("journal segments are of start {highest}, the log ends at start {}", last.boot),
        });
    }
    let mut damaged_slots = 0;
    let mut recovered = Amounts::default();
    let mut recovered_attempts = 0;
    let mut highest_name = 0;
    let mut used: HashMap<u32, Amounts> = HashMap::new();
    let mut same_machine = last.kernel_boot == hexadecimal(&kernel_boot);
    let mut inherited = Vec::new();
    for Found { number, path, slots, header, damaged_slots: damaged } in found {
        damaged_slots += damaged;
        let is_last = number >> SEQUENCE_BITS == last.boot;
        same_machine &= header.is_none_or(|header| !is_last || header.kernel_boot == kernel_boot);
        let counts = is_last && !last.stopped && !last.counted.contains(&number) && !last.retired.contains(&number);
        if counts {
            let mut of_segment = HashMap::new();
            slots.iter().for_each(|(_, slot)| add_used(&mut of_segment, slot));
            for (account, amounts) in of_segment {
                if account >= last.next_account {
                    return Err(OpenError::Damaged {
                        path: log_path.to_owned(),
                        reason: format!("the journal knows account {account}, the log ends before it"),
                    });
                }
                let sum = used.entry(account).or_default();
                sum.nano_usd = sum.nano_usd.saturating_add(amounts.nano_usd);
                sum.tokens = sum.tokens.saturating_add(amounts.tokens);
                sum.requests = sum.requests.saturating_add(amounts.requests);
            }
        }
        let mut rows = Vec::new();
        for (place, slot) in slots {
            let Slot::Intent(intent) = slot else { continue };
            highest_name = highest_name.max(intent.highest_name());
            if counts && intent.settlement.is_none() {
                recovered_attempts += 1;
                recovered.nano_usd = recovered.nano_usd.saturating_add(intent.cost().nano_usd.max(0));
            }
            rows.push(Row { id: row_id(place), intent });
        }
        inherited.push(Inherited { number, path, rows });
    }
    let last_end = match () {
        () if !existed => LastEnd::None,
        () if last.stopped => LastEnd::Stopped,
        () if same_machine && damaged_slots == 0 => LastEnd::Killed,
        () => LastEnd::PowerLoss,
    };
    let boot = last.boot.max(known_boot) + 1;
    let mut state = Durable {
        boot,
        kernel_boot: hexadecimal(&kernel_boot),
        at_ms,
        next_account: 1,
        closed: last.closed,
        counted: inherited.iter().map(|inherited| inherited.number).collect(),
        adjustments: last.adjustments,
        eras: last.eras,
        ..Durable::default()
    };
    let mut adjustments = 0;
    let mut ended = Vec::new();
    for (account, entry) in last.accounts {
        let in_journal = used.get(&account).map_or(0, |amounts| amounts.of(entry.books.era.unit));
        let known = entry.retired.saturating_add(in_journal);
        let net = entry.granted - entry.returned;
        let amount = if last_end == LastEnd::PowerLoss { known.max(net) } else { known };
        if amount > 0 {
            state.close(&entry.books, amount);
        }
        ended.push(Ended { boot: last.boot, suffix: entry.suffix, books: entry.books.clone(), used: amount });
        if amount > known {
            adjustments += 1;
            state.adjustments.push(Adjustment {
                id: ((last.boot << 32) | u64::from(account)) as i64,
                at_ms,
                budget: entry.books.budget.to_string(),
                period: entry.books.era.span.label.clone(),
                unit: entry.books.era.unit,
                amount: amount - known,
                reason:
                    "granted before the machine stopped or the journal was damaged; what was used of it is not known"
                        .to_owned(),
            });
        }
    }
    state.prune(at_ms.div_euclid(1000));
    state.forget_eras();
    let is_shared = allocation == Allocation::Shared;
    if is_shared && !last.told {
        // Limits were this folder's own until now: all that counts is told, not only what the last process did.
        let counts = state.closed.iter().filter(|(books, _)| books.era.span.counts_until > at_ms.div_euclid(1000));
        ended = counts
            .map(|(books, used)| Ended { boot: last.boot, suffix: 0, books: books.clone(), used: *used })
            .collect();
    }
    state.told = is_shared && (last.told || ended.is_empty());
    let log = Log::replace(log_path, state.records()).map_err(OpenError::io("write", log_path))?;
    let report = RecoveryReport {
        last_end,
        boot,
        recovered_attempts,
        recovered_nano_usd: recovered.nano_usd,
        adjustments,
        damaged_slots,
    };
    Ok(Recovered { log, state, inherited, ended, highest_name, report })
}

fn find_segments(folder: &Path) -> Result<Vec<Found>, OpenError> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(OpenError::io("list", folder))?;
    for entry in entries {
        let path = entry.map_err(OpenError::io("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            std::fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
        }
        let Some(number) = number_of(&path) else { continue };
        found.push(read_segment(number, &path).map_err(OpenError::io("read", &path))?);
    }
    found.sort_by_key(|found| found.number);
    Ok(found)
}

fn read_segment(number: u64, path: &Path) -> io::Result<Found> {
    let file = File::open(path)?;
    let mut header = [0; SLOT_BYTES];
    let size = file.metadata()?.len();
    let whole_slots = (size / SLOT_BYTES as u64) as u32;
    if whole_slots > 0 {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut header, 0)?;
    }
    let layout = layout_of(&header);
    let header = Header::decode(&header).filter(|header| header.number == number);
    let slots = read_slots(&file, layout, number, 1, whole_slots.saturating_sub(1))?;
    // Slots are written in order, so nothing good comes after one that was never written. Only the very last may be
    // torn, by a process that died before it dispatched anything.
    let last_used = slots.iter().rposition(|(_, slot)| *slot != Slot::Empty);
    let mut damaged_slots = 0;
    if let Some(last) = last_used {
        damaged_slots += slots[..last].iter().filter(|(_, slot)| !matches!(slot, Slot::Intent(_))).count() as u64;
    }
    if header.is_none_or(|header| size != u64::from(header.slots) * SLOT_BYTES as u64) {
        damaged_slots += 1;
    }
    Ok(Found { number, path: path.to_owned(), slots, header, damaged_slots })
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
