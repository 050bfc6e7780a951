//! The loop in the middle: takes over what watches brought, compiles when something changed that compile reads, publishes
//! each gateway's tables, and says in every object's status what became of it.
//!
//! One round at a time: what arrives meanwhile is the next round's. So a storm of edits becomes few rounds, and each sees
//! one state of the world.

pub mod compiled;
mod history;
mod unread;
mod watch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tollgate_snapshot::compile::next_change;
use tollgate_snapshot::wire::Tables;
use tollgate_snapshot::{Credential, GatewayName, ObjectRef, Snapshot};

use self::compiled::{Asked, Compiled};
pub use self::history::History;
use self::watch::Watches;
use crate::Context;
use crate::backoff::Backoff;
use crate::config_maps;
use crate::error::Ended;
use crate::facts::Problem;
use crate::gateway::served;
use crate::kind;
use crate::proxies;
use crate::publish::{Live, Owner, PublishError};
use crate::secrets;
use crate::status::{self, StatusQueue};

/// Waits for an editor or a `kubectl apply -f` of many documents to finish. Longer would be felt, shorter compiles twice.
const SETTLE: Duration = Duration::from_millis(20);

/// How long a round waits for Secrets that were never read.
const SECRETS: Duration = Duration::from_secs(1);

/// A look at all statuses is not stopped for an edit where none came to its end for so long.
const STALEST: Duration = Duration::from_secs(10);

/// How long a new leader gives proxies, pods and probes to be heard of, before it says that there are none.
const YOUNG: Duration = Duration::from_secs(4);

/// Tries to publish over conflicts before there is a pause.
const CONFLICTS: u32 = 3;

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        tokio::select! {
            biased;
            () = context.leadership.acquired() => {}
            never = follow(&context) => match never {},
        }
        // Ends with the Lease.
        context.leadership.while_leading(lead(&context)).await;
    }
}

/// Without the Lease: only takes over what watches bring, so that leading begins warm.
async fn follow(context: &Context) -> Infallible {
    loop {
        context.world.arrived().await;
        sleep(SETTLE).await;
        context.world.take_over();
    }
}

/// What one leader remembers between rounds.
struct Lead<'c> {
    context: &'c Context,
    begun: Instant,
    /// The round of the objects that were there when it began; `None`: not everything was listed yet.
    since: Option<u64>,
    gateways: BTreeMap<GatewayName, Gateway>,
    watches: Watches,
    compiled: Arc<Compiled>,
    queue: StatusQueue,
    /// When statuses change by themselves, Unix seconds.
    shown_next: Option<i64>,
    /// The last look was taken when not everything was heard of.
    looked_young: bool,
    /// When a look came to its end; `None`: none did yet. Edits stop one, but not for ever.
    looked_at: Option<Instant>,
    /// The last look was stopped.
    is_behind: bool,
}

/// One gateway between rounds.
struct Gateway {
    owner: Owner,
    /// `None`: to be read.
    live: Option<Live>,
    previous: Option<Arc<Snapshot>>,
    /// The texts of `previous`, where it was compiled here: most of the next ones are the same.
    written: Option<Arc<Tables>>,
    /// As they were published when this process began to lead.
    credentials: Vec<Credential>,
    history: History,
    /// Why the last publication failed, and when it is tried again.
    problem: Option<Problem>,
    retry_at: Option<Instant>,
    /// Since the last success.
    conflicts: u32,
    backoff: Backoff,
}

impl Gateway {
    fn new(owner: Owner) -> Gateway {
        Gateway {
            owner,
            live: None,
            previous: None,
            written: None,
            credentials: Vec::new(),
            history: History::default(),
            problem: None,
            retry_at: None,
            conflicts: 0,
            backoff: Backoff::of_server(),
        }
    }
}

/// Why a round begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cause {
    /// Something that compile reads changed, or tables are to be written again.
    compile: bool,
    /// Something that only conditions read changed.
    show: bool,
}

async fn lead(context: &Context) -> Infallible {
    let (queue, writer) = StatusQueue::new(context);
    let mut lead = Lead {
        context,
        begun: Instant::now(),
        since: None,
        gateways: BTreeMap::new(),
        watches: Watches::new(context.client.clone(), context.metrics.clone()),
        compiled: Arc::default(),
        queue,
        shown_next: None,
        looked_young: false,
        looked_at: None,
        is_behind: false,
    };
    tokio::select! {
        never = lead.run() => never,
        never = writer.run() => never,
    }
}

impl Lead<'_> {
    async fn run(&mut self) -> Infallible {
        let Context { world, facts, secrets, .. } = self.context;
        let mut compile_again = facts.subscribe_compiled();
        let mut show_again = facts.subscribe_shown();
        let mut secrets = secrets.subscribe();
        let mut config_maps = self.context.config_maps.subscribe();
        // What came while another led.
        let mut cause = Cause { compile: true, show: true };
        let mut begun = Instant::now();
        loop {
            let next = self.round(cause, begun).await;
            cause = Cause::default();
            tokio::select! {
                () = world.arrived() => {}
                _ = compile_again.changed() => cause.compile = true,
                _ = secrets.changed() => cause.compile = true,
                _ = config_maps.changed() => cause.compile = true,
                _ = show_again.changed() => cause.show = true,
                seen = self.watches.next() => cause.compile = self.is_foreign(&seen),
                () = sleep_until(next.at) => cause = Cause { compile: next.compile, show: true },
            }
            begun = Instant::now();
            sleep(SETTLE).await;
            cause.compile |= compile_again.has_changed().unwrap_or(false);
            compile_again.mark_unchanged();
            cause.compile |= secrets.has_changed().unwrap_or(false);
            secrets.mark_unchanged();
            cause.compile |= config_maps.has_changed().unwrap_or(false);
            config_maps.mark_unchanged();
            cause.show |= show_again.has_changed().unwrap_or(false);
            show_again.mark_unchanged();
            while let Some(seen) = self.watches.try_next() {
                cause.compile |= self.is_foreign(&seen);
            }
        }
    }

    /// Whether tables must be written again; forgets what is known of them then.
    fn is_foreign(&mut self, seen: &watch::Seen) -> bool {
        let watch::Seen { namespace, name, resource_version } = seen;
        let mut foreign = false;
        for (gateway, state) in &mut self.gateways {
            let Some(live) = &state.live else { continue };
            if gateway.namespace == *namespace
                && live.concerns(name)
                && live.is_foreign(name, resource_version.as_deref())
            {
                tracing::info!(%gateway, "`{name}` was changed by somebody else; the tables are read again");
                state.live = None;
                foreign = true;
            }
        }
        foreign
    }

    async fn round(&mut self, cause: Cause, begun: Instant) -> Next {
        let context = self.context;
        let taken = context.world.take_over();
        if !context.world.read().is_complete() {
            return Next::never();
        }
        if taken.documents {
            self.count_objects();
        }
        if cause.compile || taken.documents {
            self.compile_and_publish(begun).await;
        } else if !cause.show && !self.is_behind && self.are_echoes(&taken.touched) {
            return self.next(self.shown_next);
        }
        self.count_proxies();
        let views = self.gateways.iter().map(|(name, gateway)| gateway.view(name));
        let young = self.begun.elapsed() < YOUNG;
        let first = self.looked_at.is_none();
        let since = *self.since.get_or_insert(context.world.read().round());
        let term = status::Term { young, since, first };
        let may_stop = self.looked_at.unwrap_or(self.begun).elapsed() < STALEST;
        let looked = status::look(context, views, term, &self.compiled, &self.queue, may_stop).await;
        self.is_behind = looked.is_none();
        let Some(shown) = looked else {
            // The edit goes first, and the look is begun anew behind it.
            return Next { at: Instant::now(), compile: false };
        };
        self.looked_at = Some(Instant::now());
        self.looked_young = young;
        self.queue.put(shown.statuses);
        let objects = context.world.read();
        self.queue
            .forget(|object, version| objects.record(object).is_some_and(|record| record.resource_version == version));
        drop(objects);
        self.shown_next = shown.next_change;
        self.next(self.shown_next)
    }

    /// Whether these are only what was written here, coming back.
    fn are_echoes(&self, touched: &[ObjectRef]) -> bool {
        let objects = self.context.world.read();
        touched.iter().fold(true, |all, object| {
            let record = objects.record(object);
            record.is_none_or(|record| self.queue.is_echo(object, &record.seen)) && all
        })
    }

    fn count_objects(&self) {
        let Context { world, metrics, .. } = self.context;
        let objects = world.read();
        let mut numbers = kind::KINDS.map(|kind| (kind, 0));
        for document in objects.documents() {
            if let Some((_, number)) = numbers.iter_mut().find(|(kind, _)| *kind == document.kind()) {
                *number += 1;
            }
        }
        numbers.into_iter().for_each(|(kind, number)| metrics.objects(kind, number));
    }

    fn count_proxies(&self) {
        let known = self.context.facts.read();
        for (name, gateway) in &self.gateways {
            let GatewayName { namespace, name } = name;
            let proxies = known.proxies.get(&(namespace.clone(), name.clone())).cloned().unwrap_or_default();
            let generation = gateway.live.as_ref().map_or(0, Live::generation);
            self.context.metrics.gateway(namespace, name, generation, &proxies);
        }
    }

    /// When to begin a round although nothing happens.
    fn next(&self, shown: Option<i64>) -> Next {
        let retry = self.gateways.values().filter_map(|gateway| gateway.retry_at).min();
        let now = now();
        let in_seconds =
            |at: i64| Instant::now() + Duration::from_secs(u64::try_from(at - now).unwrap_or(0).min(86_400));
        let boost = next_change(self.context.world.read().documents(), now).map(in_seconds);
        let compile = retry.into_iter().chain(boost).min();
        // Also where that moment came during a round.
        let grown = self.looked_young.then(|| self.begun + YOUNG);
        let show = shown.map(in_seconds).into_iter().chain(grown).min();
        match (compile, show) {
            (Some(at), Some(show)) if show < at => Next { at: show, compile: false },
            (Some(at), _) => Next { at, compile: true },
            (None, Some(at)) => Next { at, compile: false },
            (None, None) => Next::never(),
        }
    }

    async fn compile_and_publish(&mut self, begun: Instant) {
        let before = self.compiled.clone();
        for _ in 0..CONFLICTS {
            self.find_gateways();
            self.wait_for_secrets().await;
            self.load().await;
            let tables = self.compile().await;
            if !self.publish(&tables).await {
                break;
            }
        }
        self.context.metrics.reconciled(begun.elapsed());
        // A hundred thousand keys are not forgotten in a moment, and nobody needs to wait for that.
        tokio::task::spawn_blocking(move || drop(before));
    }

    /// Which gateways there are.
    fn find_gateways(&mut self) {
        let Context { world, fleet, metrics, .. } = self.context;
        let owners: Vec<Owner> = {
            let objects = world.read();
            let owner = |meta: &tollgate_snapshot::compile::Meta, uid: &str| Owner {
                gateway: GatewayName { namespace: meta.namespace.clone(), name: meta.name.clone() },
                uid: uid.to_owned(),
            };
            objects.gateways().map(|(gateway, record)| owner(&gateway.meta, &record.uid)).collect()
        };
        self.gateways.retain(|name, gateway| {
            let is_there = owners.contains(&gateway.owner);
            if !is_there {
                // Its tables go with it: they are owned by it.
                fleet.forget(&name.namespace, &name.name);
                metrics.forget_gateway(&name.namespace, &name.name);
            }
            is_there
        });
        for owner in owners {
            self.gateways.entry(owner.gateway.clone()).or_insert_with(|| Gateway::new(owner));
        }
    }

    /// A Secret that was named just now is read first, so that objects do not look broken for a moment; ConfigMaps too.
    async fn wait_for_secrets(&self) {
        let Context { world, secrets, config_maps, metrics, .. } = self.context;
        let deadline = Instant::now() + SECRETS;
        let wanted = config_maps::wanted(&world.read());
        let mut changed = config_maps.subscribe();
        while !config_maps.has_tried(&wanted) {
            if timeout_at(deadline, changed.changed()).await.is_err() {
                break;
            }
        }
        let wanted = secrets::wanted(&world.read());
        let mut changed = secrets.subscribe();
        while !secrets.has_tried(&wanted) {
            if timeout_at(deadline, changed.changed()).await.is_err() {
                break;
            }
        }
        secrets.count(metrics);
    }

    /// Reads what is there of gateways of which nothing is known.
    async fn load(&mut self) {
        let Context { client, metrics, .. } = self.context;
        for (name, gateway) in &mut self.gateways {
            if gateway.live.is_some() || gateway.retry_at.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            match Live::load(client, gateway.owner.clone(), metrics).await {
                Ok((live, read)) => {
                    if let (None, Some(read)) = (&gateway.previous, read) {
                        gateway.previous = Some(Arc::new(read.snapshot));
                        gateway.credentials = read.credentials;
                    }
                    gateway.live = Some(live);
                }
                Err(error) => gateway.failed(name, &error),
            }
        }
    }

    /// What is to be written; nothing where compiling failed.
    async fn compile(&mut self) -> BTreeMap<GatewayName, Arc<Tables>> {
        let Context { world, facts, secrets, config_maps, metrics, settings, .. } = self.context;
        let asked = self.gateways.iter().map(|(name, gateway)| Asked {
            gateway: name.clone(),
            previous: gateway.previous.clone(),
            salt: gateway.live.as_ref().map(|live| live.sealing().salt.to_owned()).unwrap_or_default(),
            token: gateway.live.as_ref().map_or_else(|| "".into(), Live::token),
            shard_digits: gateway.live.as_ref().and_then(Live::shard_digits),
            written: gateway.written.clone(),
        });
        let asked: Vec<Asked> = asked.collect();
        let mut secrets = secrets.compiled();
        for Gateway { previous, credentials, .. } in self.gateways.values() {
            if let Some(previous) = previous {
                unread::fill(&mut secrets, previous, credentials);
            }
        }
        let hashes = compiled::hashes(&world.read(), &facts.read(), &secrets);
        let standing = served::standing(&world.read(), &facts.read(), &settings.lease_namespace);
        let config_maps = config_maps.compiled(&config_maps::wanted(&world.read()));
        let world = world.clone();
        let begun = Instant::now();
        let compiling = tokio::task::spawn_blocking(move || {
            compiled::compile(&world.read(), &secrets, &config_maps, &hashes, standing, &asked, now())
        });
        let compiled = compiling.await;
        metrics.compiled(begun.elapsed());
        match compiled {
            Ok((compiled, tables)) => {
                for (name, snapshot) in &compiled.snapshots {
                    if let Some(gateway) = self.gateways.get_mut(name) {
                        gateway.previous = Some(snapshot.clone());
                        gateway.written = tables.get(name).cloned();
                    }
                }
                for (GatewayName { namespace, name }, webhooks) in &compiled.webhooks {
                    facts.set_webhooks(namespace, name, webhooks.clone());
                }
                metrics.findings(compiled.errors, compiled.warnings);
                self.compiled = Arc::new(compiled);
                tables
            }
            // A bug, but not one that may stop what works: what is published stays.
            Err(error) => {
                tracing::error!(%error, "compiling failed; the tables stay as they are");
                BTreeMap::new()
            }
        }
    }

    /// Whether it should be computed again because somebody else wrote.
    async fn publish(&mut self, tables: &BTreeMap<GatewayName, Arc<Tables>>) -> bool {
        let Context { client, metrics, fleet, world, .. } = self.context;
        let round = world.read().round();
        let mut again = false;
        for (name, snapshot) in &self.compiled.snapshots {
            fleet.compiled(&name.namespace, &name.name, snapshot.clone());
        }
        for (name, gateway) in &mut self.gateways {
            let (Some(live), Some(tables)) = (&mut gateway.live, tables.get(name)) else { continue };
            let begun = Instant::now();
            match live.publish(client, tables, metrics).await {
                Ok(published) => {
                    if published.writes > 0 {
                        metrics.published(begun.elapsed());
                        let generation = published.generation;
                        tracing::info!(gateway = %name, generation, writes = published.writes, "tables of `{name}` published");
                    }
                    gateway.history.published(round, published.generation);
                    gateway.problem = None;
                    gateway.retry_at = None;
                    gateway.conflicts = 0;
                    gateway.backoff.reset();
                    let token = live.token();
                    let GatewayName { namespace, name } = name;
                    fleet.publish(namespace, name, proxies::Published { generation: published.generation, token });
                }
                Err(error) => {
                    again |= matches!(error, PublishError::Conflict(_));
                    gateway.live = None;
                    gateway.failed(name, &error);
                }
            }
        }
        let secrets = self
            .gateways
            .iter()
            .map(|(name, gateway)| (name, gateway.live.as_ref().map(Live::secret_names).unwrap_or_default()));
        self.watches.set(secrets);
        again
    }
}

impl Gateway {
    fn failed(&mut self, name: &GatewayName, error: &PublishError) {
        let is_conflict = matches!(error, PublishError::Conflict(_));
        if is_conflict {
            tracing::debug!(%error, gateway = %name, "the tables of `{name}` are computed again: {error}");
        } else {
            tracing::warn!(%error, gateway = %name, "the tables of `{name}` are not published: {error}");
        }
        self.problem = Some(Problem { reason: error.reason(), message: error.to_string() });
        self.conflicts += u32::from(is_conflict);
        // A conflict is tried again at once, but not for ever: somebody else may write as often.
        let at_once = is_conflict && self.conflicts < CONFLICTS;
        let delay = if at_once { Duration::ZERO } else { self.backoff.next_delay() };
        self.retry_at = Some(Instant::now() + delay);
    }

    fn view(&self, name: &GatewayName) -> (GatewayName, status::Tables) {
        let tables = status::Tables { history: self.history.clone(), problem: self.problem.clone() };
        (name.clone(), tables)
    }
}

/// When to begin a round although nothing happens.
#[derive(Clone, Copy, Debug)]
struct Next {
    at: Instant,
    compile: bool,
}

impl Next {
    fn never() -> Next {
        Next { at: Instant::now() + Duration::from_secs(86_400), compile: false }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
