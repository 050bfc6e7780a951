//! Rows arrive whole, once, and late rather than never; the ledger serves on meanwhile.

use std::time::Duration;

use tollgate_ledger::{Amounts, AttemptStart, Options, PostgresTarget};
use tollgate_rows_tests::{Books, Postgres, assert_same, wait_until};

#[test]
fn rows_and_their_sums_are_those_of_the_ledger() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.make(3_000);
    books.wait_until_sent();
    let view = books.view();
    assert_eq!((view.written, view.is_connected, view.lag_ms, view.error), (3_000, true, 0, None));
    assert_eq!(assert_same(&postgres, folder.path()), 3_000);
    assert_eq!(postgres.value("SELECT DISTINCT gateway FROM tollgate.attempts"), "default/gateway");
    // More of the same day adds to its sums.
    books.make(500);
    books.close();
    assert_eq!(assert_same(&postgres, folder.path()), 3_500);
    // All was told to be sent: the next process sends nothing again.
    let books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    wait_until("a connection", || books.view().is_connected);
    books.wait_until_sent();
    assert_eq!(books.view().written, 0);
}

#[test]
fn rows_wait_while_the_database_is_away_and_all_arrive() {
    let Some(mut postgres) = Postgres::stopped() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.make(700);
    books.ledger.flush().unwrap();
    wait_until("an error", || books.view().errors > 0);
    let view = books.view();
    assert_eq!((view.is_connected, view.waiting, view.written), (false, 700, 0));
    let error = view.error.unwrap();
    assert!(error.contains("refused") && !error.contains("secret"), "{error}");
    wait_until("the lag", || books.view().lag_ms > 0);
    postgres.begin();
    books.wait_until_sent();
    assert_eq!(assert_same(&postgres, folder.path()), 700);
    for _ in 0..2 {
        postgres.stop();
        books.make(300);
        books.ledger.flush().unwrap();
        assert!(books.view().waiting >= 300);
        postgres.begin();
        books.wait_until_sent();
    }
    // A process that ends while it is away leaves its rows to the next one.
    postgres.stop();
    books.make(100);
    books.close();
    postgres.begin();
    let books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.wait_until_sent();
    books.close();
    assert_eq!(assert_same(&postgres, folder.path()), 1_400);
}

#[test]
fn a_url_that_comes_later_is_waited_for() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    let unknown = PostgresTarget { url: None, gateway: "default/gateway".into(), retention_days: 0 };
    books.ledger.send_rows_to(Some(unknown.clone()));
    books.make(50);
    books.ledger.flush().unwrap();
    wait_until("an error", || books.view().error.is_some());
    assert_eq!(books.view().error.as_deref(), Some("its URL is not known"));
    books.send_to(&postgres.url(), 0);
    books.wait_until_sent();
    // A Secret that cannot be read for a moment changes nothing.
    books.ledger.send_rows_to(Some(unknown));
    books.make(50);
    books.wait_until_sent();
    assert_eq!(assert_same(&postgres, folder.path()), 100);
    // Without a database rows are not kept for one.
    books.ledger.send_rows_to(None);
    books.make(10);
    books.ledger.flush().unwrap();
    assert_eq!(books.view().waiting, 0);
    assert!(!folder.path().join("spool").exists());
    assert_eq!(postgres.rows(), 100);
}

#[test]
fn what_the_spool_has_no_room_for_is_counted_and_nobody_waits() {
    let Some(mut postgres) = Postgres::stopped() else { return };
    let folder = tempfile::tempdir().unwrap();
    let room = 1_000 * (256 + 16);
    let mut books = Books::open_with(Options {
        max_spool_bytes: room,
        segment_bytes: 16 << 10,
        max_segments: 8,
        copy_interval: Duration::from_millis(1),
        ..Options::new(folder.path(), 1)
    });
    books.send_to(&postgres.url(), 0);
    // Many times what journal and spool hold together.
    for _ in 0..100 {
        books.make(60);
        books.ledger.flush().unwrap();
    }
    let view = books.view();
    assert_eq!(view.waiting + view.dropped, 6_000);
    assert!((900..=1_000).contains(&view.waiting), "{view:?}");
    postgres.begin();
    books.wait_until_sent();
    assert_eq!(postgres.rows(), view.waiting);
    // There is room again.
    books.make(60);
    books.wait_until_sent();
    assert_eq!((postgres.rows(), books.view().dropped), (view.waiting + 60, view.dropped));
}

#[test]
fn proxies_that_start_together_make_the_tables_once() {
    let Some(postgres) = Postgres::start() else { return };
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let barrier = std::sync::Barrier::new(folders.len());
    std::thread::scope(|scope| {
        for (number, folder) in folders.iter().enumerate() {
            let (postgres, barrier) = (&postgres, &barrier);
            scope.spawn(move || {
                let mut books = Books::open(folder.path());
                barrier.wait();
                books.send_to(&postgres.url(), 0);
                for _ in 0..10 {
                    for _ in 0..50 {
                        // The same keys and days from all: they add to the same sums.
                        let start = books.start();
                        let attempt_id = start.attempt_id | (number as u128 + 1) << 100;
                        let hold = books.hold(&AttemptStart { attempt_id, ..start });
                        hold.release(200, 1);
                    }
                    books.wait_until_sent();
                }
                assert_eq!((books.view().written, books.view().errors), (500, 0), "{:?}", books.view());
            });
        }
    });
    assert_eq!(postgres.value("SELECT count(*) FROM tollgate.migrations"), "1");
    let counts =
        postgres.query("SELECT count(*) FROM tollgate.attempts UNION ALL SELECT sum(attempts) FROM tollgate.daily");
    assert_eq!(counts, [["2000"], ["2000"]]);
    // A newer version has changed the tables since: this one goes on.
    postgres.query(
        "ALTER TABLE tollgate.attempts ADD COLUMN newer text NOT NULL DEFAULT 'x';
         INSERT INTO tollgate.migrations VALUES (2, now())",
    );
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.start();
    let start = books.start();
    books.hold(&AttemptStart { attempt_id: 9 << 100, ..start }).release(200, 1);
    books.wait_until_sent();
    assert_eq!((postgres.rows(), books.view().errors), (2_001, 0), "{:?}", books.view());
}

#[test]
fn texts_of_clients_stop_no_row() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    let ledger = books.ledger.clone();
    let chosen = |text: &str| ledger.intern_chosen(text).unwrap();
    let long = "ü€😀".repeat(100);
    let texts = ["nul\0nul", "quote\"'\\ \t\n", &long, "\u{202e}"];
    let names = texts.map(chosen);
    let tags = chosen(r#"["a\u0000b","\n"]"#);
    for (number, name) in names.into_iter().enumerate() {
        let start = AttemptStart {
            attempt_id: number as u128 + 1,
            started_at_ms: 1_795_262_400_000,
            key: name,
            team: name,
            user: name,
            model: name,
            deployment: name,
            end_user_name: name,
            tags,
            hold: Amounts::default(),
            ..AttemptStart::default()
        };
        books.hold(&start).release(0, 0);
    }
    books.wait_until_sent();
    let view = books.view();
    assert_eq!((view.written, view.refused, view.errors), (4, 0, 0), "{view:?}");
    assert_eq!(postgres.value("SELECT count(*) FROM tollgate.daily"), "4");
    assert_eq!(postgres.value("SELECT end_user FROM tollgate.attempts WHERE attempt_id::text LIKE '%01'"), "nul nul");
    assert_eq!(postgres.value("SELECT sum(attempts) FROM tollgate.daily_tags"), "8");
}

#[test]
fn a_database_that_takes_no_row_is_not_said_to_work() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.make(10);
    books.wait_until_sent();
    postgres.query("ALTER TABLE tollgate.daily RENAME TO away");
    books.make(10);
    books.ledger.flush().unwrap();
    wait_until("an error", || books.view().errors > 0);
    // It connects again and again.
    wait_until("more errors", || {
        let view = books.view();
        assert!(view.error.is_some(), "{view:?}");
        view.errors > 3
    });
    postgres.query("ALTER TABLE tollgate.away RENAME TO daily");
    books.wait_until_sent();
    assert_eq!((books.view().error, postgres.rows()), (None, 20));
}

#[test]
fn a_row_that_the_database_never_takes_stops_no_other() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    books.send_to(&postgres.url(), 0);
    books.make(10);
    books.wait_until_sent();
    // Something of the owner's that fails for one row in many.
    postgres.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.key = 'default/key-1' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '22000'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON tollgate.attempts FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    books.make(60);
    books.wait_until_sent();
    let view = books.view();
    assert_eq!((view.written, view.refused), (60, 10), "{view:?}");
    assert_eq!(postgres.rows(), 60);
    assert_eq!(postgres.value("SELECT sum(attempts) FROM tollgate.daily"), "60");
}
