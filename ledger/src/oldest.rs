//! The end of rows in SQLite: when the database takes more of the disk than it may, the oldest go; sums stay. A row that
//! is gone cannot be met again, so it is on record below which places rows went, and no copy adds them anew. Does I/O.

use rusqlite::params;

use crate::journal::SLOT_BITS;
use crate::store::Store;

/// The migration that makes the table.
pub const TABLE: &str = "
CREATE TABLE removed (below INTEGER NOT NULL) STRICT;
INSERT INTO removed VALUES (0);
";

/// Rows that go at a time: more than are copied meanwhile.
const AT_ONCE: i64 = 50_000;

/// Segments before the newest row's of which nothing goes. One that was made ahead may be used after its successors, by
/// no more than there are at a time.
const NEWEST: u64 = 256;

impl Store {
    /// Removes some of the oldest rows where the database has more than `most_bytes`, none of the segment `from` or of
    /// later ones. How many went.
    ///
    /// # Errors
    /// The database's; then none went.
    pub fn remove_oldest(&mut self, most_bytes: u64, from: u64) -> rusqlite::Result<usize> {
        let pragma = |name| self.connection.pragma_query_value::<i64, _>(None, name, |row| row.get(0));
        let used = (pragma("page_count")? - pragma("freelist_count")?).saturating_mul(pragma("page_size")?);
        if u64::try_from(used).unwrap_or(0) <= most_bytes {
            return Ok(0);
        }
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let newest: i64 = transaction.query_row("SELECT coalesce(max(id), 0) FROM attempts", [], |row| row.get(0))?;
        let from = from.min((newest as u64 >> SLOT_BITS).saturating_sub(NEWEST));
        let oldest = "SELECT max(id) + 1 FROM (SELECT id FROM attempts WHERE id < ?1 ORDER BY id LIMIT ?2)";
        let below: Option<i64> =
            transaction.query_row(oldest, params![(from << SLOT_BITS) as i64, AT_ONCE], |row| row.get(0))?;
        let Some(below) = below else { return Ok(0) };
        let gone = transaction.execute("DELETE FROM attempts WHERE id < ?1", [below])?;
        transaction.execute("UPDATE removed SET below = max(below, ?1)", [below])?;
        transaction.commit()?;
        self.removed_below = self.removed_below.max(below);
        Ok(gone)
    }
}
