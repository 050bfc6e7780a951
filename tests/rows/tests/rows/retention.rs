//! Days of rows go as whole partitions, sums stay, and who reads an old day stops nobody.

use std::time::{SystemTime, UNIX_EPOCH};

use tollgate_ledger::{AttemptStart, Options};
use tollgate_rows_tests::{Books, Postgres, wait_until};

const DAY_MS: i64 = 86_400_000;

/// Rows on each of the last so many days.
fn make_days(books: &mut Books, days: i64) {
    for day in 0..days {
        for _ in 0..20 {
            let start = books.start();
            let started_at_ms = start.started_at_ms - day * DAY_MS;
            books.hold(&AttemptStart { started_at_ms, ..start }).release(200, 1);
        }
    }
    books.wait_until_sent();
}

fn partitions(postgres: &Postgres) -> usize {
    let days = "SELECT count(*) FROM pg_class WHERE relnamespace = 'tollgate'::regnamespace AND relkind = 'r'
                AND relname LIKE 'attempts\\_%'";
    postgres.value(days).parse().unwrap()
}

#[test]
fn old_days_are_dropped_and_their_sums_stay() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    make_days(&mut books, 6);
    // Tomorrow has a place already.
    assert_eq!((postgres.rows(), partitions(&postgres)), (120, 7));
    books.send_to(&postgres.url(), 2);
    wait_until("the end of old days", || partitions(&postgres) == 3);
    assert_eq!(postgres.rows(), 40);
    assert_eq!(postgres.value("SELECT sum(attempts) FROM tollgate.daily"), "120");
    assert_eq!(postgres.value("SELECT count(DISTINCT day) FROM tollgate.daily"), "6");
    // Rows that come too late are counted, in nothing else.
    make_days(&mut books, 4);
    let view = books.view();
    assert_eq!((postgres.rows(), view.expired, view.refused, view.errors), (80, 40, 0, 0), "{view:?}");
    assert_eq!(
        (partitions(&postgres), postgres.value("SELECT sum(attempts) FROM tollgate.daily").as_str()),
        (3, "160")
    );
}

#[test]
fn a_report_on_an_old_day_stops_no_row_and_the_day_goes_afterwards() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    make_days(&mut books, 4);
    let mut report = postgres.session();
    report.run("BEGIN; SELECT count(*) FROM tollgate.attempts");
    books.send_to(&postgres.url(), 2);
    // It waits for the report, gives up, and writes on.
    books.make(30);
    books.wait_until_sent();
    assert_eq!(partitions(&postgres), 5);
    report.run("COMMIT");
    books.send_to(&postgres.url(), 1);
    wait_until("the end of old days", || partitions(&postgres) == 2);
    assert_eq!(postgres.rows(), 50);
}

/// A clock that is a hundred days ahead.
fn ahead() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 + 100 * DAY_MS
}

#[test]
fn a_gateway_whose_clock_is_ahead_removes_nobodys_days() {
    let Some(postgres) = Postgres::start() else { return };
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 90);
    make_days(&mut books, 3);
    let mut wrong = Books::open_with(Options { clock: ahead, ..Options::new(other.path(), 1) });
    wrong.send_to(&postgres.url(), 90);
    // It looks for old days before it writes anything.
    wrong.make(30);
    wrong.wait_until_sent();
    assert_eq!((postgres.rows(), wrong.view().expired), (90, 0), "its own rows neither");
}
