//! A ledger that makes rows, and both of its databases side by side: SQLite, which is proved elsewhere, and PostgreSQL,
//! which must say the same. I/O.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tollgate_ledger::{
    Amounts, AttemptStart, Hold, Ledger, Options, Outcome, PostgresTarget, PostgresView, Settlement, Writer,
};

use crate::{Postgres, wait_until};

const DAY_MS: i64 = 86_400_000;

/// A ledger with one writer.
pub struct Books {
    pub ledger: Ledger,
    pub writer: Writer,
    made: u128,
}

impl Books {
    /// With segments of 63 attempts, copied all the time.
    pub fn open(folder: &Path) -> Books {
        Books::open_with(Options {
            segment_bytes: 16 << 10,
            copy_interval: Duration::from_millis(3),
            ..Options::new(folder, 1)
        })
    }

    pub fn open_with(options: Options) -> Books {
        let (ledger, mut writers, report) = Ledger::open(options).expect("the ledger opens");
        // Ids of one start are not those of another.
        let made = u128::from(report.boot) << 64;
        Books { ledger, writer: writers.remove(0), made }
    }

    /// The id of the next attempt.
    pub fn next_id(&self) -> u128 {
        self.made
    }

    /// Makes so many rows of many kinds, some of them under way at the same time.
    pub fn make(&mut self, rows: usize) {
        for chunk in 0..rows.div_ceil(40) {
            let count = (rows - chunk * 40).min(40);
            let starts: Vec<AttemptStart> = (0..count).map(|_| self.start()).collect();
            let holds: Vec<_> = starts.iter().map(|start| self.hold(start)).collect();
            for (hold, start) in holds.into_iter().zip(&starts) {
                match start.attempt_id % 7 {
                    0 => hold.release(429, 3),
                    1 => hold.charge(200, 4),
                    2 => drop(hold),
                    _ => hold.settle(settlement(start.attempt_id)),
                }
            }
        }
    }

    /// Holds, without budgets.
    pub fn hold(&mut self, start: &AttemptStart) -> Hold {
        if let Ok(hold) = self.writer.try_hold(start, &[]) {
            return hold;
        }
        // The journal is full: tests make rows faster than anybody calls.
        self.ledger.flush().expect("SQLite takes rows");
        self.writer.try_hold(start, &[]).expect("there is room again")
    }

    /// An attempt of its own, today.
    pub fn start(&mut self) -> AttemptStart {
        let number = self.made;
        self.made += 1;
        let ledger = &self.ledger;
        let name = |kind: &str, of: u128| ledger.intern(&format!("{kind}-{}", number % of));
        let tags = match number % 4 {
            0 => ledger.intern(""),
            1 => ledger.intern(r#"["batch"]"#),
            2 => ledger.intern(r#"["batch","käse \"x\"","prod"]"#),
            _ => ledger.intern(r#"["prod"]"#),
        };
        let end_user_name = if number.is_multiple_of(3) { ledger.intern("") } else { name("person", 5) };
        AttemptStart {
            attempt_id: number << 8,
            started_at_ms: now_ms(),
            key: name("default/key", 6),
            team: if number.is_multiple_of(5) { ledger.intern("") } else { name("default/team", 2) },
            user: name("user", 3),
            end_user: if number.is_multiple_of(2) { 0 } else { 0xfeed },
            end_user_name,
            tags,
            model: name("model", 3),
            served_model: name("served", 2),
            deployment: name("default/deployment", 4),
            provider: ledger.intern("openai"),
            namespace: ledger.intern("default"),
            attempt_no: (number % 3) as u8 + 1,
            price_version: ledger.intern("embedded"),
            hold: Amounts { nano_usd: 1_000 + (number % 1_000) as i64, tokens: 10, requests: 1 },
        }
    }

    /// From now on rows go to this URL.
    pub fn send_to(&self, url: &str, retention_days: u32) {
        let target = PostgresTarget { url: Some(url.into()), gateway: "default/gateway".into(), retention_days };
        self.ledger.send_rows_to(Some(target));
    }

    pub fn view(&self) -> PostgresView {
        self.ledger.postgres().expect("rows go to PostgreSQL")
    }

    /// Waits until nothing waits any more.
    pub fn wait_until_sent(&self) {
        self.ledger.flush().expect("SQLite takes rows");
        wait_until("the last row's arrival", || self.view().waiting == 0);
    }

    /// In good order.
    pub fn close(self) {
        drop(self.writer);
        self.ledger.close().expect("the books close");
    }
}

fn settlement(id: u128) -> Settlement {
    let nano_usd = (id % 997) as i64;
    Settlement {
        actual: Amounts { nano_usd, tokens: 5, requests: 1 },
        input_tokens: (id % 31) as u64,
        output_tokens: (id % 17) as u64,
        cache_read_tokens: 1,
        cache_write_tokens: 2,
        reasoning_tokens: 3,
        status: if id.is_multiple_of(11) { 500 } else { 200 },
        outcome: Outcome::Exact,
        duration_ms: 12,
        first_byte_ms: 7,
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    since.as_millis() as i64
}

/// Every row of a ledger's folder as SQLite has it, by attempt, with the columns that [`in_postgres`] gives.
pub fn in_sqlite(folder: &Path) -> Vec<Vec<String>> {
    let path = folder.join("ledger.sqlite");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("there is a copy");
    let texts = ["namespace", "key", "team", "user", "end_user", "model", "served_model", "deployment", "provider"];
    let numbers = [
        "nano_usd",
        "held_nano_usd",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "status",
        "duration_ms",
        "first_byte_ms",
        "started_at_ms",
        "attempt_no",
    ];
    let texts: Vec<String> = texts.iter().map(|name| format!("coalesce({name}, '')")).collect();
    let select = format!(
        "SELECT attempt_id, request_id, {}, coalesce(price_version, ''), outcome, (SELECT coalesce(group_concat(value, ','), '')
         FROM json_each(tags)), {}, over_hold FROM spend ORDER BY attempt_id",
        texts.join(", "),
        numbers.join(", ")
    );
    let mut select = database.prepare(&select).expect("the view has these columns");
    let columns = select.column_count();
    let rows = select.query_map([], |row| {
        (0..columns)
            .map(|at| {
                Ok(match row.get::<_, rusqlite::types::Value>(at)? {
                    rusqlite::types::Value::Integer(number) => number.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    other => panic!("column {at} is {other:?}"),
                })
            })
            .collect()
    });
    rows.and_then(Iterator::collect).expect("rows can be read")
}

fn in_postgres(postgres: &Postgres) -> Vec<Vec<String>> {
    postgres.query(
        "SELECT replace(attempt_id::text, '-', ''), request_id, namespace, key, team, user_name, end_user, model, \
         served_model, deployment, provider, price, outcome, array_to_string(tags, ','), nano_usd, held_nano_usd, \
         input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, status, duration_ms, \
         first_byte_ms, (extract(epoch FROM started_at) * 1000)::bigint, attempt_no, over_hold::int \
         FROM tollgate.attempts ORDER BY 1",
    )
}

/// How many rows of a ledger's folder PostgreSQL does not have, or has otherwise.
pub fn missing(postgres: &Postgres, folder: &Path) -> usize {
    let theirs: HashSet<Vec<String>> = in_postgres(postgres).into_iter().collect();
    in_sqlite(folder).iter().filter(|row| !theirs.contains(*row)).count()
}

/// Both have the same rows, each once, and the sums of days are the sums of rows.
///
/// # Panics
/// They differ.
pub fn assert_same(postgres: &Postgres, folder: &Path) -> usize {
    let (theirs, ours) = (in_postgres(postgres), in_sqlite(folder));
    assert_eq!(theirs.len(), ours.len(), "rows in PostgreSQL (left) and in SQLite (right)");
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours, "a row in PostgreSQL (left) and in SQLite (right)");
    }
    assert_sums(postgres);
    assert_sums_in_sqlite(folder);
    ours.len()
}

const SUMS: &str = "count(*), count(*) FILTER (WHERE status >= 400 OR status = 0), sum(nano_usd), sum(input_tokens), \
    sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(reasoning_tokens)";

fn assert_sums(postgres: &Postgres) {
    let day = "(started_at AT TIME ZONE 'UTC')::date";
    for (table, of_rows) in [
        (
            "daily",
            format!(
                "SELECT {day}, key, team, user_name, model, deployment, {SUMS} FROM tollgate.attempts
                 GROUP BY 1, 2, 3, 4, 5, 6"
            ),
        ),
        (
            "daily_tags",
            format!(
                "SELECT {day}, tag, key, model, {SUMS} FROM tollgate.attempts, unnest(tags) AS tag
                 GROUP BY 1, 2, 3, 4"
            ),
        ),
    ] {
        for (more, less) in [
            (format!("SELECT * FROM tollgate.{table}"), of_rows.clone()),
            (of_rows.clone(), format!("SELECT * FROM tollgate.{table}")),
        ] {
            let different = postgres.query(&format!("({more}) EXCEPT ({less})"));
            assert_eq!(different, Vec::<Vec<String>>::new(), "{table} is not the sums of rows");
        }
    }
}

fn assert_sums_in_sqlite(folder: &Path) {
    let path = folder.join("ledger.sqlite");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("there is a copy");
    for (table, of_rows) in [
        (
            "daily",
            format!(
                "SELECT started_at_ms / {DAY_MS} AS day, key, team, user, model, deployment, {SUMS} FROM attempts
                 GROUP BY 1, 2, 3, 4, 5, 6"
            ),
        ),
        (
            "daily_tags",
            format!(
                "SELECT started_at_ms / {DAY_MS} AS day, tag.value, attempts.key, model, {SUMS}
                 FROM attempts JOIN names ON names.id = tags, json_each(names.name) AS tag GROUP BY 1, 2, 3, 4"
            ),
        ),
    ] {
        for (more, less) in
            [(format!("SELECT * FROM {table}"), of_rows.clone()), (of_rows.clone(), format!("SELECT * FROM {table}"))]
        {
            let count = format!("SELECT count(*) FROM ({more} EXCEPT {less})");
            let different: i64 = database.query_row(&count, [], |row| row.get(0)).expect("sums can be read");
            assert_eq!(different, 0, "{table} in SQLite is not the sums of rows");
        }
    }
}
