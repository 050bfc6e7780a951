//! Rows in PostgreSQL: what an operator of many gateways asks. A thread of its own takes them from the spool and writes
//! them, so that neither requests nor the journal wait for a database. Does I/O.
//!
//! ```text
//! spool ─► COPY into a temporary table ─► INSERT ... ON CONFLICT DO NOTHING ─► sums of the new rows ─► COMMIT ─► forgotten
//! ```
//! A row is one attempt, by its id. What is sent twice, because a process died between the commit and hearing of it, is
//! there once and counts once.

mod rows;
mod schema;
mod sender;
mod target;
mod tls;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

pub use sender::{Control, Phase, Sender};
pub use target::PostgresTarget;

/// What is counted of the way to PostgreSQL.
#[derive(Debug, Default)]
pub struct Progress {
    is_connected: AtomicBool,
    written: AtomicU64,
    expired: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
    /// When the oldest row that waits ended, Unix milliseconds.
    oldest_ms: AtomicI64,
    error: Mutex<Option<String>>,
}

/// How the way to PostgreSQL stands. Counts rise from 0 at the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresView {
    pub is_connected: bool,
    /// Rows written that were not there.
    pub written: u64,
    /// Rows that wait on disk.
    pub waiting: u64,
    /// Rows left out because the spool was full.
    pub dropped: u64,
    /// Rows left out because they are older than rows are kept.
    pub expired: u64,
    /// Rows that the database would not take.
    pub refused: u64,
    /// Connections and transactions that failed.
    pub errors: u64,
    /// Age of the oldest row that waits. Milliseconds.
    pub lag_ms: i64,
    /// Why rows wait, if something is wrong.
    pub error: Option<String>,
}

impl Progress {
    pub fn view(&self, waiting: u64, dropped: u64, now_ms: i64) -> PostgresView {
        let oldest_ms = self.oldest_ms.load(Relaxed);
        PostgresView {
            is_connected: self.is_connected.load(Relaxed),
            written: self.written.load(Relaxed),
            waiting,
            dropped,
            expired: self.expired.load(Relaxed),
            refused: self.refused.load(Relaxed),
            errors: self.errors.load(Relaxed),
            lag_ms: if waiting == 0 || oldest_ms == 0 { 0 } else { (now_ms - oldest_ms).max(0) },
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn set_error(&self, error: Option<String>) -> Option<String> {
        std::mem::replace(&mut self.error.lock().unwrap_or_else(PoisonError::into_inner), error)
    }
}
