//! Who may refer to an object from another namespace: the owner of the object says so, here.

use crate::label_selector::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The namespaces that an object may be used from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("selector belongs beside `from: Selector`, and only there"))]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// `Same`: only its own namespace. `All`: every namespace. `Selector`: namespaces whose labels match `selector`,
    /// and its own. Default: `Same`.
    #[serde(default)]
    pub from: NamespacesFrom,

    /// Labels of the namespaces that may use the object. Only with `from: Selector`.
    /// Example: `{matchLabels: {llm: allowed}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// Only the namespace of the object.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Namespaces whose labels match.
    Selector,
}
