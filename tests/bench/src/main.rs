//! Measures Tollgate beside nginx `proxy_pass`: same machine, same run, same bytes, CPU from the kernel's accounting.
//! This file reads the command line, starts everything and prints the table; `cells.rs` measures. See README.md.

#![forbid(unsafe_code)]

mod cells;
mod client;
mod gateway;
mod http;
mod nginx;
mod ports;
mod process;
mod report;
mod script;
mod statistics;
mod upstream;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use cells::{Amount, Bench, Cell, Installation, Leg, Role};
use gateway::Enforcement;
use nginx::Malloc;
use process::{Cores, CpuClock};
use script::Shape;
use world::World;

/// Measures Tollgate beside nginx proxy_pass: CPU per request and event, added latency, memory, start, reload.
#[derive(Debug, Parser)]
#[command(name = "tollgate-bench", version)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Alone>,
    /// Cells to measure: U<KiB> (U1, U16, U200, ...), L1, L40, S1, S2, M, K1, C1, T1
    #[arg(long, value_delimiter = ',', default_value = "U1,U16,U200,L1,L40,S1,S2,C1,M,K1,T1")]
    cells: Vec<Cell>,
    /// Seconds of one slice of the unary cells
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds, each with one slice of every leg (streams: a third of them)
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Connections of the U cells
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Streams open at the same time in S1
    #[arg(long, default_value_t = 400)]
    streams: usize,
    /// Events of each stream in S1
    #[arg(long, default_value_t = 100)]
    events: usize,
    /// Events per second of each stream in S1
    #[arg(long, default_value_t = 20.0)]
    event_rate: f64,
    /// Streams open at the same time in S2
    #[arg(long, default_value_t = 1000)]
    slow_streams: usize,
    /// Configuration swaps in C1
    #[arg(long, default_value_t = 100)]
    swaps: u64,
    /// Requests per second during C1
    #[arg(long, default_value_t = 3000.0)]
    swap_load: f64,
    /// Cold starts in K1
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// A tenth of the time, for a first look; the numbers are noisy
    #[arg(long)]
    quick: bool,
    /// Virtual keys in the configuration
    #[arg(long, default_value_t = 10_000)]
    keys: usize,
    /// How budgets are enforced; each is a gateway of its own
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hard,soft")]
    enforcement: Vec<Enforcement>,
    /// Only nginx, its control and the direct leg
    #[arg(long)]
    baseline_only: bool,
    /// No nginx, so no ratios: only to send the gateway what the cells send
    #[arg(long, conflicts_with = "baseline_only")]
    gateway_only: bool,
    /// The allocator of the nginx that ratios refer to; one of the other kind is measured beside it (see README.md)
    #[arg(long, value_enum, default_value = "kept")]
    nginx_malloc: Malloc,
    /// Priority of the bench and all that it starts, where it may be raised; keeps other work on the machine out
    #[arg(long, default_value_t = -15, allow_negative_numbers = true)]
    nice: i32,
    /// Measure a running proxy too: NAME=HOST:PORT,PID; it must forward to --upstream-port
    #[arg(long, value_parser = parse_peer)]
    peer: Vec<Peer>,
    /// Key that clients of peers send (else the keys of the bench)
    #[arg(long)]
    peer_key: Option<String>,
    /// Model that clients of peers ask for (else the models of the bench); nine bytes long like those
    #[arg(long)]
    peer_model: Option<String>,
    /// Port of the scripted upstream; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    upstream_port: u16,
    /// Also write the report to this file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Tell the CPU time per request or event of every slice
    #[arg(long)]
    tell_slices: bool,
    /// End with 1 when a floor is missed
    #[arg(long)]
    check: bool,
    /// Keep configuration, logs and data in this folder (else a temporary one)
    #[arg(long)]
    keep: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Alone {
    /// Only serve the scripted upstream, for measuring by other means
    Upstream,
    /// Keep a core awake (used by L1)
    #[command(hide = true)]
    Spin,
    /// Only write the configuration folder, to the folder given by --keep
    Configuration,
}

#[derive(Clone, Debug)]
struct Peer {
    name: String,
    address: SocketAddr,
    pid: u32,
}

fn parse_peer(text: &str) -> Result<Peer, String> {
    let usage = || format!("`{text}` is not NAME=HOST:PORT,PID");
    let (name, rest) = text.split_once('=').ok_or_else(usage)?;
    let (address, pid) = rest.rsplit_once(',').ok_or_else(usage)?;
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let address = address.replace("localhost", "127.0.0.1").parse().map_err(|_| usage())?;
    Ok(Peer { name: name.to_owned(), address, pid: pid.parse().map_err(|_| usage())? })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tollgate-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.role {
        Some(Alone::Spin) => loop {
            std::hint::spin_loop();
        },
        Some(Alone::Upstream) => return serve_upstream(&arguments).map(|()| ExitCode::SUCCESS),
        Some(Alone::Configuration) => return write_configuration(&arguments).map(|()| ExitCode::SUCCESS),
        None => {}
    }
    process::raise_file_limit();
    let raised = rustix::process::setpriority_process(None, arguments.nice).is_ok();
    let temporary = tempfile::Builder::new().prefix("tollgate-bench-").tempdir()?;
    let scratch = arguments.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&scratch)?;
    let scratch = scratch.canonicalize()?;
    let cores = Cores::choose()?;
    process::pin(cores.load)?;

    let shape = arguments.shape.clone();
    let mut world = World::new(arguments.upstream_port, upstream::answers(&shape, 1, 1.0, gateway::MODEL_NAME_LEN))
        .context("listen as the scripted upstream")?;
    let picks = Arc::new(gateway::picks(arguments.keys));
    let leg = |name: &str, role, unary, stream, pids: Option<Vec<u32>>| Leg {
        name: name.to_owned(),
        role,
        unary,
        stream,
        clock: pids.map(CpuClock::new),
        idle_resident: None,
        picks: Arc::clone(&picks),
        since_scrape: Duration::ZERO,
    };

    let mut legs = vec![leg("direct", Role::Direct, world.upstream(), world.upstream(), None)];
    let mut instances = Vec::new();
    let malloc = arguments.nginx_malloc;
    let other = format!("nginx, {} malloc", malloc.other().name());
    let baselines = [
        ("nginx", Role::Base, malloc),
        ("nginx again (control)", Role::Control, malloc),
        (&other, Role::Variant, malloc.other()),
    ];
    for (name, role, malloc) in baselines.into_iter().filter(|_| !arguments.gateway_only) {
        let folder = scratch.join(format!("nginx-{}", instances.len()));
        let nginx = nginx::start(&folder, world.upstream(), cores, malloc)?;
        legs.push(leg(name, role, nginx.unary, nginx.stream, Some(process::family(nginx.server.pid())?)));
        instances.push(nginx);
    }

    let mut gateways = Vec::new();
    let mut installations = Vec::new();
    let enforcements = if arguments.baseline_only { &[][..] } else { &arguments.enforcement };
    for &enforcement in enforcements {
        let name = enforcement.name();
        let folder = scratch.join(format!("config-{name}"));
        gateway::write_configuration(&folder, world.upstream(), arguments.keys, enforcement)?;
        let binary = gateway::find()?;
        let data = scratch.join(format!("data-{name}"));
        let log = scratch.join(format!("tollgate-{name}.log"));
        let gateway = cells::start_beside(&mut world, &binary, &folder, &data, &log, cores)?;
        // What start-up left over is freed or not by then.
        world.serve(Duration::from_secs(2))?;
        let pids = process::family(gateway.server.pid())?;
        let mut leg =
            leg(&format!("tollgate {name}"), Role::Gateway, gateway.address, gateway.address, Some(pids.clone()));
        leg.idle_resident = Some(process::resident(&pids)?);
        legs.push(leg);
        installations.push(Installation { binary, folder, enforcement, address: gateway.address });
        gateways.push(gateway);
    }
    for peer in &arguments.peer {
        let mut leg = leg(&peer.name, Role::Peer, peer.address, peer.address, Some(process::family(peer.pid)?));
        if arguments.peer_key.is_some() || arguments.peer_model.is_some() {
            let mut own = gateway::picks(arguments.keys);
            if let Some(key) = &arguments.peer_key {
                own.keys.fill(key.clone());
            }
            if let Some(model) = &arguments.peer_model {
                own.models.fill(model.clone());
            }
            leg.picks = Arc::new(own);
        }
        legs.push(leg);
    }

    let report = report::Report { notes: notes(&arguments, cores, raised), rows: Vec::new() };
    let amount = amount(&arguments);
    let mut bench = Bench { world, legs, installations, cores, shape, amount, scratch, report };
    for &cell in &arguments.cells {
        bench.run(cell).with_context(|| format!("cell {cell:?}"))?;
    }
    let text = bench.report.markdown();
    println!("{text}");
    if let Some(path) = &arguments.out {
        std::fs::write(path, &text).with_context(|| format!("write {}", path.display()))?;
    }
    drop((instances, gateways));
    Ok(if arguments.check && bench.report.missed() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn amount(arguments: &Arguments) -> Amount {
    let quick = arguments.quick;
    let rounds = if quick { arguments.rounds.min(5) } else { arguments.rounds };
    Amount {
        slice: Duration::from_secs_f64(if quick { arguments.seconds.min(0.4) } else { arguments.seconds }),
        rounds,
        connections: arguments.connections,
        streams: arguments.streams,
        events: if quick { arguments.events.min(30) } else { arguments.events },
        events_per_second: arguments.event_rate,
        stream_rounds: (rounds / 3).max(2),
        slow_streams: arguments.slow_streams,
        starts: if quick { arguments.starts.min(2) } else { arguments.starts },
        swaps: if quick { arguments.swaps.min(15) } else { arguments.swaps },
        swap_load: arguments.swap_load,
        tell_slices: arguments.tell_slices,
    }
}

fn notes(arguments: &Arguments, cores: Cores, raised: bool) -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let mut notes = vec![
        format!("{}, Linux {}", cpu.unwrap_or("unknown processor"), read("/proc/sys/kernel/osrelease").trim()),
        format!(
            "core {}: scripted upstream and load generator in one thread; core {}: the proxy under test, all of its threads",
            cores.load, cores.proxy
        ),
        format!(
            "load average at the start: {}",
            read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
        ),
    ];
    if !raised {
        notes.push("priority could not be raised: other work on this machine shows in the tails".to_owned());
    }
    if cores.load == cores.proxy {
        notes.push("**only one core**: latencies mean nothing here".to_owned());
    }
    if !arguments.baseline_only {
        notes.push(format!(
            "tollgate: {} keys (zipf), {} teams, {} models with 2 deployments, budget, rpm and tpm limits per key and team, \
             ledger, metrics scraped every 5 s of load",
            arguments.keys,
            gateway::TEAMS,
            gateway::MODELS
        ));
    }
    notes.push(match arguments.gateway_only {
        true => "no nginx, so no ratios".to_owned(),
        false => format!(
            "nginx: one worker, keep-alive, no access log, prompts in memory, {} malloc",
            arguments.nginx_malloc.name()
        ),
    });
    if arguments.quick {
        notes.push("**quick run**: for a first look, not for publishing".to_owned());
    }
    notes.push(format!("requests and replies: {:?}", arguments.shape));
    notes
}

fn serve_upstream(arguments: &Arguments) -> Result<()> {
    process::raise_file_limit();
    let answers = upstream::answers(&arguments.shape, arguments.events, arguments.event_rate, gateway::MODEL_NAME_LEN);
    let mut world = World::new(arguments.upstream_port, answers)?;
    println!("scripted upstream on http://{}", world.upstream());
    loop {
        world.serve(Duration::from_secs(3600))?;
    }
}

fn write_configuration(arguments: &Arguments) -> Result<()> {
    let folder = arguments.keep.as_ref().context("--keep FOLDER says where to write")?;
    let upstream = SocketAddr::from(([127, 0, 0, 1], arguments.upstream_port));
    let enforcement = arguments.enforcement.first().copied().unwrap_or(Enforcement::Hard);
    gateway::write_configuration(folder, upstream, arguments.keys, enforcement)?;
    println!("wrote {}", folder.display());
    Ok(())
}
