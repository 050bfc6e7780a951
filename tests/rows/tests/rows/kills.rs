//! `kill -9` of the database and of the process that writes, at random and at named points: no row is lost, none is there
//! twice, and sums count each once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tollgate_faults::{Run, seeds, this_test};
use tollgate_harness::SmallDisk;
use tollgate_rows_tests::{Books, Postgres, Relay, assert_same, in_sqlite, missing, wait_until};

const CHILD: &str = "ROWS_TEST_CHILD";
const URL: &str = "ROWS_TEST_URL";

/// What a transaction writes after its COPY, in this order; who locks one stops it there.
const WRITTEN: [&str; 3] = ["attempts", "daily", "daily_tags"];

/// Who makes tables holds it: "tollgate" in ASCII.
const TABLES_LOCK: i64 = 0x746f_6c6c_6761_7465;

/// Not a test by itself: the process that is killed. Makes rows without end.
#[test]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let mut books = Books::open(Path::new(&folder));
    books.send_to(&std::env::var(URL).unwrap(), 0);
    println!("\n@ready");
    loop {
        books.make(120);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn start_child(folder: &Path, url: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::child", "--nocapture"])
        .env(CHILD, folder)
        .env(URL, url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "@ready"), "the child ended");
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A process after the one that was killed sends what is left.
fn settle(postgres: &Postgres, folder: &Path) {
    let books = Books::open(folder);
    books.send_to(&postgres.url(), 0);
    books.wait_until_sent();
    books.close();
}

/// Both databases must say the same. Tells what a fault of the list came to.
fn judge(fault: &str, times: usize, postgres: &Postgres, folder: &Path) -> usize {
    Run::of(fault, in_sqlite(folder).len()).times(times).rows_lost(missing(postgres, folder)).tell();
    assert_same(postgres, folder)
}

/// Whether the writer waits for a lock inside of its transaction.
fn waits_for_lock(postgres: &Postgres) -> bool {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollgate' AND wait_event_type = 'Lock'";
    postgres.value(waiting) != "0"
}

#[test]
fn the_writer_is_killed_after_copy_and_before_commit() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    for table in WRITTEN {
        let rows = postgres.rows();
        let child = start_child(folder.path(), &postgres.url());
        wait_until("rows", || postgres.rows() > rows + 200);
        let mut lock = postgres.session();
        lock.run(&format!("BEGIN; LOCK TABLE tollgate.{table} IN ACCESS EXCLUSIVE MODE"));
        wait_until("the writer's wait", || waits_for_lock(&postgres));
        kill(child);
        drop(lock);
        settle(&postgres, folder.path());
    }
    assert!(judge("writer-before-commit", WRITTEN.len(), &postgres, folder.path()) > 600);
}

#[test]
fn the_writer_is_killed_after_commit_and_before_it_hears_of_it() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(postgres.port());
    for _ in 0..2 {
        let rows = postgres.rows();
        let child = start_child(folder.path(), &postgres.url_at(relay.port()));
        wait_until("rows", || postgres.rows() > rows + 200);
        relay.hold_answer_to_commit();
        wait_until("a commit", || relay.is_held());
        // Nothing more comes: what was committed stays so.
        wait_until("the end of the transaction", || {
            postgres
                .value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollgate' AND state <> 'idle'")
                == "0"
        });
        kill(child);
        relay.release();
        let committed = postgres.rows();
        settle(&postgres, folder.path());
        assert!(postgres.rows() >= committed);
    }
    judge("writer-before-news", 2, &postgres, folder.path());
}

#[test]
fn the_writer_is_killed_at_random() {
    let Some(postgres) = Postgres::start() else { return };
    seeds::histories(this_test!(), 1, |seed| {
        let folder = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..6 {
            let child = start_child(folder.path(), &postgres.url());
            std::thread::sleep(Duration::from_millis(random.u64(5..400)));
            kill(child);
            settle(&postgres, folder.path());
        }
        judge("writer-random", 6, &postgres, folder.path());
    });
}

#[test]
fn the_database_is_killed_after_copy_and_before_commit() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.make(200);
    books.wait_until_sent();
    for table in WRITTEN {
        let errors = books.view().errors;
        let mut lock = postgres.session();
        lock.run(&format!("BEGIN; LOCK TABLE tollgate.{table} IN ACCESS EXCLUSIVE MODE"));
        books.make(200);
        books.ledger.flush().unwrap();
        wait_until("the writer's wait", || waits_for_lock(&postgres));
        postgres.kill();
        drop(lock);
        wait_until("an error", || books.view().errors > errors);
        books.make(100);
        postgres.begin();
        books.wait_until_sent();
    }
    assert_eq!(judge("postgres-before-commit", WRITTEN.len(), &postgres, folder.path()), 1_100);
}

#[test]
fn the_database_is_killed_while_its_tables_are_made() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(postgres.port());
    let mut books = Books::open(folder.path());
    let mut lock = postgres.session();
    lock.run(&format!("BEGIN; SELECT pg_advisory_xact_lock({TABLES_LOCK})"));
    books.send_to(&postgres.url_at(relay.port()), 0);
    books.make(200);
    wait_until("the writer's wait", || waits_for_lock(&postgres));
    postgres.kill();
    drop(lock);
    wait_until("an error", || books.view().errors > 0);
    relay.hold_answer_to_commit();
    postgres.begin();
    wait_until("a commit", || relay.is_held());
    postgres.kill();
    relay.release();
    postgres.begin();
    books.wait_until_sent();
    assert_eq!(judge("postgres-tables", 2, &postgres, folder.path()), 200);
}

#[test]
fn the_database_is_killed_after_commit_and_before_the_answer() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(postgres.port());
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url_at(relay.port()), 0);
    books.make(200);
    books.wait_until_sent();
    relay.hold_answer_to_commit();
    books.make(200);
    wait_until("a commit", || relay.is_held());
    wait_until("the commit's end", || postgres.rows() > 200);
    assert!(books.view().waiting > 0);
    postgres.kill();
    relay.release();
    postgres.begin();
    books.wait_until_sent();
    assert_eq!(judge("postgres-before-answer", 1, &postgres, folder.path()), 400);
    // The database noticed those that came twice.
    assert!(books.view().written < 400, "{:?}", books.view());
}

#[test]
fn the_database_has_no_space_left() {
    let mut disk = None;
    let Some(mut postgres) = Postgres::stopped_on(|folder| disk = SmallDisk::mount(folder, "200m")) else { return };
    let Some(disk) = disk else {
        eprintln!("SKIPPED: the_database_has_no_space_left: no small tmpfs can be mounted here (needs root)");
        return;
    };
    postgres.begin();
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.make(200);
    books.wait_until_sent();
    let filler = disk.fill();
    let mut made = 200;
    wait_until("an error", || {
        books.make(80);
        made += 80;
        books.view().errors > 0
    });
    drop(filler);
    disk.empty();
    // Where it could not write its own log it gave up.
    postgres.begin_if_ended();
    books.wait_until_sent();
    assert_eq!(judge("postgres-disk-full", 1, &postgres, folder.path()), made);
}

#[test]
fn the_database_is_killed_at_random_while_rows_come() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    seeds::histories(this_test!(), 1, |seed| kill_while_rows_come(&mut postgres, folder.path(), seed));
}

fn kill_while_rows_come(postgres: &mut Postgres, folder: &Path, seed: u64) {
    let mut books = Books::open(folder);
    books.send_to(&postgres.url(), 0);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut made = 0;
    for _ in 0..4 {
        let until = Instant::now() + Duration::from_millis(random.u64(50..500));
        while Instant::now() < until {
            books.make(80);
            made += 80;
        }
        postgres.kill();
        books.make(80);
        made += 80;
        postgres.begin();
    }
    books.wait_until_sent();
    assert_eq!(judge("postgres-random", 4, postgres, folder), made);
}
