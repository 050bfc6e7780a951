//! Starts the parts, owns them, and stops with them.

use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::config_maps::{self, ConfigMapStore};
use crate::context::Context;
use crate::error::{Ended, Error};
use crate::events::{self, Events};
use crate::facts::Facts;
use crate::lease::{self, Leadership};
use crate::metrics::Metrics;
use crate::proxies::{self, Fleet};
use crate::secrets::{self, SecretStore};
use crate::settings::Settings;
use crate::world::{self, World};
use crate::{alerts, allocator, gateway, http, keys, probe, rates, tables, tally};

/// Runs the operator until SIGTERM, SIGINT or the end of one of its parts.
///
/// # Errors
/// The API server cannot be addressed, a port is taken, or a part ended.
pub fn run(settings: Settings) -> Result<(), Error> {
    // One thread: there is little to compute beside compile, which has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Signals)?;
    runtime.block_on(start(settings))
}

async fn start(settings: Settings) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let client = connect(&settings).await?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(client, settings, stop).await
}

/// Runs all parts until `stop`, then gives the Lease back.
///
/// # Errors
/// As [`run`].
pub async fn run_until(client: Client, settings: Settings, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let metrics = Metrics::default();
    let (events, queue) = Events::new(metrics.clone());
    let context = Context {
        client,
        settings: Arc::new(settings),
        world: World::default(),
        secrets: SecretStore::default(),
        config_maps: ConfigMapStore::default(),
        facts: Facts::default(),
        fleet: Fleet::default(),
        leadership: Leadership::default(),
        events,
        metrics,
    };
    let mut parts = Parts(JoinSet::new());
    parts.spawn("metrics", http::serve_metrics(context.clone()));
    parts.spawn("health", http::serve_health(context.clone()));
    parts.spawn("lease", lease::run(context.clone()));
    parts.spawn("watches", world::watch::run(context.clone()));
    parts.spawn("secrets", secrets::run(context.clone()));
    parts.spawn("config maps", config_maps::run(context.clone()));
    parts.spawn("tables", tables::run(context.clone()));
    parts.spawn("events", events::run(context.clone(), queue));
    parts.spawn("gateway", gateway::run(context.clone()));
    parts.spawn("keys", keys::run(context.clone()));
    parts.spawn("proxies", proxies::run(context.clone()));
    parts.spawn("probe", probe::run(context.clone()));
    parts.spawn("allocator", allocator::run(context.clone()));
    parts.spawn("rates", rates::run(context.clone()));
    parts.spawn("tally", tally::run(context.clone()));
    parts.spawn("alerts", alerts::run(context.clone()));
    let ended = tokio::select! {
        () = stop => Ok(()),
        error = parts.ended() => Err(error),
    };
    // Nothing may be written any more when somebody else is let in.
    drop(parts);
    lease::release(&context).await;
    ended
}

/// The parts that run. They end with it.
struct Parts(JoinSet<(&'static str, Ended)>);

impl Parts {
    fn spawn(&mut self, name: &'static str, part: impl Future<Output = Ended> + Send + 'static) {
        self.0.spawn(async move { (name, part.await) });
    }

    /// Waits for one to end, which none should.
    async fn ended(&mut self) -> Error {
        match self.0.join_next().await {
            Some(Ok((_, Err(error)))) => error,
            Some(Ok((_, Ok(never)))) => match never {},
            Some(Err(_)) | None => Error::PartEnded("one that panicked"),
        }
    }
}

async fn connect(settings: &Settings) -> Result<Client, Error> {
    let config = match &settings.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| Error::Configuration(error.to_string()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| Error::Configuration(error.to_string()))?
        }
        None => Config::infer().await.map_err(|error| Error::Configuration(error.to_string()))?,
    };
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}
