//! Where a provider or a self-hosted server listens, and what every call to it carries.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// An upstream's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Address up to the path that comes before the operation's. Default: the provider's own from the catalogue.
    /// Example: `https://example.openai.azure.com`. In a cluster a credential goes to a host of your own only if the
    /// annotation `tollgate.dev/hosts` of its Secret names that host.
    #[serde(rename = "baseURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')")
        .message("baseURL must begin with http:// or https://"))]
    pub base_url: Option<String>,

    /// Version of the API, where the provider wants one. Example: `2025-04-01-preview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub api_version: Option<String>,

    /// Further headers of every call. No credentials here: those belong into a Secret.
    /// Example: `[{name: OpenAI-Organization, value: org-1}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub headers: Vec<Header>,
}

/// A request header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Name of the header. Example: `OpenAI-Organization`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: String,

    /// Value of the header. Example: `org-1`.
    #[schemars(length(max = 1024))]
    pub value: String,
}
