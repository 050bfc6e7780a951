//! Names and labels of what the operator makes. Proxies, charts and Roles know them too.

use std::collections::BTreeMap;

/// Field manager of everything that is applied.
pub const MANAGER: &str = "tollgate-operator";

/// The label that names the gateway of a generated object.
pub const GATEWAY_LABEL: &str = "tollgate.dev/gateway";

/// The label that says which part of the tables an object holds.
pub const TABLES_LABEL: &str = "tollgate.dev/tables";

/// The annotation of pods that says who hands out budgets, where it is not the operator.
pub const ALLOCATOR_ANNOTATION: &str = "tollgate.dev/allocator";

/// The annotation of an LLMGateway that has no Redis any more: what was spent there is to be forgotten. Its value is the
/// name of the Secret that `spec.stores.redis` had.
pub const ABANDON_ANNOTATION: &str = "tollgate.dev/forget-redis";

/// Labels of a generated object. `component`: `proxy`, `tables`.
pub fn labels(gateway: &str, component: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "tollgate"),
        ("app.kubernetes.io/instance", gateway),
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/part-of", "tollgate"),
        ("app.kubernetes.io/managed-by", MANAGER),
        (GATEWAY_LABEL, gateway),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// Deployment, Service and what belongs to them. The gateway named `default` gets the short name, so that its address is
/// `http://tollgate.<namespace>.svc`.
pub fn proxies(gateway: &str) -> String {
    if gateway == "default" { "tollgate".to_owned() } else { format!("tollgate-{gateway}") }
}
