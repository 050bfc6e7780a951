//! I/O: the listeners. One thread per core, each with a runtime, a socket of every listener and its connections, plain
//! or TLS. Stopping: readiness goes off, listeners take what is queued and close, connections finish what they carry.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::core::{Core, Shared};
use crate::server::{self, ClientStream};

/// Connections that wait to be accepted, per core.
const BACKLOG: i32 = 4_096;

/// One address that clients connect to, with a socket for each core.
#[derive(Debug)]
pub struct Listener {
    pub sockets: Vec<StdListener>,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Sockets that share one port, one for each core. Nobody can connect before [`listen`].
///
/// # Errors
/// The address is not to be had.
pub fn bind(address: SocketAddr, cores: usize) -> std::io::Result<Vec<Socket>> {
    let first = bind_one(address, cores > 1)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..cores {
        sockets.push(bind_one(address, true)?);
    }
    Ok(sockets)
}

/// From here on the kernel takes connections; they wait for [`run`].
///
/// # Errors
/// Another process listens on the same port.
pub fn listen(sockets: Vec<Socket>) -> std::io::Result<Vec<StdListener>> {
    let listening = sockets.into_iter().map(|socket| {
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    });
    listening.collect()
}

fn bind_one(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // All addresses are those of both families, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Finish what runs, take nothing new.
    Draining,
}

/// Serves on every listener until `phase` says otherwise and the last connection ended or the drain time is over.
/// Blocks the calling thread. `writers`: one for each core.
///
/// # Errors
/// A runtime could not be made.
pub fn run(
    shared: &Arc<Shared>,
    listeners: Vec<Listener>,
    writers: Vec<tollgate_ledger::Writer>,
    phase: &watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let mut cores: Vec<CoreListeners> = writers.iter().map(|_| Vec::new()).collect();
    for Listener { sockets, tls } in listeners {
        let acceptor = tls.map(TlsAcceptor::from);
        for (core, socket) in cores.iter_mut().zip(sockets) {
            core.push((socket, acceptor.clone()));
        }
    }
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, (listeners, writer)) in cores.into_iter().zip(writers).enumerate() {
            let (shared, phase) = (shared.clone(), phase.clone());
            let thread = std::thread::Builder::new().name(format!("core-{index}"));
            threads.push(thread.spawn_scoped(scope, move || run_core(shared, listeners, writer, phase))?);
        }
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

/// One core's sockets, one of each listener.
type CoreListeners = Vec<(StdListener, Option<TlsAcceptor>)>;

fn run_core(
    shared: Arc<Shared>,
    listeners: CoreListeners,
    writer: tollgate_ledger::Writer,
    phase: watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let core = Rc::new(Core::new(shared, writer));
        let open = Rc::new(());
        let mut accepting = Vec::new();
        for (listener, tls) in listeners {
            let listener = TcpListener::from_std(listener)?;
            let accept = accept(core.clone(), open.clone(), listener, tls, phase.clone());
            accepting.push(tokio::task::spawn_local(accept));
        }
        let accepted = async {
            for listener in accepting {
                if let Err(error) = listener.await {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        };
        tokio::select! {
            () = accepted => {}
            never = core.tend() => match never {},
        }
        finish(&core, &open).await;
        Ok(())
    })
}

/// Takes connections until the process drains.
async fn accept(
    core: Rc<Core>,
    open: Rc<()>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mut phase: watch::Receiver<Phase>,
) {
    while *phase.borrow() == Phase::Serving {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connection(&core, &open, stream, tls.as_ref(), &phase),
                // Out of file descriptors, mostly: those who are served give some back.
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            changed = phase.changed() => if changed.is_err() { break },
        }
    }
    // What the kernel has queued was promised a listener: served, then told to go.
    while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        connection(&core, &open, stream, tls.as_ref(), &phase);
    }
}

/// Waits for what runs, as long as a drain may take.
async fn finish(core: &Core, open: &Rc<()>) {
    let finished = async {
        while Rc::strong_count(open) > 1 || core.abandoned.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(core.shared.settings.drain, finished).await.is_err() {
        tracing::warn!("streams were still open at the end of the drain time and are cut");
    }
}

fn connection(
    core: &Rc<Core>,
    open: &Rc<()>,
    stream: TcpStream,
    tls: Option<&TlsAcceptor>,
    phase: &watch::Receiver<Phase>,
) {
    let _ = stream.set_nodelay(true);
    let (core, open, tls, phase) = (core.clone(), open.clone(), tls.cloned(), phase.clone());
    core.bank.own.connections.add(1);
    tokio::task::spawn_local(async move {
        let _open = open;
        let own = core.bank.own.clone();
        own.open_connections.fetch_add(1, Relaxed);
        let stream = match tls {
            None => Some(ClientStream::Plain(stream)),
            // Boxed: the state of a handshake is large.
            Some(tls) => Box::pin(secured(&core, tls, stream)).await,
        };
        if let Some(stream) = stream {
            server::serve(core, stream, phase).await;
        }
        own.open_connections.fetch_sub(1, Relaxed);
    });
}

/// The TLS inside of a connection; `None`: there is none that was wanted, or not in time.
async fn secured(core: &Core, tls: TlsAcceptor, stream: TcpStream) -> Option<ClientStream> {
    match tokio::time::timeout(core.shared.settings.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => return Some(ClientStream::Tls(Box::new(stream))),
        Ok(Err(error)) => tracing::debug!(%error, "no TLS with a client: {error}"),
        Err(_) => tracing::debug!("a client did not finish its TLS handshake in time"),
    }
    None
}
