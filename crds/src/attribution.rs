//! Which headers of a call say who is behind it and what it is for.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Headers that hold credentials: what is in them must not become a name in rows.
pub const CREDENTIAL_HEADERS: [&str; 6] =
    ["authorization", "proxy-authorization", "x-api-key", "api-key", "x-litellm-api-key", "cookie"];

/// Which headers of a call say who is behind it and what it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.endUserHeaders) || self.endUserHeaders.all(name, !(name.lowerAscii() in ['authorization', 'proxy-authorization', 'x-api-key', 'api-key', 'x-litellm-api-key', 'cookie']))")
    .message("endUserHeaders must not name a header that holds a credential"))]
#[x_kube(validation = Rule::new("!has(self.tagHeaders) || self.tagHeaders.all(name, !(name.lowerAscii() in ['authorization', 'proxy-authorization', 'x-api-key', 'api-key', 'x-litellm-api-key', 'cookie']))")
    .message("tagHeaders must not name a header that holds a credential"))]
#[serde(rename_all = "camelCase")]
pub struct Attribution {
    /// Headers that name the end user; the first that is there counts. They go before `user` and what else names
    /// somebody in the body, and `x-litellm-end-user-id` goes before them. Default: none. Example: `[X-OpenWebUI-User-Id]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")))]
    pub end_user_headers: Vec<String>,

    /// Headers that are tags of the call, as `NAME: VALUE` with the name as it is written here. `User-Agent` gives two: the
    /// program, and the program with its version. Default: none. Example: `[X-Project]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")))]
    pub tag_headers: Vec<String>,
}

impl Attribution {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Attribution::default()
    }
}
