//! Inserting rows into SQLite, sixteen in a statement: what a statement costs beside its rows is a third of what one row
//! costs. What is bound stays bound, and half of a row's columns are as in the row sixteen before.

use rusqlite::{CachedStatement, Transaction};

/// Columns of a row, but for the attempt's id.
pub const ROW_NUMBERS: usize = 28;

/// Rows of one statement.
const MANY: usize = 16;

/// The columns of a row in their order.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The second; the others are in `numbers`.
    pub attempt_id: u128,
    pub numbers: [i64; ROW_NUMBERS],
}

impl Columns {
    fn id(&self) -> i64 {
        self.numbers[0]
    }
}

/// Rows on their way, each with what its caller wants to be told when it turns out to be new.
pub struct Inserts<'t, T> {
    one: Insert<'t>,
    many: Insert<'t>,
    /// Whether ids of a range are there.
    among: CachedStatement<'t>,
    waiting: Vec<(Columns, T)>,
}

impl<'t, T> Inserts<'t, T> {
    /// # Errors
    /// The database's.
    pub fn new(transaction: &'t Transaction<'_>) -> rusqlite::Result<Inserts<'t, T>> {
        Ok(Inserts {
            one: Insert::new(transaction, 1)?,
            many: Insert::new(transaction, MANY)?,
            among: transaction.prepare_cached("SELECT EXISTS (SELECT 1 FROM attempts WHERE id BETWEEN ?1 AND ?2)")?,
            waiting: Vec::with_capacity(MANY),
        })
    }

    /// Adds a row; one that is there already changes nothing. `new` is told of those that were not, some calls later.
    ///
    /// # Errors
    /// The database's.
    pub fn add(&mut self, row: Columns, tag: T, new: impl FnMut(T)) -> rusqlite::Result<()> {
        self.waiting.push((row, tag));
        if self.waiting.len() == MANY { self.flush(new) } else { Ok(()) }
    }

    /// Inserts what waits.
    ///
    /// # Errors
    /// The database's.
    pub fn flush(&mut self, mut new: impl FnMut(T)) -> rusqlite::Result<()> {
        if self.waiting.len() == MANY && self.all_new()? {
            for (place, (row, _)) in self.waiting.iter().enumerate() {
                self.many.bind(place, row)?;
            }
            self.many.statement.raw_execute()?;
            self.waiting.drain(..).for_each(|(_, tag)| new(tag));
            return Ok(());
        }
        for (row, tag) in self.waiting.drain(..) {
            self.one.bind(0, &row)?;
            if self.one.statement.raw_execute()? > 0 {
                new(tag);
            }
        }
        Ok(())
    }

    /// Whether none of what waits is there for certain: ids follow each other, so most have a range of their own.
    fn all_new(&mut self) -> rusqlite::Result<bool> {
        let ids = || self.waiting.iter().map(|(row, _)| row.id());
        let (Some(first), Some(last)) = (ids().min(), ids().max()) else { return Ok(true) };
        let mut seen: Vec<i64> = ids().collect();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < self.waiting.len() {
            return Ok(false);
        }
        self.among.query_row([first, last], |row| row.get(0)).map(|there: bool| !there)
    }
}

/// A statement with what is bound to it.
struct Insert<'t> {
    statement: CachedStatement<'t>,
    bound: Vec<Option<i64>>,
}

impl<'t> Insert<'t> {
    fn new(transaction: &'t Transaction<'_>, rows: usize) -> rusqlite::Result<Insert<'t>> {
        let row = format!("({})", ["?"; ROW_NUMBERS + 1].join(","));
        let text = format!("INSERT OR IGNORE INTO attempts VALUES {}", vec![row; rows].join(","));
        Ok(Insert { statement: transaction.prepare_cached(&text)?, bound: vec![None; rows * ROW_NUMBERS] })
    }

    fn bind(&mut self, place: usize, row: &Columns) -> rusqlite::Result<()> {
        let first = place * (ROW_NUMBERS + 1) + 1;
        self.statement.raw_bind_parameter(first + 1, row.attempt_id.to_be_bytes())?;
        let bound = &mut self.bound[place * ROW_NUMBERS..][..ROW_NUMBERS];
        for (at, (bound, number)) in bound.iter_mut().zip(row.numbers).enumerate() {
            if *bound != Some(number) {
                self.statement.raw_bind_parameter(first + at + usize::from(at > 0), number)?;
                *bound = Some(number);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn table() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let columns: Vec<String> = (1..=ROW_NUMBERS).map(|at| format!("c{at}")).collect();
        connection
            .execute_batch(&format!("CREATE TABLE attempts (id INTEGER PRIMARY KEY, {})", columns.join(",")))
            .unwrap();
        connection
    }

    /// The id and one more number, the others derived from it.
    fn columns(id: i64, number: i64) -> Columns {
        let mut numbers = std::array::from_fn(|at| number + at as i64 / 20);
        numbers[0] = id;
        Columns { attempt_id: number as u128, numbers }
    }

    proptest! {
        #[test]
        fn every_row_is_there_once_as_it_came_first_and_told_once(
            batches in vec(vec((0i64..200, 0i64..3), 0..100), 1..5),
        ) {
            let mut connection = table();
            let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
            for batch in batches {
                let mut told = Vec::new();
                let transaction = connection.transaction().unwrap();
                let mut inserts = Inserts::new(&transaction).unwrap();
                for (id, number) in &batch {
                    inserts.add(columns(*id, *number), *id, |id| told.push(id)).unwrap();
                }
                inserts.flush(|id| told.push(id)).unwrap();
                drop(inserts);
                transaction.commit().unwrap();
                let mut new = Vec::new();
                for (id, number) in batch {
                    expected.entry(id).or_insert_with(|| {
                        new.push(id);
                        number
                    });
                }
                prop_assert_eq!(told, new);
            }
            let mut select = connection.prepare("SELECT * FROM attempts ORDER BY id").unwrap();
            let rows: Vec<(i64, u128, Vec<i64>)> = select
                .query_map([], |row| {
                    let numbers = (2..=ROW_NUMBERS).map(|at| row.get(at)).collect::<Result<_, _>>()?;
                    Ok((row.get(0)?, u128::from_be_bytes(row.get(1)?), numbers))
                })
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            let expected: Vec<(i64, u128, Vec<i64>)> = expected
                .into_iter()
                .map(|(id, number)| {
                    let Columns { attempt_id, numbers } = columns(id, number);
                    (id, attempt_id, numbers[1..].to_vec())
                })
                .collect();
            prop_assert_eq!(rows, expected);
        }
    }
}
