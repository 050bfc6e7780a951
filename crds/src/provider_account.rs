//! `ProviderAccount`: an endpoint of a provider with its credentials, shared by deployments.

use crate::allowed_namespaces::AllowedNamespaces;
use crate::cancel_billing::CancelBilling;
use crate::condition::Condition;
use crate::endpoint::Endpoint;
use crate::limits::Limits;
use crate::reference::SecretKeyRef;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// How a provider is called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "ProviderAccount",
    plural = "provideraccounts",
    shortname = "pacct",
    category = "tollgate",
    namespaced,
    cel,
    status = "ProviderAccountStatus",
    derive = "PartialEq",
    doc = "An account at a provider: its endpoint, credentials and rate limits, and who may use it.",
    selectable = ".spec.provider",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the account can be used"
    ),
    printcolumn(name = "PROVIDER", type_ = "string", json_path = ".spec.provider", description = "The provider"),
    printcolumn(
        name = "CREDENTIALS",
        type_ = "string",
        json_path = ".status.credentials",
        description = "Credentials that work, of all"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ProviderAccountSpec {
    /// The provider, by its name in the catalogue: decides dialect, address and how credentials are sent. Immutable.
    /// Example: `azure`.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("provider is immutable; delete the object and create it again"))]
    pub provider: String,

    /// Where the provider is called. Default: the provider's own address from the catalogue.
    /// Example: `{baseURL: "https://example.openai.azure.com", apiVersion: "2025-04-01-preview"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,

    /// Credentials; calls are spread by weight, and one that the provider refuses is benched. Default: none, for
    /// servers that want none. Example: `[{name: one, secretRef: {name: azure-1, key: api-key}}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub credentials: Vec<AccountCredential>,

    /// Rates and parallel calls of the whole account, over all deployments that use it. A full account is passed over.
    /// Default: unlimited. Example: `{tokensPerMinute: 2000000}`.
    #[serde(default, skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,

    /// What the provider bills of a stream whose connection is closed. `Stops`: what it made until then, and it sends output
    /// as it makes it; Hard budgets then hold the output of streams bit by bit. `Full`: the answer to its end, all of which
    /// is held at once. Hard budgets rely on it: say `Stops` only where it is known. Default: what the
    /// catalogue says of the provider. Example: `Stops`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_billing: Option<CancelBilling>,

    /// Namespaces whose ModelDeployments may use the account. Default: `{from: Same}`.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
}

/// One credential. Exactly one of `secretRef`, `workloadIdentity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.workloadIdentity)")
    .message("exactly one of secretRef, workloadIdentity must be set"))]
#[serde(rename_all = "camelCase")]
pub struct AccountCredential {
    /// Name of the credential in logs and metrics. Example: `one`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// The entry of a Secret that holds the credential. Example: `{name: azure-1, key: api-key}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,

    /// Calls with the identity of the proxy's pod instead of a stored credential. Example: `{audience: sts.amazonaws.com}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,

    /// Share of the calls, beside the other credentials' weights. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    #[x_kube(validation = Rule::new("self > 0").message("weight must be greater than 0"))]
    pub weight: i32,
}

fn one() -> i32 {
    1
}

/// Who the proxy's pod is at the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Audience of the pod's token. Default: what the provider's documentation names. Example: `sts.amazonaws.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub audience: Option<String>,

    /// The role, client or service account to act as. Example: `arn:aws:iam::123456789012:role/llm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub identity: Option<String>,
}

/// What is known about an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderAccountStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Credentials that work, of all, ready to print. Example: `1/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub credentials: Option<String>,
}
