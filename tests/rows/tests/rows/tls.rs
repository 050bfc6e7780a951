//! The connection to the database under TLS, as libpq means its words.

use std::path::{Path, PathBuf};

use tollgate_rows_tests::{Books, Postgres, wait_until};

/// Pairs for `localhost`, each of its own authority.
fn certificates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../stages/tests/certificates")
}

#[test]
fn tls_is_used_and_verified_as_the_url_says() {
    let Some(postgres) = Postgres::start_with_tls(&certificates(), "one") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut books = Books::open(folder.path());
    let trusting = |name: &str| format!("sslmode=verify-full&sslrootcert={}", certificates().join(name).display());
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE ssl AND application_name = 'tollgate'";
    let mut rows = 0;
    for (host, parameters, is_encrypted) in [
        ("127.0.0.1", "sslmode=disable", "0"),
        ("127.0.0.1", "application_name=tollgate", "1"),
        ("127.0.0.1", "sslmode=require", "1"),
        ("localhost", &trusting("one.crt"), "1"),
    ] {
        books.send_to(&postgres.url_with(host, parameters), 0);
        books.make(10);
        books.wait_until_sent();
        rows += 10;
        assert_eq!(postgres.rows(), rows, "{parameters}");
        // The connection before it takes a moment to end.
        wait_until("the right connection", || postgres.value(encrypted) == is_encrypted);
    }
    for (host, parameters) in [
        ("127.0.0.1", trusting("one.crt")),
        ("localhost", trusting("two.crt")),
        ("localhost", "sslmode=verify-full".to_owned()),
    ] {
        let errors = books.view().errors;
        books.send_to(&postgres.url_with(host, &parameters), 0);
        books.make(10);
        wait_until("a refusal", || books.view().errors > errors);
        let error = books.view().error.unwrap();
        assert!(error.to_lowercase().contains("certificate"), "{error}");
        assert_eq!(postgres.rows(), rows, "{parameters}");
    }
    books.send_to(&postgres.url(), 0);
    books.wait_until_sent();
    assert_eq!(postgres.rows(), rows + 30);
}
