//! What all parts share.

use std::sync::Arc;

use kube::Client;

use crate::config_maps::ConfigMapStore;
use crate::events::Events;
use crate::facts::Facts;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::proxies::Fleet;
use crate::secrets::SecretStore;
use crate::settings::Settings;
use crate::world::World;

/// Handles, cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub settings: Arc<Settings>,
    /// The objects of the cluster.
    pub world: World,
    /// The Secrets that objects name.
    pub secrets: SecretStore,
    /// The ConfigMaps with prices that gateways name.
    pub config_maps: ConfigMapStore,
    /// What parts found out.
    pub facts: Facts,
    /// The proxies and what they should run.
    pub fleet: Fleet,
    /// Whether this process may write.
    pub leadership: Leadership,
    pub events: Events,
    pub metrics: Metrics,
}
