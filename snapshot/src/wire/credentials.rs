//! Providers' credentials as the text of Secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names::{self, CREDENTIALS_SECRETS};
use super::tables::{Part, Sealing};
use super::text::MOST;
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
    let mut size = 0;
    for Credential { id, value } in credentials {
        let more = size_of(id, value);
        if size + more > MOST - AROUND && !sealed.credentials.is_empty() {
            parts.push(part(gateway, parts.len(), &sealed));
            sealed = Sealed { salt: salt.to_owned(), ..Sealed::default() };
            size = 0;
        }
        sealed.credentials.insert(id.clone(), value.clone());
        size += more;
    }
    parts.push(part(gateway, parts.len(), &sealed));
    parts
}

/// For names, salt and brackets around credentials. Bytes.
const AROUND: usize = 2_000;

/// What all credentials together may take, by [`size_of`], so that they fit however they are spread. Bytes.
pub(crate) const ROOM: usize = CREDENTIALS_SECRETS * (MOST - AROUND - 20_000);

/// The most that one credential takes, each character of it escaped. Bytes.
pub(crate) fn size_of(id: &str, value: &str) -> usize {
    2 * (id.len() + value.len()) + 6
}

fn part(gateway: &str, at: usize, sealed: &Sealed) -> Part {
    let content = serde_json::to_string(sealed).expect("texts are valid JSON");
    Part::new(names::credentials(gateway, at), content)
}
