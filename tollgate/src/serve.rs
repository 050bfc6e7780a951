//! `tollgate serve`: a gateway from files. Joins the loader, the data plane, the ledger and, where a deployment wants
//! it, the mock provider; watches the files and swaps what changed; stops in good order.

use std::io::Write;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use tollgate_dataplane::core::Shared;
use tollgate_dataplane::current::Current;
use tollgate_dataplane::metrics::Registry;
use tollgate_dataplane::shared_budgets::SharedBudgets;
use tollgate_dataplane::status::Status;
use tollgate_dataplane::tables::{Builder, Persistent};
use tollgate_ledger::Allocation;
use tollgate_snapshot::compile::Secret;
use tollgate_snapshot::model::{Endpoint, KeyHash, Snapshot};
use tollgate_snapshot::price::PriceTable;
use tollgate_snapshot::{Credential, Finding, ObjectRef, Reason, Severity};

use crate::alerts;
use crate::background::Background;
use crate::config::files::create_private;
use crate::config::keys::Keys;
use crate::config::last_good::{Kept, LastGood};
use crate::config::load::{Before, Loaded, NewKey, Placed, Settings, Source, line, load};
use crate::config::watch::Watch;
use crate::listening::Open;
use crate::memory::{self, Frugal};
use crate::process::{self, End, Limits, Serving, Signals};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder or file of resources, or a LiteLLM config.yaml. Default: the built-in demo with the mock provider.
    #[arg(long, short, env = "TOLLGATE_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,

    /// Address to listen on. Default: all addresses with --config, 127.0.0.1 for the demo.
    #[arg(long, env = "TOLLGATE_HOST", value_name = "ADDRESS")]
    host: Option<IpAddr>,

    /// Port of the first listener; 0 takes a free one. Default: the LLMGateway's, else 4000.
    #[arg(long, short, env = "TOLLGATE_PORT", value_name = "PORT")]
    port: Option<u16>,

    /// Folder for the ledger and generated keys; made if it is not there. Default: tollgate in the user's data folder.
    #[arg(long, env = "TOLLGATE_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// Namespace of objects that name none.
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,

    #[command(flatten)]
    limits: Limits,

    /// Key of the administrator. Default: the LLMGateway's, else one that is made and kept in the data folder.
    #[arg(skip)]
    master_key: Option<String>,
}

/// The demo has no listeners of its own.
const DEMO_PORT: u16 = 4000;

/// Serves until a signal asks to stop.
///
/// # Errors
/// The configuration cannot be read, the port or the data folder is not to be had.
pub fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    // Not a flag: other users of a machine can read a process's arguments.
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    arguments.master_key = variable("TOLLGATE_MASTER_KEY").or_else(|| variable("LITELLM_MASTER_KEY"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    process::raise_file_limit();
    let data = arguments.data.clone().unwrap_or_else(default_data_folder);
    process::make_data_folder(&data)?;
    let source = arguments.config.clone().map_or(Source::Demo, Source::Path);
    let mock =
        tollgate_mock::Mock::start(tollgate_mock::Options { keep_requests: 0, keep_invoice: 0, ..Default::default() })
            .await
            .context("cannot start the mock provider")?;
    let mut loader = Loader {
        source,
        namespace: arguments.namespace.clone(),
        keys: Keys::new(&data),
        mock: crate::mock::endpoint(mock.addr()),
        master_key: arguments.master_key.clone(),
        last_good: LastGood::new(&data),
        data: data.clone(),
    };
    let host = arguments.host.unwrap_or(match loader.source {
        Source::Demo => IpAddr::from([127, 0, 0, 1]),
        Source::Path(_) => IpAddr::from([0, 0, 0, 0]),
    });
    let settings = arguments.limits.settings();
    // Before the configuration is read: two gateways on one port is the mistake that should show at once.
    let first_port = arguments.port.or((loader.source == Source::Demo).then_some(DEMO_PORT));
    let first_sockets = first_port.map(|port| Open::bind(host, port, settings.cores)).transpose()?;
    // From here on a signal is a clean stop, and no edit is missed: both may come before the first call does.
    let mut signals = Signals::new()?;
    let watch = match &loader.source {
        Source::Path(path) => Some(Watch::new(path)),
        Source::Demo => None,
    };
    let frugal = Frugal::begin();
    let first = loader.load_first()?;
    // Other processes may count there too. Decided once: `RedisLink` goes on as it began.
    let (allocation, persistent) = match first.snapshot.gateway.redis {
        Some(_) => (Allocation::Shared, Persistent::of_equals()),
        None => (Allocation::Own, Persistent::default()),
    };
    let (ledger, writers) = process::open_ledger(&data, settings.cores, allocation, false, arguments.limits.disk())?;
    let registry = Arc::new(Registry::default());
    let builder = Builder { ledger: ledger.clone(), registry: registry.clone(), persistent: Arc::new(persistent) };
    let Loaded { snapshot, credentials, webhooks, findings, next_change, keys, listeners, is_litellm, kept, secrets } =
        first;
    let webhooks = Arc::new(ArcSwap::from_pointee(webhooks));
    let (open, serving_listeners) = Open::listeners(host, first_sockets, listeners, settings.cores)?;
    let tables = builder.build(1, snapshot, &credentials);
    let shared = Arc::new(Shared {
        tables: Current::new(tables),
        builder,
        settings,
        registry,
        status: Status::default(),
        listening: true.into(),
        draining: false.into(),
        body_bytes: 0.into(),
        started: begun,
    });
    let budgets = SharedBudgets::start(&shared)?;
    note(&shared, &loader, 1, &findings);
    report(&findings, &[], &loader);
    let serving = Serving::start(&shared, serving_listeners, writers)?;
    banner(&shared, &loader, &open, &keys, is_litellm, begun.elapsed())?;
    loader.remember(&shared, &kept, secrets);
    drop(kept);
    drop(frugal);
    let follower = Follower { loader, shared: shared.clone(), told: webhooks.clone(), open, findings, next_change };
    let mut following = Background::start("configuration", || follower.run(watch))?;
    let reason = tokio::select! {
        reason = signals.next() => reason,
        ended = following.ended() => ended.map(|()| "the watch ended")?,
        () = alerts::run(&data, &shared, &webhooks) => "nobody is told of budgets any more",
    };
    tracing::info!("stopping: {reason}; streams may go on for {} s", shared.settings.drain.as_secs());
    shared.draining.store(true, Relaxed);
    following.stop().await;
    if serving.drain(&mut signals).await? == End::Drained {
        mock.stop().await;
    }
    if let Some(budgets) = budgets {
        process::tell_last(&ledger).await;
        budgets.stop();
    }
    ledger.close().context("cannot close the ledger")?;
    Ok(())
}

/// Everything that a load needs, again and again.
struct Loader {
    source: Source,
    namespace: String,
    keys: Keys,
    mock: Endpoint,
    master_key: Option<String>,
    data: PathBuf,
    last_good: LastGood,
}

impl Loader {
    fn load(&self, previous: Option<&Snapshot>) -> anyhow::Result<Loaded> {
        let settings = Settings {
            default_namespace: &self.namespace,
            variables: &|name| std::env::var(name).ok(),
            keys: Some(&self.keys),
            mock: Some(self.mock.clone()),
            prices: *PriceTable::embedded(),
            now: jiff::Timestamp::now().as_second(),
        };
        let before = Before { snapshot: previous, last_good: &self.last_good };
        let mut loaded = load(&self.source, &settings, Some(before))?;
        self.add_master_key(&mut loaded)?;
        Ok(loaded)
    }

    /// At the start: objects that are wrong now fall back to what the last process served.
    fn load_first(&self) -> anyhow::Result<Loaded> {
        let loaded = self.load(None)?;
        let wrong = loaded.findings.iter().any(|placed| placed.finding.severity == Severity::Error);
        match wrong.then(|| self.remembered()).flatten() {
            Some(previous) => self.load(Some(&previous)),
            None => Ok(loaded),
        }
    }

    /// The environment's master key, else the configuration's, else one of ours.
    fn add_master_key(&self, loaded: &mut Loaded) -> anyhow::Result<()> {
        let gateway = &mut loaded.snapshot.gateway;
        let object =
            ObjectRef { kind: "LLMGateway", namespace: gateway.namespace.to_string(), name: gateway.name.to_string() };
        if gateway.master_key.is_none() {
            let text = match &self.master_key {
                Some(text) => text.clone(),
                None => self.keys.get_or_create("gateway", "master")?.text,
            };
            if text.len() < WEAK_KEY_LENGTH {
                let message = "the master key is short enough to be guessed";
                let finding =
                    Finding::warning(&object, Reason::WeakKey, "", message).hint("use 32 random characters or more");
                loaded.findings.push(Placed { finding, file: None, at: None });
            }
            gateway.master_key = Some(KeyHash::of(text.as_bytes()));
        }
        Ok(())
    }

    fn snapshot_file(&self) -> PathBuf {
        self.data.join("snapshot.json")
    }

    /// What the last process served.
    fn remembered(&self) -> Option<Snapshot> {
        let bytes = std::fs::read(self.snapshot_file()).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes down what is served, so that a bad edit, now or after a restart, leaves what was before. Hashes of keys
    /// only, and no Secrets.
    fn remember(&mut self, shared: &Arc<Shared>, kept: &[Kept], secrets: Vec<(PathBuf, Secret)>) {
        // At once: the next edit may need it.
        if let Err(error) = self.last_good.keep(kept, secrets) {
            tracing::warn!("cannot write down the objects that are served: {error:#}");
        }
        let (path, shared) = (self.snapshot_file(), shared.clone());
        tokio::task::spawn_blocking(move || {
            let tables = shared.tables.load_full();
            let partial = path.with_extension("partial");
            let write = || -> anyhow::Result<()> {
                let mut file = std::io::BufWriter::new(create_private(&partial)?);
                serde_json::to_writer(&mut file, &tables.snapshot)?;
                file.flush()?;
                std::fs::rename(&partial, &path)?;
                Ok(())
            };
            if let Err(error) = write() {
                tracing::warn!("cannot write down the snapshot: {error:#}");
            }
        });
    }
}

/// Shorter keys can be guessed: `sk-` and 16 random characters have about 96 bits.
const WEAK_KEY_LENGTH: usize = 19;

/// Takes up every change of the configuration.
struct Follower {
    loader: Loader,
    shared: Arc<Shared>,
    /// URLs that are told of budgets.
    told: Arc<ArcSwap<Vec<Credential>>>,
    open: Open,
    findings: Vec<Placed>,
    /// When it changes although no file does, unix seconds.
    next_change: Option<i64>,
}

impl Follower {
    async fn run(mut self, watch: Option<Watch>) {
        let Some(mut watch) = watch else { return std::future::pending().await };
        loop {
            tokio::select! {
                () = watch.changed() => {}
                () = until(self.next_change) => {}
            }
            let begun = Instant::now();
            let current = self.shared.tables.load_full();
            let load = || self.loader.load(Some(&current.snapshot));
            // A bug in what one object meets is no reason to stop serving all others.
            let loaded = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err(anyhow!("reading it panicked")));
            match loaded {
                Err(error) => {
                    // Not at once again: the watch tells when it may be read.
                    self.next_change = None;
                    self.shared.status.update(|loaded| {
                        loaded.reloads += 1;
                        loaded.failures += 1;
                        loaded.healthy = false;
                    });
                    tracing::error!("the configuration cannot be read, the last good one stays in use: {error:#}");
                }
                Ok(loaded) => {
                    let generation = current.generation + 1;
                    drop(current);
                    self.take(generation, loaded);
                    tracing::info!(
                        generation,
                        "configuration generation {generation} is live after {} ms",
                        begun.elapsed().as_millis()
                    );
                }
            }
        }
    }

    fn take(&mut self, generation: u64, loaded: Loaded) {
        let Follower { loader, shared, told, open, findings, next_change } = self;
        let Loaded {
            snapshot,
            credentials,
            webhooks,
            findings: new,
            next_change: next,
            keys: _,
            listeners,
            is_litellm: _,
            kept,
            secrets,
        } = loaded;
        open.take(listeners);
        *next_change = next;
        told.store(Arc::new(webhooks));
        let tables = shared.builder.build(generation, snapshot, &credentials);
        // Who sees the generation finds what was found in it.
        note(shared, loader, generation, &new);
        let old = shared.tables.swap(tables);
        report(&new, findings, loader);
        *findings = new;
        loader.remember(shared, &kept, secrets);
        drop((credentials, kept));
        memory::give_back();
        tokio::spawn(memory::free(old));
    }
}

/// Until a moment has come, unix seconds; for ever where there is none. Looks at the clock again and again: it may be set.
async fn until(moment: Option<i64>) {
    let Some(moment) = moment else { return std::future::pending().await };
    /// The longest that a clock that was set is not seen.
    const LONGEST: u64 = 60;
    loop {
        let left = moment - jiff::Timestamp::now().as_second();
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else { return };
        tokio::time::sleep(Duration::from_secs(left.min(LONGEST))).await;
    }
}

/// Tells `/health` and `/metrics`.
fn note(shared: &Shared, loader: &Loader, generation: u64, findings: &[Placed]) {
    shared.status.update(|loaded| {
        loaded.source = loader.source.to_string();
        loaded.generation = generation;
        loaded.applied_at = jiff::Timestamp::now().as_second();
        loaded.reloads += 1;
        loaded.findings = findings.iter().map(|placed| placed.finding.clone()).collect();
        loaded.healthy = findings.iter().all(|placed| placed.finding.severity == Severity::Warning);
    });
}

/// Logs findings that were not there before.
fn report(findings: &[Placed], before: &[Placed], loader: &Loader) {
    let base = match &loader.source {
        Source::Path(path) if path.is_dir() => Some(path.as_path()),
        Source::Path(_) | Source::Demo => None,
    };
    /// More lines than anyone reads; `tollgate check` has them all.
    const MOST: usize = 100;
    let is_new = |placed: &&Placed| !before.iter().any(|other| other.finding == placed.finding);
    let new: Vec<&Placed> = findings.iter().filter(is_new).collect();
    for placed in new.iter().take(MOST) {
        match placed.finding.severity {
            Severity::Error => tracing::error!("{}", line(placed, base)),
            Severity::Warning => tracing::warn!("{}", line(placed, base)),
        }
    }
    if new.len() > MOST {
        tracing::warn!("{} more findings: run `tollgate check`", new.len() - MOST);
    }
}

/// What is served and how to call it, in at most ten lines.
fn banner(
    shared: &Shared,
    loader: &Loader,
    open: &Open,
    keys: &[NewKey],
    is_litellm: bool,
    took: Duration,
) -> anyhow::Result<()> {
    let tables = shared.tables.load();
    let snapshot = &tables.snapshot;
    let url = open.url();
    let mut names: Vec<&str> = snapshot.routes.iter().filter(|route| !route.hidden).map(|route| &*route.name).collect();
    names.sort_unstable();
    names.dedup();
    let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(8);
    let model = names.iter().copied().find(|name| !name.contains('*')).unwrap_or("MODEL");
    let mut out = std::io::stdout().lock();
    writeln!(out, "tollgate {} at {url} (ready after {} ms)", env!("CARGO_PKG_VERSION"), took.as_millis())?;
    let format = if is_litellm { " (LiteLLM)" } else { "" };
    for (name, url) in open.others() {
        writeln!(out, "also:    {url} (listener `{name}`)")?;
    }
    writeln!(out, "config:  {}{format}, generation {}", loader.source, tables.generation)?;
    let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
    writeln!(out, "models:  {shown}{and_more} ({} deployments)", snapshot.deployments.len())?;
    writeln!(
        out,
        "keys:    {}, budgets: {}, data: {}",
        snapshot.keys.len(),
        snapshot.budgets.len(),
        loader.data.display()
    )?;
    let key = match (&loader.source, keys.first()) {
        (Source::Demo, Some(key)) => {
            writeln!(out, "key:     {}", key.text)?;
            key.text.clone()
        }
        (_, Some(key)) => {
            writeln!(out, "key:     in {} (VirtualKey {})", key.path.display(), key.object.name)?;
            format!("$(cat '{}')", key.path.display())
        }
        (_, None) if loader.master_key.is_some() => "$LITELLM_MASTER_KEY".to_owned(),
        (_, None) => {
            let path = loader.data.join("keys/gateway/master");
            if path.exists() {
                writeln!(out, "key:     in {} (master key)", path.display())?;
                format!("$(cat '{}')", path.display())
            } else {
                "$KEY".to_owned()
            }
        }
    };
    writeln!(
        out,
        "try:     curl {url}/v1/chat/completions -H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json' \\"
    )?;
    writeln!(
        out,
        "           -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'"
    )?;
    out.flush()?;
    Ok(())
}

fn default_data_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .map(|folder| folder.join("tollgate"))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/tollgate")))
        .unwrap_or_else(|| PathBuf::from("tollgate-data"))
}
