//! The cells: what is measured, leg after leg in short slices, and the rows that come of it. A slice with one failure,
//! one 429 or one wrong byte makes the whole row zero.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::client::{Client, Picks, Plan, Slice};
use crate::gateway::{self, Enforcement, MODEL_NAME_LEN};
use crate::process::{self, Cores, CpuClock, ResidentPeak, Spinner};
use crate::report::{Limits, Report, Row};
use crate::script::{self, Prompt, Shape};
use crate::statistics::{Ratio, median, percentile};
use crate::upstream;
use crate::world::World;

/// After each slice, before its CPU time is read: batched work of the slice (ledger, logs) belongs to it.
const SETTLE: Duration = Duration::from_millis(150);
/// How often Prometheus asks, in time under load.
const SCRAPE_EVERY: Duration = Duration::from_secs(5);
const KIB: usize = 1024;
const MIB: f64 = 1024.0 * 1024.0;

/// What one cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// CPU per unary request with a prompt of so many KiB.
    Unary(usize),
    /// Added latency at one connection.
    Latency,
    /// Added latency, open loop at 40 % of what nginx can do.
    OpenLoop,
    /// CPU per event and time to first token of streams.
    Streams,
    /// Memory per open slow stream.
    SlowStreams,
    /// Memory idle and after load.
    Memory,
    /// Cold start.
    ColdStart,
    /// Configuration swaps under load.
    Swaps,
    /// CPU that budgets and limits add to a unary request.
    Tax,
}

impl std::str::FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_uppercase().as_str() {
            "L1" => Self::Latency,
            "L40" => Self::OpenLoop,
            "S1" => Self::Streams,
            "S2" => Self::SlowStreams,
            "M" => Self::Memory,
            "K1" => Self::ColdStart,
            "C1" => Self::Swaps,
            "T1" => Self::Tax,
            other => match other.strip_prefix('U').and_then(|kib| kib.parse().ok()) {
                Some(kib) => Self::Unary(kib),
                None => return Err(format!("no cell `{text}`; there are U<KiB>, L1, L40, S1, S2, M, K1, C1, T1")),
            },
        })
    }
}

/// How much of each cell.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub slice: Duration,
    pub rounds: usize,
    pub connections: usize,
    pub streams: usize,
    pub events: usize,
    pub events_per_second: f64,
    pub stream_rounds: usize,
    pub slow_streams: usize,
    pub starts: usize,
    pub swaps: u64,
    pub swap_load: f64,
    /// Each slice is told as it ends.
    pub tell_slices: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Straight to the upstream.
    Direct,
    /// The base of all ratios.
    Base,
    /// The same as the base, to show the noise.
    Control,
    /// A gateway that we configured: the upstream checks what it sends.
    Gateway,
    /// The base's program with another setting.
    Variant,
    /// Somebody else's proxy, as it stands.
    Peer,
}

/// One way to the upstream.
pub struct Leg {
    pub name: String,
    pub role: Role,
    pub unary: SocketAddr,
    pub stream: SocketAddr,
    pub clock: Option<CpuClock>,
    /// Resident bytes when it had started and served nothing yet.
    pub idle_resident: Option<u64>,
    /// Keys and models to use in place of the bench's own.
    pub picks: Arc<Picks>,
    pub since_scrape: Duration,
}

/// What a gateway is started again from.
pub struct Installation {
    pub binary: PathBuf,
    pub folder: PathBuf,
    pub enforcement: Enforcement,
    pub address: SocketAddr,
}

pub struct Bench {
    pub world: World,
    pub legs: Vec<Leg>,
    pub installations: Vec<Installation>,
    pub cores: Cores,
    pub shape: Shape,
    pub amount: Amount,
    pub scratch: PathBuf,
    pub report: Report,
}

/// One leg's slices of one cell, in the order of the rounds.
#[derive(Default)]
struct Windows {
    cpu_per_unit: Vec<f64>,
    per_second: Vec<f64>,
    slices: Vec<Slice>,
    zero: Option<String>,
}

impl Bench {
    /// Measures one cell and adds its rows to the report.
    ///
    /// # Errors
    /// When a process under test dies or cannot be reached; failed requests only zero their rows.
    pub fn run(&mut self, cell: Cell) -> Result<()> {
        eprintln!("measuring {cell:?}");
        match cell {
            Cell::Unary(kib) => self.unary(kib),
            Cell::Latency => self.latency(),
            Cell::OpenLoop => self.open_loop(),
            Cell::Streams => self.streams(),
            Cell::SlowStreams => self.slow_streams(),
            Cell::Memory => self.memory(),
            Cell::ColdStart => self.cold_start(),
            Cell::Swaps => self.swaps(),
            Cell::Tax => self.tax(),
        }
    }

    fn unary(&mut self, kib: usize) -> Result<()> {
        let clients = self.unary_clients(kib, self.amount.connections);
        let plan = Plan::Closed(self.amount.slice);
        let windows = self.interleave(&clients, &with_cpu, plan, self.amount.rounds, |slice| slice.requests)?;
        let limits = match kib {
            1 => Limits { floor: Some(1.40), goal: Some(1.20) },
            16 => Limits { floor: Some(1.60), goal: Some(1.40) },
            200 => Limits { floor: Some(2.0), goal: Some(1.70) },
            _ => Limits::default(),
        };
        self.cpu_rows(&format!("U{kib} CPU/request (us), c={}", self.amount.connections), &windows, limits);
        let per_second = |windows: &Windows| windows.per_second.clone();
        self.compare_rows(&format!("U{kib} requests/s"), &windows, 1.0, 0, Limits::default(), per_second);
        Ok(())
    }

    fn latency(&mut self) -> Result<()> {
        let spinners =
            [Spinner::start(self.cores.proxy, self.cores.load)?, Spinner::start(self.cores.load, self.cores.load)?];
        if !spinners.iter().all(Spinner::is_running) {
            self.report.notes.push("`chrt` is missing: L1 includes how fast the processor wakes".to_owned());
        }
        let clients = self.unary_clients(1, 1);
        let plan = Plan::Closed(self.amount.slice);
        let windows = self.interleave(&clients, &|_| true, plan, self.amount.rounds, |slice| slice.requests)?;
        for (share, goal) in [(0.5, Some(1.20)), (0.99, None)] {
            let metric = format!("L1 added p{} (us), U1 c=1", share * 100.0);
            self.added_rows(&metric, &windows, share, Limits { floor: None, goal }, |slice| slice.latency.clone());
        }
        Ok(())
    }

    fn open_loop(&mut self) -> Result<()> {
        let clients = self.unary_clients(1, 64);
        let base = self.legs.iter().position(|leg| leg.role == Role::Base).context("no base")?;
        let calibration = self.world.run(clients[base], Plan::Closed(Duration::from_secs(2)))?;
        let rate = 0.4 * calibration.requests as f64 / calibration.elapsed.as_secs_f64();
        let plan = Plan::Open { rate, duration: self.amount.slice };
        let windows = self.interleave(&clients, &|_| true, plan, self.amount.rounds, |slice| slice.requests)?;
        for (share, goal) in [(0.5, None), (0.99, Some(1.25)), (0.999, Some(1.5))] {
            let metric = format!("L40 added p{} (us), U1 open loop {rate:.0}/s", share * 100.0);
            self.added_rows(&metric, &windows, share, Limits { floor: None, goal }, |slice| slice.latency.clone());
        }
        Ok(())
    }

    fn streams(&mut self) -> Result<()> {
        let Amount { streams, events, events_per_second, stream_rounds, .. } = self.amount;
        let clients = self.stream_clients(streams, events, events_per_second);
        let plan = Plan::Once { spread: even_spread(streams, events_per_second) };
        let windows = self.interleave(&clients, &|_| true, plan, stream_rounds, |slice| slice.events)?;
        let metric = format!("S1 CPU/event (us), {streams} streams, {events} events at {events_per_second}/s");
        self.cpu_rows(&metric, &windows, Limits { floor: Some(1.25), goal: Some(1.10) });
        for (share, goal) in [(0.5, 1.15), (0.99, 1.3)] {
            let metric = format!("S1 added TTFT p{} (us)", share * 100.0);
            let limits = Limits { floor: None, goal: Some(goal) };
            self.added_rows(&metric, &windows, share, limits, |slice| slice.first_byte.clone());
        }
        Ok(())
    }

    fn slow_streams(&mut self) -> Result<()> {
        const EVENTS: usize = 12;
        const EVENTS_PER_SECOND: f64 = 2.0;
        let count = self.amount.slow_streams;
        let clients = self.stream_clients(count, EVENTS, EVENTS_PER_SECOND);
        let mut base = None;
        for (leg, &client) in clients.iter().enumerate() {
            let Some(pids) = self.legs[leg].clock.as_ref().map(|clock| clock.pids().to_vec()) else { continue };
            let before = process::resident(&pids)?;
            let peak = ResidentPeak::watch(pids);
            let slice = self.slice(leg, client, Plan::Once { spread: Duration::from_secs(2) })?;
            let per_stream = peak.finish().saturating_sub(before) as f64 / count as f64 / 1024.0;
            let role = self.legs[leg].role;
            if role == Role::Base {
                base = Some(per_stream);
            }
            let goal = (role == Role::Gateway).then_some(50.0);
            self.report.rows.push(Row {
                metric: format!("S2 memory per open stream (KiB), {count} open"),
                leg: self.legs[leg].name.clone(),
                value: format!("{per_stream:.1}"),
                nginx: base.map(|base| format!("{base:.1}")).unwrap_or_default(),
                ratio: None,
                judged: Some(per_stream),
                limits: Limits { floor: None, goal },
                zero: failure(&slice),
            });
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        let base = self.legs.iter().find(|leg| leg.role == Role::Base).and_then(|leg| leg.clock.as_ref());
        let base = base.map(|clock| process::resident(clock.pids())).transpose()?;
        for leg in self.legs.iter().filter(|leg| matches!(leg.role, Role::Gateway | Role::Peer)) {
            let Some(clock) = &leg.clock else { continue };
            let now = process::resident(clock.pids())? as f64 / MIB;
            let idle = leg.idle_resident.map(|idle| idle as f64 / MIB);
            let gateway = leg.role == Role::Gateway;
            let row = |metric: &str, value: f64, limits: Limits| Row {
                metric: metric.to_owned(),
                leg: leg.name.clone(),
                value: format!("{value:.1}"),
                nginx: base.map(|base| format!("{:.1}", base as f64 / MIB)).unwrap_or_default(),
                ratio: None,
                judged: Some(value),
                limits,
                zero: None,
            };
            if let Some(idle) = idle {
                let limits = Limits { floor: gateway.then_some(25.0), goal: gateway.then_some(20.0) };
                self.report.rows.push(row("M memory idle (MiB)", idle, limits));
            }
            let limits =
                Limits { floor: None, goal: idle.filter(|_| gateway).map(|idle| (idle * 15.0).round() / 10.0) };
            self.report.rows.push(row("M memory now, after the cells above (MiB)", now, limits));
        }
        Ok(())
    }

    fn cold_start(&mut self) -> Result<()> {
        self.world.script(upstream::answers(&self.shape, 1, 1.0, MODEL_NAME_LEN));
        for index in 0..self.installations.len() {
            let mut fresh = [Vec::new(), Vec::new()];
            let mut again = Vec::new();
            for start in 0..self.amount.starts {
                let data = self.scratch.join(format!("cold-{index}-{start}"));
                for run in 0..2 {
                    let log = self.scratch.join("cold.log");
                    let installation = &self.installations[index];
                    let gateway = start_beside(
                        &mut self.world,
                        &installation.binary,
                        &installation.folder,
                        &data,
                        &log,
                        self.cores,
                    )?;
                    if run == 0 {
                        fresh[0].push(gateway.ready.as_secs_f64() * 1e3);
                        fresh[1].push(gateway.first_answer.as_secs_f64() * 1e3);
                    } else {
                        again.push(gateway.first_answer.as_secs_f64() * 1e3);
                    }
                }
            }
            let limits = Limits { floor: Some(100.0), goal: Some(50.0) };
            let leg = format!("tollgate {}", self.installations[index].enforcement.name());
            for (metric, values) in [
                ("K1 exec to ready (ms), no data", &fresh[0]),
                ("K1 exec to first answer (ms), no data", &fresh[1]),
                ("K1 exec to first answer (ms), data of a run before", &again),
            ] {
                let value = median(values);
                self.report.rows.push(Row {
                    metric: metric.to_owned(),
                    leg: leg.clone(),
                    value: format!("{value:.1}"),
                    nginx: String::new(),
                    ratio: None,
                    judged: Some(value),
                    limits,
                    zero: None,
                });
            }
        }
        Ok(())
    }

    fn swaps(&mut self) -> Result<()> {
        let clients = self.unary_clients(1, 64);
        for index in 0..self.installations.len() {
            let Installation { address, enforcement, ref folder, .. } = self.installations[index];
            let folder = folder.clone();
            let leg = self.legs.iter().position(|leg| leg.unary == address).context("no leg of this gateway")?;
            let Amount { swaps, swap_load, .. } = self.amount;
            /// Between two swaps; a swap that takes longer to be seen delays the next.
            const EVERY: Duration = Duration::from_millis(200);
            let duration = EVERY * swaps as u32;
            let plan = Plan::Open { rate: swap_load, duration: duration.min(Duration::from_secs(10)) };
            let mut calm = self.slice(leg, clients[leg], plan)?;
            let upstream = self.world.upstream();
            let stop = AtomicBool::new(false);
            let (slice, seen) = std::thread::scope(|scope| {
                let swapper = scope.spawn(|| swap_for(&folder, address, upstream, EVERY, swaps, &stop));
                let plan = Plan::Open { rate: swap_load, duration };
                let slice = self.slice(leg, clients[leg], plan);
                stop.store(true, Ordering::Relaxed);
                (slice, swapper.join())
            });
            let mut slice = slice?;
            let seen = seen.map_err(|_| anyhow::anyhow!("the swapping thread failed"))??;
            let lost = seen.iter().filter(|visible| visible.is_none()).count();
            let visible: Vec<f64> = seen.iter().flatten().map(|visible| visible.as_secs_f64() * 1e3).collect();
            let zero = failure(&slice).or_else(|| failure(&calm)).or_else(|| {
                (lost > 0 || seen.is_empty()).then(|| format!("{lost} of {} swaps were never seen", seen.len()))
            });
            let name = format!("tollgate {}", enforcement.name());
            let (with, without) = (percentile(&mut slice.latency, 0.99), percentile(&mut calm.latency, 0.99));
            let row = |metric: String, value: String, judged: f64, goal: f64| Row {
                metric,
                leg: name.clone(),
                value,
                nginx: String::new(),
                ratio: None,
                judged: Some(judged),
                limits: Limits { floor: None, goal: Some(goal) },
                zero: zero.clone(),
            };
            let swaps = seen.len();
            let rows = [
                row(
                    format!("C1 failures of {} requests, {swaps} swaps", slice.requests + slice.failures),
                    slice.failures.to_string(),
                    slice.failures as f64,
                    0.0,
                ),
                row(
                    format!("C1 p99 with swaps / without, {swap_load}/s"),
                    format!("{:.2} ({:.0} / {:.0} us)", with / without, with / 1e3, without / 1e3),
                    with / without,
                    1.25,
                ),
                row(
                    "C1 change to visible (ms), median, worst".into(),
                    format!("{:.0}, {:.0}", median(&visible), crate::statistics::quantile(&visible, 1.0)),
                    crate::statistics::quantile(&visible, 1.0),
                    500.0,
                ),
            ];
            self.report.rows.extend(rows);
        }
        Ok(())
    }

    /// The gateway of Hard budgets beside one that has the same keys without budgets and limits.
    fn tax(&mut self) -> Result<()> {
        let held = self.installations.iter().find(|installation| installation.enforcement == Enforcement::Hard);
        let held = held.context("T1 needs `--enforcement hard`")?;
        let (binary, held) = (held.binary.clone(), held.address);
        let folder = self.scratch.join("config-None");
        let picks = Arc::clone(&self.legs[0].picks);
        gateway::write_configuration(&folder, self.world.upstream(), picks.keys.len(), Enforcement::None)?;
        let (data, log) = (self.scratch.join("data-None"), self.scratch.join("tollgate-None.log"));
        let free = start_beside(&mut self.world, &binary, &folder, &data, &log, self.cores)?;
        self.legs.push(Leg {
            name: "tollgate None".to_owned(),
            role: Role::Gateway,
            unary: free.address,
            stream: free.address,
            clock: Some(CpuClock::new(process::family(free.server.pid())?)),
            idle_resident: None,
            picks,
            since_scrape: Duration::ZERO,
        });
        let clients = self.unary_clients(1, self.amount.connections);
        let both = |leg: &Leg| leg.unary == held || leg.unary == free.address;
        let plan = Plan::Closed(self.amount.slice);
        let windows = self.interleave(&clients, &both, plan, self.amount.rounds, |slice| slice.requests);
        self.legs.pop();
        let mut windows = windows?;
        let without = windows.pop().context("no windows")?;
        let leg = self.legs.iter().position(|leg| leg.unary == held).context("no leg of this gateway")?;
        let with = &windows[leg];
        let added: Vec<f64> =
            with.cpu_per_unit.iter().zip(&without.cpu_per_unit).map(|(with, without)| with - without).collect();
        let value = median(&added);
        self.report.rows.push(Row {
            metric: "T1 CPU/request that 2 Hard budgets and 4 limits of rates add (us), U1".to_owned(),
            leg: self.legs[leg].name.clone(),
            value: format!(
                "{value:.2} ({:.2}-{:.2}) to {:.2}",
                crate::statistics::quantile(&added, 0.25),
                crate::statistics::quantile(&added, 0.75),
                median(&without.cpu_per_unit)
            ),
            nginx: String::new(),
            ratio: None,
            judged: Some(value),
            limits: Limits { floor: Some(1.5), goal: Some(1.0) },
            zero: with.zero.clone().or(without.zero),
        });
        Ok(())
    }

    fn unary_clients(&mut self, kib: usize, connections: usize) -> Vec<usize> {
        self.world.script(upstream::answers(&self.shape, 1, 1.0, MODEL_NAME_LEN));
        let reply = script::unary(&self.shape, MODEL_NAME_LEN).1;
        let prompt = Prompt::new(&self.shape, kib * KIB, false, "bench.local");
        self.clients(|leg| leg.unary, &prompt, &reply, connections)
    }

    fn stream_clients(&mut self, connections: usize, events: usize, rate: f64) -> Vec<usize> {
        self.world.script(upstream::answers(&self.shape, events, rate, MODEL_NAME_LEN));
        let reply = script::stream(&self.shape, events, MODEL_NAME_LEN).1;
        let prompt = Prompt::new(&self.shape, KIB, true, "bench.local");
        self.clients(|leg| leg.stream, &prompt, &reply, connections)
    }

    fn clients(
        &mut self,
        address: impl Fn(&Leg) -> SocketAddr,
        prompt: &Prompt,
        reply: &script::Reply,
        connections: usize,
    ) -> Vec<usize> {
        let Self { world, legs, .. } = self;
        let add = |leg: &Leg| {
            let picks = Arc::clone(&leg.picks);
            let (prompt, reply) = (prompt.clone(), reply.clone());
            world.add(|id, token| Client::new(address(leg), id, token, prompt, reply, picks, connections))
        };
        legs.iter().map(add).collect()
    }

    /// All legs that `takes_part` names, one slice each per round, first a round that is thrown away. The order turns,
    /// so that none always follows the same neighbour.
    fn interleave(
        &mut self,
        clients: &[usize],
        takes_part: &dyn Fn(&Leg) -> bool,
        plan: Plan,
        rounds: usize,
        units: impl Fn(&Slice) -> u64,
    ) -> Result<Vec<Windows>> {
        let mut windows: Vec<Windows> = self.legs.iter().map(|_| Windows::default()).collect();
        let taking: Vec<usize> = (0..self.legs.len()).filter(|&leg| takes_part(&self.legs[leg])).collect();
        for round in 0..=rounds {
            for turn in 0..taking.len() {
                let leg = taking[(turn + round) % taking.len()];
                let before = self.cpu(leg)?;
                let slice = self.slice(leg, clients[leg], plan)?;
                self.world.serve(SETTLE)?;
                let spent = self.cpu(leg)? - before;
                if self.amount.tell_slices {
                    let done = units(&slice);
                    let us = spent as f64 / 1e3 / done.max(1) as f64;
                    eprintln!("{round}\t{}\t{us:.2} us\t{done}", self.legs[leg].name);
                }
                if windows[leg].zero.is_none() {
                    windows[leg].zero = failure(&slice);
                }
                if round > 0 {
                    let done = units(&slice);
                    windows[leg].cpu_per_unit.push(spent as f64 / 1e3 / done.max(1) as f64);
                    windows[leg].per_second.push(done as f64 / slice.elapsed.as_secs_f64());
                    windows[leg].slices.push(slice);
                }
            }
        }
        Ok(windows)
    }

    /// One slice, with the scrape that falls into it and the check of what the upstream saw.
    fn slice(&mut self, leg: usize, client: usize, plan: Plan) -> Result<Slice> {
        let before = self.world.seen();
        let Leg { role, unary, since_scrape, .. } = &mut self.legs[leg];
        let (role, address) = (*role, *unary);
        let scrape = role == Role::Gateway && (*since_scrape >= SCRAPE_EVERY || since_scrape.is_zero());
        if scrape {
            *since_scrape = Duration::ZERO;
        }
        let (slice, scraped) = std::thread::scope(|scope| {
            let scraper = scrape.then(|| scope.spawn(move || gateway::get(address, "/metrics", None)));
            (self.world.run(client, plan), scraper.map(|scraper| scraper.join()))
        });
        let mut slice = slice?;
        self.legs[leg].since_scrape += slice.elapsed;
        if let Some(scraped) = scraped
            && !matches!(scraped, Ok(Ok(200)))
        {
            slice.failures += 1;
            slice.told.push(format!("/metrics: {scraped:?}"));
        }
        if role == Role::Gateway && slice.failures == 0 {
            let after = self.world.seen();
            let sent = after.requests - before.requests;
            let rewritten = after.rewritten - before.rewritten;
            let authorized = after.authorized - before.authorized;
            if [sent, rewritten, authorized] != [slice.requests; 3] {
                slice.failures += 1;
                slice.told.push(format!(
                    "of {} requests the provider saw {sent}, {rewritten} with its model, {authorized} with its credential",
                    slice.requests
                ));
            }
        }
        Ok(slice)
    }

    fn cpu(&mut self, leg: usize) -> Result<u64> {
        self.legs[leg].clock.as_mut().map_or(Ok(0), CpuClock::read)
    }

    fn cpu_rows(&mut self, metric: &str, windows: &[Windows], limits: Limits) {
        self.compare_rows(metric, windows, 1.0, 2, limits, |windows| windows.cpu_per_unit.clone());
    }

    /// Rows of a figure per window beside the base's of the same round, where there is a base.
    fn compare_rows(
        &mut self,
        metric: &str,
        windows: &[Windows],
        scale: f64,
        digits: usize,
        limits: Limits,
        figures: impl Fn(&Windows) -> Vec<f64>,
    ) {
        let base = self.legs.iter().position(|leg| leg.role == Role::Base).map(|base| &windows[base]);
        let base_figures = base.map(&figures).unwrap_or_default();
        for (leg, window) in self.legs.iter().zip(windows) {
            if window.slices.is_empty() || matches!(leg.role, Role::Base | Role::Direct) {
                continue;
            }
            let ours = figures(window);
            let ratio = Ratio::of_pairs(&ours, &base_figures);
            self.report.rows.push(Row {
                metric: metric.to_owned(),
                leg: leg.name.clone(),
                value: format!("{:.digits$}", median(&ours) * scale),
                nginx: base.map(|_| format!("{:.digits$}", median(&base_figures) * scale)).unwrap_or_default(),
                ratio,
                judged: ratio.map(|ratio| ratio.median),
                limits: if leg.role == Role::Gateway && base.is_some() { limits } else { Limits::default() },
                zero: window.zero.clone().or_else(|| base.and_then(|base| base.zero.clone())),
            });
        }
    }

    /// Rows of what a leg adds to the direct leg, beside what the base adds.
    fn added_rows(
        &mut self,
        metric: &str,
        windows: &[Windows],
        share: f64,
        limits: Limits,
        samples: impl Fn(&Slice) -> Vec<u64>,
    ) {
        let Some(direct) = self.legs.iter().position(|leg| leg.role == Role::Direct) else { return };
        let at = |windows: &Windows| -> Vec<f64> {
            windows.slices.iter().map(|slice| percentile(&mut samples(slice), share)).collect()
        };
        let direct = at(&windows[direct]);
        let added =
            |windows: &Windows| at(windows).iter().zip(&direct).map(|(leg, direct)| leg - direct).collect::<Vec<f64>>();
        let name = format!("{metric}, direct {:.1}", median(&direct) / 1e3);
        self.compare_rows(&name, windows, 1e-3, 1, limits, added);
    }
}

/// About a second in which so many streams start, such that their events fall evenly between one another. With a whole
/// number of streams per gap they would come in bunches, and what an event costs would hang on how they bunch.
fn even_spread(streams: usize, events_per_second: f64) -> Duration {
    fn divisor(a: usize, b: usize) -> usize {
        if b == 0 { a } else { divisor(b, a % b) }
    }
    let at_least = (events_per_second.ceil() as usize).max(1);
    let gaps = (at_least..).find(|gaps| divisor(*gaps, streams.max(1)) == 1).unwrap_or(at_least);
    Duration::from_secs_f64(gaps as f64 / events_per_second)
}

fn with_cpu(leg: &Leg) -> bool {
    leg.clock.is_some()
}

fn failure(slice: &Slice) -> Option<String> {
    (slice.failures > 0 || slice.requests == 0).then(|| {
        format!(
            "{} failures of {} requests: {}",
            slice.failures,
            slice.requests + slice.failures,
            slice.told.join("; ")
        )
    })
}

/// Starts a gateway while the world serves its first call.
///
/// # Errors
/// See [`gateway::start`].
pub fn start_beside(
    world: &mut World,
    binary: &Path,
    folder: &Path,
    data: &Path,
    log: &Path,
    cores: Cores,
) -> Result<gateway::Gateway> {
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| gateway::start(binary, folder, data, log, cores));
        while !starter.is_finished() {
            world.serve(Duration::from_millis(2))?;
        }
        starter.join().map_err(|_| anyhow::anyhow!("the starting thread failed"))?
    })
}

/// Changes the folder again and again and takes the time until the gateway shows each change; `None` when it never did.
fn swap_for(
    folder: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    every: Duration,
    swaps: u64,
    stop: &AtomicBool,
) -> Result<Vec<Option<Duration>>> {
    /// Longer than any reload that could still be called live.
    const PATIENCE: Duration = Duration::from_secs(5);
    const ASK_EVERY: Duration = Duration::from_millis(5);
    let mut seen = Vec::new();
    for generation in 1..=swaps {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begin = Instant::now();
        gateway::swap(folder, generation, upstream)?;
        let visible = loop {
            if gateway::sees_swap(address, generation) {
                break Some(begin.elapsed());
            }
            if begin.elapsed() > PATIENCE {
                break None;
            }
            std::thread::sleep(ASK_EVERY);
        };
        seen.push(visible);
        std::thread::sleep(every.saturating_sub(begin.elapsed()));
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_streams_have_their_events_at_the_same_time() {
        for (streams, rate) in [(400, 20.0), (200, 25.0), (1000, 10.0)] {
            let gap = 1.0 / rate;
            let step = even_spread(streams, rate).as_secs_f64() / streams as f64;
            let mut phases: Vec<f64> = (0..streams).map(|stream| stream as f64 * step % gap).collect();
            phases.sort_by(f64::total_cmp);
            let closest = phases.windows(2).map(|pair| pair[1] - pair[0]).fold(gap, f64::min);
            assert!(closest > 0.9 * gap / streams as f64, "{streams} at {rate}: {closest}");
        }
    }
}
