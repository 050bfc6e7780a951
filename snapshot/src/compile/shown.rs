//! Whether a deployment's streams show all output that they are billed for, so that what was used can be counted as they
//! come. Where it is not certain, they are taken for such that do not.

use tollgate_crds::ModelDeploymentSpec;

use super::overlay::Overlays;
use crate::model::Parameters;
use crate::price::Capabilities;

/// Parts of names of what makes output that is not shown, or not when it is made: thoughts, and calls of tools, which
/// servers gather first.
const HIDING: [&str; 6] = ["think", "reason", "tool", "function", "audio", "modalities"];

pub(super) fn shows_output(
    spec: &ModelDeploymentSpec,
    parameters: &Parameters,
    provider: &str,
    prices: &Overlays<'_>,
) -> bool {
    let ModelDeploymentSpec { model, capabilities: stated, pricing, .. } = spec;
    let Parameters { defaults, forced, drop: _ } = parameters;
    if defaults.iter().chain(forced).any(|(name, _)| HIDING.iter().any(|part| name.contains(part))) {
        return false;
    }
    if !stated.is_empty() {
        return !stated.iter().any(|name| is_thinking(name));
    }
    let like = pricing.as_ref().and_then(|pricing| pricing.like.as_deref()).unwrap_or(model);
    let listed = [prices.known(provider, model), prices.known_like(model), prices.known_like(like)];
    // A pattern may come to any model.
    !model.contains('*') && !listed.iter().flatten().any(|listed| thinks(listed.capabilities))
}

fn thinks(capabilities: Capabilities) -> bool {
    capabilities.names().any(is_thinking)
}

fn is_thinking(name: &str) -> bool {
    name.contains("think") || name.contains("reasoning")
}
