//! How many rows a second reach PostgreSQL, and what the calls that make them feel of it:
//! `cargo run --release -p tollgate-rows-tests --bin rows-speed -- [ROWS A SECOND] [SECONDS]`. Prints a line; exits with 1
//! where rows came slower than they were made. The server is one of its own, with its usual settings.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tollgate_ledger::Options;
use tollgate_rows_tests::{Books, Postgres};

fn main() -> ExitCode {
    let number = |at: usize, usual: u64| std::env::args().nth(at).map_or(Ok(usual), |text| text.parse());
    let (Ok(rate), Ok(seconds)) = (number(1, 12_000), number(2, 20)) else {
        eprintln!("usage: rows-speed [ROWS A SECOND] [SECONDS]");
        return ExitCode::from(2);
    };
    let Some(postgres) = Postgres::start() else { return ExitCode::from(2) };
    let folder = tempfile::tempdir().expect("a folder for the ledger");
    let mut books = Books::open_with(Options::new(folder.path(), 1));
    books.send_to(&postgres.url(), 0);
    tollgate_rows_tests::wait_until("a connection", || books.view().is_connected);
    let rows = rate * seconds;
    let mut latencies = Vec::with_capacity(rows as usize);
    let begun = Instant::now();
    let mut most_waiting = 0;
    for row in 0..rows {
        let due = begun + Duration::from_secs_f64(row as f64 / rate as f64);
        let early = due.saturating_duration_since(Instant::now());
        if early > Duration::from_millis(1) {
            std::thread::sleep(early);
            most_waiting = most_waiting.max(books.view().waiting);
        }
        let start = books.start();
        let before = Instant::now();
        books.hold(&start).release(200, 1);
        latencies.push(before.elapsed());
    }
    let made = begun.elapsed();
    let at_end = books.view().waiting;
    books.wait_until_sent();
    let sent = begun.elapsed();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let view = books.view();
    println!(
        "{} rows in PostgreSQL after {:.1} s: {:.0} a second, made at {:.0} a second; at most {most_waiting} waited, {at_end} at \
         the end; a call's hold and release took {:?} (median), {:?} (99 %), {:?} (99.9 %), {:?} (most)",
        postgres.rows(),
        sent.as_secs_f64(),
        rows as f64 / sent.as_secs_f64(),
        rows as f64 / made.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
    let is_whole = postgres.rows() == rows && view.dropped == 0;
    let kept_up = (rows as f64 / sent.as_secs_f64()) > 0.85 * rate as f64;
    if is_whole && kept_up { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
