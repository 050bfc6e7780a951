//! The mock's front: starting, controlling and stopping it. Owns the listener and every connection's task. I/O.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::invoice::{CancelBilling, InvoiceRow};
use crate::link::{Link, Wire};
use crate::script::Step;
use crate::serve;
use crate::state::{Books, SeenRequest, State};

/// How long [`Mock::stop`] lets answers in flight finish before it breaks them.
const DRAIN: Duration = Duration::from_secs(5);

/// How long is waited for what should happen. One that never does is a failure, and does not hold up all others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause after a failed accept, so that a full table of descriptors does not spin a core.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// How to start a mock.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. Default `127.0.0.1:0`.
    pub addr: SocketAddr,
    /// What a stream costs whose client leaves.
    pub cancel_billing: CancelBilling,
    /// The only API key accepted; default: any, or none.
    pub key: Option<String>,
    /// What `/v1/models` lists. Any other model is served all the same.
    pub models: Vec<String>,
    /// Newest requests remembered. Default 10,000 (and 64 MiB of bodies).
    pub keep_requests: usize,
    /// Newest invoice rows remembered. Default 100,000.
    pub keep_invoice: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            cancel_billing: CancelBilling::Stops,
            key: None,
            models: ["mock-gpt", "mock-claude", "mock-embedding"].map(str::to_string).into(),
            keep_requests: 10_000,
            keep_invoice: 100_000,
        }
    }
}

/// A running mock provider. Dropping it breaks every connection at once.
pub struct Mock {
    addr: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

impl Mock {
    /// Listens and serves on the current runtime, of either flavour.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(options: Options) -> io::Result<Mock> {
        let (listener, state) = listen(options).await?;
        let addr = listener.local_addr()?;
        let server = tokio::spawn(accept(listener, state.clone()));
        Ok(Mock { addr, state, server })
    }

    /// Serves in the current task until `cancelled` resolves, then drains. `ready` gets the address listened on.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn run(
        options: Options,
        ready: impl FnOnce(SocketAddr),
        cancelled: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (listener, state) = listen(options).await?;
        ready(listener.local_addr()?);
        let stop = async {
            cancelled.await;
            state.stop();
        };
        tokio::join!(accept(listener, state.clone()), stop);
        Ok(())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://host:port`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The rows written so far, in the order requests ended.
    pub fn invoice(&self) -> Vec<InvoiceRow> {
        self.state.read().invoice.iter().cloned().collect()
    }

    /// The requests seen so far, in order of arrival.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state.read().seen.iter().cloned().collect()
    }

    /// Requests being served now: seen, and without a row yet.
    pub fn in_flight(&self) -> usize {
        self.state.read().in_flight
    }

    /// Adds steps to the queue of `matcher`: a model (or Azure deployment), a path that starts with `/`, or `*`. A
    /// request takes the first step of its model's queue, else of its path's, else of `*`; without any, the default.
    pub fn script(&self, matcher: impl Into<String>, steps: impl IntoIterator<Item = impl Into<Step>>) {
        let steps: Vec<Step> = steps.into_iter().map(Into::into).collect();
        self.state.change(|books| books.scripts.entry(matcher.into()).or_default().extend(steps));
    }

    /// Steps not taken yet, repeats counted.
    pub fn scripted(&self) -> usize {
        self.state.read().scripts.values().flatten().map(|step| step.repeat as usize).sum()
    }

    /// Forgets scripts, requests, the invoice, open gates and the prompt cache. Requests in flight stay.
    pub fn clear(&self) {
        self.state.clear_scripts();
        self.state.clear_invoice();
        self.state.clear_requests();
        self.state.change(|books| {
            books.open_gates.clear();
            books.cached_prefixes.clear();
        });
    }

    /// Forgets the scripts.
    pub fn clear_script(&self) {
        self.state.clear_scripts();
    }

    /// Forgets the invoice.
    pub fn clear_invoice(&self) {
        self.state.clear_invoice();
    }

    /// Lets all requests at this gate pass, and all that come to it until [`Mock::close_gate`].
    pub fn open_gate(&self, name: &str) {
        self.state.change(|books| books.open_gates.insert(name.to_string()));
    }

    /// Closes a gate again.
    pub fn close_gate(&self, name: &str) {
        self.state.change(|books| books.open_gates.remove(name));
    }

    /// Waits until `count` requests arrived since the start or the last clear; gives those remembered.
    ///
    /// # Panics
    /// This and the other waits: it did not happen within a minute.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<SeenRequest> {
        let seen = |books: &Books| (books.seen_total >= count).then(|| books.seen.iter().cloned().collect());
        self.soon("so many requests", count, seen).await
    }

    /// Waits until the invoice got `count` rows since the start or the last clear; gives those remembered.
    pub async fn wait_for_invoice(&self, count: usize) -> Vec<InvoiceRow> {
        let rows = |books: &Books| (books.invoice_total >= count).then(|| books.invoice.iter().cloned().collect());
        self.soon("so many rows of the invoice", count, rows).await
    }

    /// Waits until exactly `count` requests are in flight.
    pub async fn wait_for_in_flight(&self, count: usize) {
        self.soon("so many requests in flight", count, |books| (books.in_flight == count).then_some(())).await
    }

    /// Waits until at least `count` requests wait at the gate.
    pub async fn wait_at_gate(&self, name: &str, count: usize) {
        let at_gate = |books: &Books| books.at_gate.get(name).is_some_and(|at| *at >= count).then_some(());
        self.soon("so many requests at a gate", count, at_gate).await
    }

    async fn soon<T>(&self, what: &str, count: usize, found: impl FnMut(&Books) -> Option<T>) -> T {
        match tokio::time::timeout(PATIENCE, self.state.until(found)).await {
            Ok(value) => value,
            Err(_) => panic!("{what} ({count}): not within {} s", PATIENCE.as_secs()),
        }
    }

    /// Stops listening, lets answers in flight finish (hanging and gated ones break at once), and returns when all
    /// connections are closed, after five seconds at most.
    pub async fn stop(mut self) {
        self.state.stop();
        if let Err(error) = (&mut self.server).await {
            tracing::warn!(%error, "the mock provider's server failed: {error}");
        }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.state.stop();
        self.server.abort();
    }
}

async fn listen(options: Options) -> io::Result<(TcpListener, Arc<State>)> {
    let Options { addr, cancel_billing, key, models, keep_requests, keep_invoice } = options;
    let listener = TcpListener::bind(addr).await?;
    Ok((listener, Arc::new(State::new(cancel_billing, key, models, keep_requests, keep_invoice))))
}

/// Accepts until the mock stops, then drains. Connections live in the set and die with it.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = state.stopped() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, state.clone()));
                }
                Err(error) => {
                    // Out of descriptors, mostly: others must end before the next accept can work.
                    tracing::warn!(%error, "the mock provider cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(socket: TcpStream, state: Arc<State>) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY: {error}");
    }
    let link = Arc::new(Link::new(socket));
    let wire = TokioIo::new(Wire::new(link.clone()));
    let service_state = state.clone();
    let service = service_fn(move |request| serve::serve(service_state.clone(), link.clone(), request));
    let mut serving = std::pin::pin!(http1::Builder::new().serve_connection(wire, service));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = state.stopped() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the mock provider broke: {error}");
    }
}
