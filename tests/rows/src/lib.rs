//! What tests of rows in PostgreSQL stand on: a server of their own ([`Postgres`]), a wire that can be held ([`Relay`]),
//! and both ledgers side by side ([`Books`]). Every wait is bounded.

mod books;
mod relay;
mod server;

pub use books::{Books, assert_same, in_sqlite, missing};
pub use relay::Relay;
pub use server::{Postgres, Session};

use std::time::{Duration, Instant};

/// The longest any single wait may take. Far above what is needed, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until it is so.
///
/// # Panics
/// It took longer than [`PATIENCE`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
