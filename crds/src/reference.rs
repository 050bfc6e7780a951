//! How resources name each other, Secrets, ConfigMaps and Services. Shapes only: what resolves and what is granted is
//! decided when resources are compiled.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object, in the same namespace. Example: `dev-daily`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An object of the same namespace, or of another one whose owner allows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name of the object. Example: `azure-eu`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Namespace of the object. Default: the namespace of the object that refers to it. Another namespace works only
    /// where the `allowedNamespaces` of the object admit this one. Example: `platform`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// One entry of a Secret of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret, in the same namespace. Example: `openai`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Entry of the Secret that holds the value. Example: `api-key`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// One entry of a ConfigMap of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap, in the same namespace. Example: `contract-prices`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Entry of the ConfigMap that holds the value. Example: `prices.jsonl`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A value that is read from a Secret and never written into a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// The entry of a Secret that holds the value. Example: `{name: openai, key: api-key}`.
    pub secret_ref: SecretKeyRef,
}

/// A server in the cluster that a model deployment calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// What kind of object serves the model. Default: `Service`.
    #[serde(default)]
    pub kind: BackendKind,

    /// Name of the object, in the same namespace. Example: `vllm`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Port of the Service. Example: `8000`.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// Kinds of objects that can serve a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BackendKind {
    /// A Service of the core group.
    #[default]
    Service,
}
