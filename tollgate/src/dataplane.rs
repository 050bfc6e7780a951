//! `tollgate dataplane`: the proxy of one gateway in a cluster. Joins the [feed](crate::feed) of tables, the data plane,
//! the ledger and the status port; takes clients once the first tables are here; stops in good order.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;
use tollgate_dataplane::core::Shared;
use tollgate_dataplane::current::Current;
use tollgate_dataplane::metrics::Registry;
use tollgate_dataplane::serve::{self as listeners, Listener};
use tollgate_dataplane::settings::Settings;
use tollgate_dataplane::shared_budgets::SharedBudgets;
use tollgate_dataplane::status::Status;
use tollgate_dataplane::status_port;
use tollgate_dataplane::tables::{Builder, Persistent};
use tollgate_dataplane::tls::Certificate;
use tollgate_ledger::Allocation;
use tollgate_snapshot::Snapshot;
use tollgate_snapshot::model::GatewayName;

use crate::background::Background;
use crate::feed::{self, Feed, Store};
use crate::memory::Frugal;
use crate::process::{self, End, Limits, Serving, Signals};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The LLMGateway whose tables are served.
    #[arg(long, env = "TOLLGATE_GATEWAY", value_name = "NAMESPACE/NAME", value_parser = gateway_name)]
    gateway: GatewayName,

    /// A port for clients, with the name of the listener; may be given several times. Port 0 takes a free one.
    #[arg(long, value_name = "NAME=PORT", default_value = "http=4000")]
    listen: Vec<Named<u16>>,

    /// Folder with `tls.crt` and `tls.key` for the listener of this name; without, it speaks plain HTTP. Read again when
    /// the files change.
    #[arg(long, value_name = "NAME=FOLDER")]
    tls: Vec<Named<PathBuf>>,

    /// Address to listen on. Default: all.
    #[arg(long, env = "TOLLGATE_HOST", value_name = "ADDRESS")]
    host: Option<IpAddr>,

    /// Port for health, metrics and the operator; 0 takes a free one.
    #[arg(long, env = "TOLLGATE_STATUS_PORT", default_value_t = 4001, value_name = "PORT")]
    status_port: u16,

    /// Folder for the ledger.
    #[arg(long, env = "TOLLGATE_DATA", default_value = "/var/lib/tollgate", value_name = "FOLDER")]
    data: PathBuf,

    /// Folder for the tables that are served, with credentials, so that a start without the API server finds the last
    /// good ones. Best in memory.
    #[arg(long, env = "TOLLGATE_CACHE", default_value = "/run/tollgate", value_name = "FOLDER")]
    cache: PathBuf,

    /// Default: what a pod is given, else what `kubectl` uses.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Seconds that connections are still taken after the gateway was asked to stop and is not ready any more: whoever
    /// sends clients here takes a moment to notice.
    #[arg(long, env = "TOLLGATE_DRAIN_DELAY", default_value_t = 5, value_name = "SECONDS")]
    drain_delay: u64,

    /// Model servers at 127.0.0.1 may be called, as one in the same pod.
    #[arg(long, env = "TOLLGATE_ALLOW_LOOPBACK")]
    allow_loopback: bool,

    #[command(flatten)]
    limits: Limits,
}

/// `NAME=VALUE`
#[derive(Clone, Debug)]
struct Named<T> {
    name: String,
    value: T,
}

impl<T: FromStr> FromStr for Named<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Named<T>, String> {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
        let value = value.parse().map_err(|error| format!("`{value}`: {error}"))?;
        Ok(Named { name: name.to_owned(), value })
    }
}

fn gateway_name(text: &str) -> Result<GatewayName, String> {
    let (namespace, name) = text.split_once('/').ok_or("write NAMESPACE/NAME")?;
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    };
    if !is_name(namespace) || !is_name(name) {
        return Err("write NAMESPACE/NAME, both as Kubernetes names them".to_owned());
    }
    Ok(GatewayName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Serves until a signal asks to stop.
///
/// # Errors
/// A port, a folder or a certificate is not to be had, or nothing says where the Kubernetes API is. That the API does not
/// answer is none: it is waited for.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    process::raise_file_limit();
    process::make_data_folder(&arguments.data)?;
    let store = Store::open(&arguments.cache)
        .with_context(|| format!("cannot make the cache folder `{}`", arguments.cache.display()))?;
    let host = arguments.host.unwrap_or_else(any_address);
    let settings = Settings { allow_loopback: arguments.allow_loopback, ..arguments.limits.settings() };
    let mut signals = Signals::new()?;
    let ports = Ports::bind(&arguments, host, settings.cores)?;
    // One more than cores: probes of the status port spend too.
    let disk = arguments.limits.disk();
    let (ledger, mut writers) =
        process::open_ledger(&arguments.data, settings.cores + 1, Allocation::Shared, true, disk)?;
    let status_writer = writers.pop().expect("there is one for each core and one more");
    let client = feed::connect(arguments.kubeconfig.as_deref()).await?;
    let registry = Arc::new(Registry::default());
    let builder =
        Builder { ledger: ledger.clone(), registry: registry.clone(), persistent: Arc::new(Persistent::of_several()) };
    let shared = Arc::new(Shared {
        // Generation 0: nothing is served before the first tables are here.
        tables: Current::new(builder.build(0, Snapshot::default(), &[])),
        builder,
        settings,
        registry,
        status: Status::default(),
        listening: false.into(),
        draining: false.into(),
        body_bytes: 0.into(),
        started: begun,
    });
    shared.status.update(|loaded| loaded.source = format!("gateway {}", arguments.gateway));
    let Ports { status, listening, certificates } = ports;
    println(format_args!("status: http://{}", status.local_addr()?))?;
    let (stop_status, stopped) = oneshot::channel();
    let status_thread = {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name("status".into())
            .spawn(move || status_port::run(&shared, status, status_writer, &certificates, stopped))?
    };
    let frugal = Frugal::begin();
    let (tell_first, first) = oneshot::channel();
    let feed = Feed::new(client, arguments.gateway, shared.clone(), store, tell_first);
    let mut feed = Background::start("tables", || feed.run())?;
    let mut frugal = Some(frugal);
    let mut budgets = None;
    let reason = {
        let serving = async {
            first.await.context("the feed ended")?;
            drop(frugal.take());
            budgets = SharedBudgets::start(&shared)?;
            let listeners = listening.listen()?;
            // Who connects from here on is served, if a moment later.
            shared.listening.store(true, Relaxed);
            let serving = Serving::start(&shared, listeners, writers)?;
            println(format_args!("serving after {} ms", begun.elapsed().as_millis()))?;
            anyhow::Ok(serving)
        };
        tokio::select! {
            reason = signals.next() => Err(reason),
            ended = feed.ended() => match ended? {},
            serving = serving => Ok(serving?),
        }
    };
    if let Ok(serving) = reason {
        let reason = tokio::select! {
            reason = signals.next() => reason,
            ended = feed.ended() => match ended? {},
        };
        let drained = async {
            let delay = Duration::from_secs(arguments.drain_delay);
            tracing::info!(
                "stopping: {reason}; connections are taken for {} s more, streams may go on for {} s after that",
                delay.as_secs(),
                shared.settings.drain.as_secs()
            );
            shared.draining.store(true, Relaxed);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                reason = signals.next() => {
                    tracing::warn!("{reason} again: calls in flight are cut and charged what they hold");
                    return anyhow::Ok(End::Cut);
                }
            }
            serving.drain(&mut signals).await
        };
        // Keys that are revoked meanwhile are refused meanwhile.
        tokio::select! {
            end = drained => { end?; }
            ended = feed.ended() => match ended? {},
        }
    }
    feed.stop().await;
    process::tell_last(&ledger).await;
    if let Some(budgets) = budgets {
        budgets.stop();
    }
    // Nobody listens where the thread has ended: its error comes next.
    let _ = stop_status.send(());
    status_thread.join().map_err(|_| anyhow::anyhow!("the status thread panicked"))??;
    ledger.close().context("cannot close the ledger")?;
    Ok(())
}

/// Everything that is listened on.
struct Ports {
    status: std::net::TcpListener,
    listening: Bound,
    certificates: Vec<Arc<Certificate>>,
}

/// Ports for clients. Nobody can connect yet.
struct Bound(Vec<BoundPort>);

struct BoundPort {
    name: String,
    sockets: Vec<socket2::Socket>,
    certificate: Option<Arc<Certificate>>,
}

impl Ports {
    fn bind(arguments: &Arguments, host: IpAddr, cores: usize) -> anyhow::Result<Ports> {
        let cannot = |address: SocketAddr| move || format!("cannot listen on {address}");
        let address = SocketAddr::new(host, arguments.status_port);
        let mut status = listeners::bind(address, 1).and_then(listeners::listen).with_context(cannot(address))?;
        let status = status.pop().expect("one core has one socket");
        let mut bound = Vec::new();
        let mut certificates = Vec::new();
        for Named { name, value: port } in &arguments.listen {
            anyhow::ensure!(
                bound.iter().all(|other: &BoundPort| other.name != *name),
                "two listeners are named `{name}`"
            );
            let address = SocketAddr::new(host, *port);
            let sockets = listeners::bind(address, cores).with_context(cannot(address))?;
            let folder = arguments.tls.iter().find(|tls| tls.name == *name).map(|tls| &tls.value);
            let certificate = folder.map(|folder| Certificate::load(folder)).transpose();
            let certificate = certificate.with_context(|| format!("no TLS for the listener `{name}`"))?;
            certificates.extend(certificate.clone());
            bound.push(BoundPort { name: name.clone(), sockets, certificate });
        }
        for Named { name, value: _ } in &arguments.tls {
            anyhow::ensure!(bound.iter().any(|port| port.name == *name), "--tls names no --listen: `{name}`");
        }
        Ok(Ports { status, listening: Bound(bound), certificates })
    }
}

impl Bound {
    fn listen(self) -> anyhow::Result<Vec<Listener>> {
        let mut all = Vec::new();
        for BoundPort { name, sockets, certificate } in self.0 {
            let sockets = listeners::listen(sockets).with_context(|| format!("cannot listen for `{name}`"))?;
            let scheme = if certificate.is_some() { "https" } else { "http" };
            println(format_args!("{name}: {scheme}://{}", sockets[0].local_addr()?))?;
            all.push(Listener { sockets, tls: certificate.map(|certificate| certificate.server_config()) });
        }
        Ok(all)
    }
}

/// All addresses of both families, where there are both.
fn any_address() -> IpAddr {
    let has_v6 = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    if has_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn println(line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_told_apart() {
        let port: Named<u16> = "http=4000".parse().unwrap();
        assert_eq!((port.name.as_str(), port.value), ("http", 4000));
        for text in ["4000", "=4000", "http=", "http=70000"] {
            assert!(text.parse::<Named<u16>>().is_err(), "{text}");
        }
        let gateway = gateway_name("llm/default").unwrap();
        assert_eq!((gateway.namespace.as_str(), gateway.name.as_str()), ("llm", "default"));
        for text in ["default", "/x", "a/b/c", "a/"] {
            assert!(gateway_name(text).is_err(), "{text}");
        }
    }
}
