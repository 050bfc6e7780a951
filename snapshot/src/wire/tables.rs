//! A snapshot as texts, ready to be put into ConfigMaps and Secrets.

use std::sync::Arc;

use super::shard::{self, ShardDigits};
use super::text::{self, Cuts, cut};
use super::{credentials, names, policy};
use crate::model::{Credential, Snapshot};

/// What an object is to hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// Of the ConfigMap or Secret.
    pub name: String,
    pub content: Arc<str>,
    /// Of `content`, in lower case hexadecimal digits.
    pub sha256: String,
}

impl Part {
    pub(super) fn new(name: String, content: String) -> Part {
        let sha256 = text::sha256(&content);
        Part { name, content: content.into(), sha256 }
    }
}

/// Everything that is to be written, but for the manifest. The same snapshot gives the same texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// ConfigMaps, entry [`super::names::POLICY_ENTRY`].
    pub policy: Vec<Part>,
    /// ConfigMaps, entry [`super::names::KEYS_ENTRY`].
    pub keys: Vec<Part>,
    /// Secrets, entry [`super::names::CREDENTIALS_ENTRY`].
    pub credentials: Vec<Part>,
    pub shard_digits: ShardDigits,
}

/// What is put beside the credentials. Keep both from one writing to the next, or every Secret changes.
#[derive(Clone, Copy)]
pub struct Sealing<'a> {
    /// Random: keeps the hash in the manifest from telling anything about the credentials.
    pub salt: &'a str,
    /// With it the operator asks proxies what only it may know.
    pub token: &'a str,
}

/// Texts and what they were written of.
#[derive(Clone, Copy)]
pub struct Last<'a> {
    pub snapshot: &'a Snapshot,
    pub tables: &'a Tables,
}

/// The texts of a snapshot of [`crate::compile`]. `before`: [`Tables::shard_digits`] of what is there, so that keys do not
/// move between shards without need; `None` where nothing is. `last`: shards that are as they were then are taken from
/// there, which is faster than to write them; the texts are the same without it.
pub fn write(
    snapshot: &Snapshot,
    credentials: &[Credential],
    sealing: Sealing<'_>,
    before: Option<ShardDigits>,
    last: Option<Last<'_>>,
) -> Tables {
    let gateway = &snapshot.gateway.name;
    let references = policy::references(&snapshot.budgets);
    let policy = cut(policy::write(snapshot, &references), Cuts::ByContent).into_iter().enumerate();
    let policy = policy.map(|(at, content)| Part::new(names::policy(gateway, at), content));
    let (keys, shard_digits) = shard::write(snapshot, &references, before, last);
    Tables {
        policy: policy.collect(),
        keys,
        credentials: credentials::write(gateway, credentials, sealing),
        shard_digits,
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Part { name, content, sha256 } = self;
        // Some hold credentials.
        f.debug_struct("Part").field("name", name).field("bytes", &content.len()).field("sha256", sha256).finish()
    }
}
