//! Connections to providers, kept per core and per endpoint, newest first. A connection is in the pool only while it is
//! idle: it comes back when its answer was read to the end, so nobody ever waits behind another's stream.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tollgate_snapshot::model::Endpoint;

use super::answer::Body;
use super::connect::Stream;
use super::connection::{Broken, Connection, Message};
use super::head::{Head, Parsed};
use super::{ConnectError, Connector};

/// Idle connections kept per endpoint and core.
const MAX_IDLE: usize = 1_024;

/// How often [`Pool::sweep`] is to be called.
pub const SWEEP: Duration = Duration::from_secs(10);

/// Sweeps that an idle connection outlives: it is closed after 40 to 50 s, below what providers and load balancers use
/// (60 s and more), so that we close first. Counting them costs a call no look at the clock.
const IDLE_SWEEPS: u64 = 5;

/// The idle connections of one core.
#[derive(Debug)]
pub struct Pool {
    idle: Rc<IdleLists>,
    connector: Connector,
}

#[derive(Debug, Default)]
struct IdleLists {
    /// One for each [`Target::id`].
    lists: RefCell<Vec<Vec<Idle>>>,
    sweeps: Cell<u64>,
}

/// An endpoint with the number that its connections are kept under: equal endpoints have equal numbers.
#[derive(Clone, Debug)]
pub struct Target {
    pub id: usize,
    pub endpoint: Endpoint,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection<Stream>>,
    /// Sweeps before it came.
    since: u64,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Sent {
    pub head: Head,
    pub body: Body,
}

/// The list that a connection belongs to.
#[derive(Debug)]
pub struct Home {
    target: usize,
    idle: Weak<IdleLists>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The same as `Broken`, by our clock.
    #[error("no answer came in time")]
    TimedOut,
    /// Something may have been sent; whether the provider worked on it is unknown.
    #[error("the connection broke before an answer came")]
    Broken(#[source] Broken),
}

impl From<Broken> for SendError {
    fn from(broken: Broken) -> SendError {
        match broken {
            Broken::TimedOut => SendError::TimedOut,
            broken => SendError::Broken(broken),
        }
    }
}

impl Pool {
    pub fn new(connector: Connector) -> Pool {
        Pool { idle: Rc::default(), connector }
    }

    /// Sends a request and waits for the head of its answer, at most `until` then. Connections of the pool that turn out to be dead before
    /// anything was written to them are passed over.
    ///
    /// # Errors
    /// See [`SendError`]. Cancelling closes the connection.
    pub async fn send(
        &self,
        target: &Target,
        message: &Message,
        connect_timeout: Duration,
        until: Instant,
    ) -> Result<Sent, SendError> {
        crate::turn::end().await;
        while let Some(mut connection) = self.take_idle(target.id) {
            match connection.exchange(message, until.into()).await {
                Ok(parsed) => return Ok(self.sent(parsed, connection, target.id)),
                // The provider closed it while it was idle: the request never left.
                Err(Broken::NotSent) => {}
                Err(broken) => return Err(broken.into()),
            }
        }
        // Boxed: its state (names, TLS) is large, and nearly no call needs it.
        let left = until.saturating_duration_since(Instant::now());
        let connected = Box::pin(self.connect(&target.endpoint, connect_timeout.min(left))).await;
        let mut connection = match connected {
            Err(_) if Instant::now() >= until => return Err(SendError::TimedOut),
            connected => connected?,
        };
        let parsed = connection.exchange(message, until.into()).await?;
        Ok(self.sent(parsed, connection, target.id))
    }

    fn sent(&self, parsed: Parsed, connection: Box<Connection<Stream>>, target: usize) -> Sent {
        let Parsed { head, framing, keep_alive } = parsed;
        let home = keep_alive.then(|| Home { target, idle: Rc::downgrade(&self.idle) });
        Sent { head, body: Body::new(connection, framing.into(), home) }
    }

    fn take_idle(&self, target: usize) -> Option<Box<Connection<Stream>>> {
        let mut lists = self.idle.lists.borrow_mut();
        let list = lists.get_mut(target)?;
        while let Some(mut entry) = list.pop() {
            if entry.connection.is_idle() {
                return Some(entry.connection);
            }
        }
        None
    }

    async fn connect(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Box<Connection<Stream>>, ConnectError> {
        let timed_out = || ConnectError::Tcp {
            host: endpoint.host.to_string(),
            source: std::io::Error::new(std::io::ErrorKind::TimedOut, "connect timeout"),
        };
        let stream =
            tokio::time::timeout(timeout, self.connector.connect(endpoint)).await.map_err(|_| timed_out())??;
        Ok(Box::new(Connection::new(stream)))
    }

    /// Closes what has been idle for too long, or was closed by its provider. To be called every [`SWEEP`].
    pub fn sweep(&self) {
        let sweeps = self.idle.sweeps.get() + 1;
        self.idle.sweeps.set(sweeps);
        for list in self.idle.lists.borrow_mut().iter_mut() {
            list.retain_mut(|idle| sweeps - idle.since < IDLE_SWEEPS && idle.connection.is_idle());
        }
    }
}

impl Home {
    /// Gives the connection back.
    pub fn put(self, connection: Box<Connection<Stream>>) {
        let Some(idle) = self.idle.upgrade() else { return };
        let mut lists = idle.lists.borrow_mut();
        if lists.len() <= self.target {
            lists.resize_with(self.target + 1, Vec::new);
        }
        let list = &mut lists[self.target];
        if list.len() < MAX_IDLE {
            list.push(Idle { connection, since: idle.sweeps.get() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Unread;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const ROOM: Duration = Duration::from_secs(5);

    /// Answers requests of one byte; every answer is one of `answers`, a connection after another where an answer ends
    /// with its connection.
    async fn serve(listener: TcpListener, answers: &[&[&str]]) {
        for of_connection in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in *of_connection {
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    /// What calls in a row get from answers on so many connections.
    async fn call(answers: &[&[&str]], limit: usize) -> Vec<Result<Bytes, Unread>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint { tls: false, host: "127.0.0.1".into(), port, path: "".into() };
        let target = Target { id: 3, endpoint };
        let pool = Pool::new(Connector::new(true));
        let message = Message::new(b"x".to_vec(), &[]);
        let calling = async {
            let mut got = Vec::new();
            for _ in 0..answers.iter().map(|answers| answers.len()).sum() {
                let sent = pool.send(&target, &message, ROOM, Instant::now() + ROOM).await.unwrap();
                got.push(sent.body.whole(limit).await);
            }
            got
        };
        tokio::time::timeout(ROOM, async { tokio::join!(calling, serve(listener, answers)).0 }).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_serves_again_after_a_body_of_either_framing() {
        let by_length = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nt: u\r\n\r\n";
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        let got = call(&[&[by_length, chunked, empty, by_length]], 100).await;
        let bodies: Vec<_> = got.into_iter().map(|body| body.unwrap()).collect();
        assert_eq!(bodies, ["ok", "ok", "", "ok"]);
    }

    #[tokio::test]
    async fn a_connection_that_may_not_serve_again_does_not() {
        let to_the_end = "HTTP/1.1 200 OK\r\n\r\nall of it";
        let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        let too_much = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nz";
        let got = call(&[&[to_the_end], &[closing], &[too_much], &[closing]], 100).await;
        let bodies: Vec<_> = got.into_iter().map(|body| body.unwrap()).collect();
        assert_eq!(bodies, ["all of it", "ok", "ok", "ok"]);
    }

    #[tokio::test]
    async fn a_body_that_ends_too_soon_or_is_too_large_is_an_error() {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokx",
        ] {
            let got = call(&[&[answer]], 100).await;
            assert!(matches!(got[..], [Err(Unread::Broken(_))]), "{answer}");
        }
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n123456",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n123456\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n123456",
        ] {
            assert!(matches!(call(&[&[answer]], 5).await[..], [Err(Unread::TooLarge)]), "{answer}");
            assert!(matches!(call(&[&[answer]], 6).await[..], [Ok(_)]), "{answer}");
        }
    }
}
