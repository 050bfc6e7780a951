//! Which database, from its URL: `postgres://user:password@host:5432/database?sslmode=verify-full`. Pure, but for the
//! certificate authorities that a URL names.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;

use super::tls::{Tls, Verify};

/// Until a connection is there.
const CONNECT: Duration = Duration::from_secs(5);

/// What was sent must be acknowledged by then, or the connection is dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Where rows go.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresTarget {
    /// `None`: it is not known (yet), and rows wait.
    pub url: Option<Arc<str>>,
    /// `namespace/name`, for a column of each row.
    pub gateway: Arc<str>,
    /// Days that rows are kept; 0: for ever.
    pub retention_days: u32,
}

impl std::fmt::Debug for PostgresTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PostgresTarget { url, gateway, retention_days } = self;
        f.debug_struct("PostgresTarget")
            .field("url", &url.as_ref().map(|_| "<secret>"))
            .field("gateway", gateway)
            .field("retention_days", retention_days)
            .finish()
    }
}

/// How to connect.
pub struct Way {
    pub config: Config,
    pub tls: Tls,
    /// Host and database, for people.
    pub place: String,
}

/// Reads a URL. `sslmode`: `disable`, `prefer` (as libpq, the default), `require` (TLS with any certificate), `verify-ca`
/// and `verify-full` (a certificate of that host, by the system's authorities or those of `sslrootcert`, a file).
///
/// # Errors
/// What is wrong with it, without its text: it holds a password.
pub fn read(url: &str) -> Result<Way, String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("it does not begin with postgres://".to_owned());
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut verify = Verify::Nothing;
    let mut authorities = None;
    let mut kept: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", "verify-full" | "verify-ca")) => {
                verify = Verify::Host;
                kept.push("sslmode=require".to_owned());
            }
            // Channels are not bound; the certificate is what is verified.
            Some(("channel_binding", "prefer" | "disable")) => {}
            Some(("sslrootcert", "system")) => verify = Verify::Host,
            Some(("sslrootcert", path)) => authorities = Some(path.to_owned()),
            _ => kept.push(pair.to_owned()),
        }
    }
    let mut text = base.to_owned();
    if !kept.is_empty() {
        text = format!("{text}?{}", kept.join("&"));
    }
    let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| super::sender::chain(&error))?;
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => return Err("it names no host".to_owned()),
    };
    let database = config.get_dbname().or_else(|| config.get_user()).unwrap_or_default();
    let place = format!("{host}/{database}");
    if config.get_application_name().is_none() {
        config.application_name("tollgate");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    config.tcp_user_timeout(UNACKNOWLEDGED).keepalives_idle(UNACKNOWLEDGED);
    Ok(Way { config, tls: Tls::new(verify, authorities.as_deref())?, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_libpq_reads_them_and_wrong_ones_do_not_show_their_password() {
        let way = read("postgres://u:secret@db.example:6543/rows?sslmode=verify-full&application_name=x").unwrap();
        assert_eq!((way.place.as_str(), way.config.get_application_name()), ("db.example/rows", Some("x")));
        assert_eq!(way.config.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
        let way = read("postgresql://u:secret@db.example/rows?channel_binding=prefer").unwrap();
        assert_eq!(way.config.get_ssl_mode(), tokio_postgres::config::SslMode::Prefer);
        for url in [
            "mysql://u:secret@h/d",
            "postgres://u:secret@h:port/d",
            "postgres://u:secret@h/d?sslmode=secret",
            "postgres://u:secret@h/d?sslmode=verify-full&sslrootcert=/nowhere",
        ] {
            let error = read(url).err().expect(url);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
