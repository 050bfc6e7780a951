//! Starts the parts, owns them, and stops with them.

use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::error::{Ended, Error};
use crate::events::Events;
use crate::facts::Facts;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::world::World;
use crate::{gateway, keys, probe, proxies};

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
    let client = connect(&settings).await?;
    let (events, _queue) = Events::new();
    let context = Context {
        client,
        settings: Arc::new(settings),
        world: World::default(),
        facts: Facts::default(),
        fleet: proxies::Fleet::default(),
        leadership: Leadership::default(),
        events,
        metrics: Metrics::default(),
    };
    let mut parts = JoinSet::new();
    spawn(&mut parts, "gateway", gateway::run(context.clone()));
    spawn(&mut parts, "keys", keys::run(context.clone()));
    spawn(&mut parts, "proxies", proxies::run(context.clone()));
    spawn(&mut parts, "probe", probe::run(context.clone()));

    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = parts.join_next() => match ended {
            Ok((name, Ok(_))) => Err(Error::PartEnded(name)),
            Ok((_, Err(error))) => Err(error),
            Err(_) => Err(Error::PartEnded("a part that panicked")),
        },
    }
}

fn spawn(
    parts: &mut JoinSet<(&'static str, Ended)>,
    name: &'static str,
    part: impl Future<Output = Ended> + Send + 'static,
) {
    parts.spawn(async move { (name, part.await) });
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
