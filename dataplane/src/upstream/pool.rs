//! Connections to providers, kept per core and per endpoint, newest first. A connection is in the pool only while it is
//! idle: it comes back when its response was read to the end **and** it is ready for the next request, so nobody ever
//! waits behind another's stream.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tollgate_snapshot::model::Endpoint;

use super::{ConnectError, Connector, UpstreamBody};

/// Idle connections kept per endpoint and core.
const MAX_IDLE: usize = 1_024;

/// Below what providers and load balancers use (60 s and more), so that we close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// The idle connections of one core.
#[derive(Debug)]
pub struct Pool {
    idle: Rc<IdleLists>,
    connector: Connector,
}

/// One list for each [`Target::id`].
type IdleLists = RefCell<Vec<Vec<Idle>>>;

/// An endpoint with the number that its connections are kept under: equal endpoints have equal numbers.
#[derive(Clone, Debug)]
pub struct Target {
    pub id: usize,
    pub endpoint: Endpoint,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<UpstreamBody>,
    since: Instant,
}

/// An answer, and the connection it comes on.
#[derive(Debug)]
pub struct Sent {
    pub response: Response<Incoming>,
    pub lease: Lease,
}

/// Gives a connection back to the pool once its response was read to the end; dropped before, it closes.
#[derive(Debug)]
pub struct Lease {
    sender: Option<SendRequest<UpstreamBody>>,
    target: usize,
    idle: Weak<IdleLists>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Something may have been sent; whether the provider worked on it is unknown.
    #[error("the connection broke before an answer came")]
    Broken(#[source] hyper::Error),
}

impl Pool {
    pub fn new(connector: Connector) -> Pool {
        Pool { idle: Rc::default(), connector }
    }

    /// Sends a request and waits for the head of its answer. `make` is called once more if a connection from the pool
    /// turns out to be dead before anything was written to it.
    ///
    /// # Errors
    /// See [`SendError`]. Cancelling closes the connection.
    pub async fn send(
        &self,
        target: &Target,
        mut make: impl FnMut() -> Request<UpstreamBody>,
        connect_timeout: Duration,
    ) -> Result<Sent, SendError> {
        while let Some(mut sender) = self.take_idle(target.id) {
            match sender.try_send_request(make()).await {
                Ok(response) => return Ok(self.sent(response, sender, target.id)),
                Err(mut failed) => match failed.take_message() {
                    // The provider closed it while it was idle: the request never left.
                    Some(_) => continue,
                    None => return Err(SendError::Broken(failed.into_error())),
                },
            }
        }
        // Boxed: its state (names, TLS) is large, and nearly no call needs it.
        let mut sender = Box::pin(self.connect(&target.endpoint, connect_timeout)).await?;
        match sender.try_send_request(make()).await {
            Ok(response) => Ok(self.sent(response, sender, target.id)),
            Err(failed) => Err(SendError::Broken(failed.into_error())),
        }
    }

    fn sent(&self, response: Response<Incoming>, sender: SendRequest<UpstreamBody>, target: usize) -> Sent {
        let lease = Lease { sender: Some(sender), target, idle: Rc::downgrade(&self.idle) };
        Sent { response, lease }
    }

    fn take_idle(&self, target: usize) -> Option<SendRequest<UpstreamBody>> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(target)?;
        while let Some(entry) = list.pop() {
            if entry.sender.is_ready() && entry.since.elapsed() < IDLE_TIMEOUT {
                return Some(entry.sender);
            }
        }
        None
    }

    async fn connect(&self, endpoint: &Endpoint, timeout: Duration) -> Result<SendRequest<UpstreamBody>, ConnectError> {
        let timed_out = || ConnectError::Tcp {
            host: endpoint.host.to_string(),
            source: std::io::Error::new(std::io::ErrorKind::TimedOut, "connect timeout"),
        };
        let stream =
            tokio::time::timeout(timeout, self.connector.connect(endpoint)).await.map_err(|_| timed_out())??;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| ConnectError::Tcp {
            host: endpoint.host.to_string(),
            source: std::io::Error::other(error),
        })?;
        // Ends with its sender or its peer; a failure reaches whoever waits for the response.
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "provider connection ended");
            }
        });
        Ok(sender)
    }

    /// Closes what has been idle for too long. Called now and then by the core.
    pub fn sweep(&self) {
        for list in self.idle.borrow_mut().iter_mut() {
            list.retain(|entry| entry.sender.is_ready() && entry.since.elapsed() < IDLE_TIMEOUT);
        }
    }
}

impl Lease {
    /// The response was read to its end: the connection may serve again.
    pub fn finished(mut self) {
        let (Some(mut sender), Some(idle)) = (self.sender.take(), self.idle.upgrade()) else { return };
        let target = self.target;
        if sender.is_ready() {
            put(&idle, target, sender);
        } else if !sender.is_closed() {
            tokio::task::spawn_local(async move {
                if sender.ready().await.is_ok() {
                    put(&idle, target, sender);
                }
            });
        }
    }
}

fn put(idle: &IdleLists, target: usize, sender: SendRequest<UpstreamBody>) {
    let mut idle = idle.borrow_mut();
    if idle.len() <= target {
        idle.resize_with(target + 1, Vec::new);
    }
    let list = &mut idle[target];
    if list.len() < MAX_IDLE {
        list.push(Idle { sender, since: Instant::now() });
    }
}
