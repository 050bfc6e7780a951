//! I/O: the listeners. One thread per core, each with a runtime, a listener on the shared port and its connections.
//! Stopping: readiness goes off, listeners take what is queued and close, connections finish what they carry.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::core::{Core, Shared};
use crate::server;

/// Connections that wait to be accepted, per core.
const BACKLOG: i32 = 4_096;

/// How often idle connections to providers are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// Listeners that share one port, one for each core.
///
/// # Errors
/// The address is not to be had.
pub fn bind(address: SocketAddr, cores: usize) -> std::io::Result<Vec<StdListener>> {
    let first = bind_one(address, cores > 1)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..cores {
        listeners.push(bind_one(address, true)?);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr, shared: bool) -> std::io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Finish what runs, take nothing new.
    Draining,
}

/// Serves on every listener until `phase` says otherwise and the last connection ended or the drain time is over.
/// Blocks the calling thread.
///
/// # Errors
/// A runtime could not be made.
pub fn run(
    shared: &Arc<Shared>,
    listeners: Vec<StdListener>,
    writers: Vec<tollgate_ledger::Writer>,
    phase: &watch::Receiver<Phase>,
) -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, (listener, writer)) in listeners.into_iter().zip(writers).enumerate() {
            let (shared, phase) = (shared.clone(), phase.clone());
            let thread = std::thread::Builder::new().name(format!("core-{index}"));
            threads.push(thread.spawn_scoped(scope, move || run_core(shared, listener, writer, phase))?);
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

fn run_core(
    shared: Arc<Shared>,
    listener: StdListener,
    writer: tollgate_ledger::Writer,
    phase: watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let core = Rc::new(Core::new(shared, writer));
        let listener = TcpListener::from_std(listener)?;
        accept(core, listener, phase).await;
        Ok(())
    })
}

async fn accept(core: Rc<Core>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
    let open = Rc::new(());
    let mut sweep = tokio::time::interval(SWEEP);
    while *phase.borrow() == Phase::Serving {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connection(&core, &open, stream, &phase),
                // Out of file descriptors, mostly: those who are served give some back.
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = sweep.tick() => core.pool.sweep(),
            changed = phase.changed() => if changed.is_err() { break },
        }
    }
    // What the kernel has queued was promised a listener: served, then told to go.
    while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        connection(&core, &open, stream, &phase);
    }
    drop(listener);
    let finished = async {
        while Rc::strong_count(&open) > 1 || core.abandoned.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(core.shared.settings.drain, finished).await.is_err() {
        tracing::warn!("streams were still open at the end of the drain time and are cut");
    }
}

fn connection(core: &Rc<Core>, open: &Rc<()>, stream: TcpStream, phase: &watch::Receiver<Phase>) {
    let _ = stream.set_nodelay(true);
    let (core, open, phase) = (core.clone(), open.clone(), phase.clone());
    core.bank.own.connections.add(1);
    tokio::task::spawn_local(async move {
        let _open = open;
        let own = core.bank.own.clone();
        own.open_connections.fetch_add(1, Relaxed);
        server::serve(core, stream, phase).await;
        own.open_connections.fetch_sub(1, Relaxed);
    });
}
