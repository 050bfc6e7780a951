//! Providers' credentials as the text of Secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names;
use super::tables::{Part, Sealing};
use super::text::{self, MOST};
use crate::model::Credential;

/// The text of a Secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sealed {
    salt: String,
    /// In the first Secret only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// By [`Credential::id`].
    pub credentials: BTreeMap<Arc<str>, Arc<str>>,
}

/// As few Secrets as they fit into, and always the first, which holds the token. `compile` takes care that they fit into
/// those that there may be.
pub(super) fn write(gateway: &str, credentials: &[Credential], sealing: Sealing<'_>) -> Vec<Part> {
    let Sealing { salt, token } = sealing;
    let mut parts = Vec::new();
    let mut sealed = Sealed { salt: salt.to_owned(), token: token.to_owned(), credentials: BTreeMap::new() };
    let mut size = salt.len() + token.len();
    for Credential { id, value } in credentials {
        let more = size_of(id, value);
        if size + more > MOST - ROOM {
            parts.push(part(gateway, parts.len(), &sealed));
            sealed = Sealed { salt: salt.to_owned(), ..Sealed::default() };
            size = salt.len();
        }
        sealed.credentials.insert(id.clone(), value.clone());
        size += more;
    }
    parts.push(part(gateway, parts.len(), &sealed));
    parts
}

/// For names and brackets around credentials. Bytes.
const ROOM: usize = 1_000;

/// The most that one credential takes, each character of it escaped. Bytes.
fn size_of(id: &str, value: &str) -> usize {
    2 * (id.len() + value.len()) + 6
}

fn part(gateway: &str, at: usize, sealed: &Sealed) -> Part {
    let content = serde_json::to_string(sealed).expect("texts are valid JSON");
    let sha256 = text::sha256(&content);
    Part { name: names::credentials(gateway, at), content, sha256 }
}
