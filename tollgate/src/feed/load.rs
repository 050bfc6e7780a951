//! From the texts of a manifest to tables in use. Runs on a thread that may block: reads files, parses, indexes, swaps,
//! and frees what was before, so that no thread that serves waits for any of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tollgate_dataplane::core::Shared;
use tollgate_snapshot::model::{GatewayName, KeyHash};
use tollgate_snapshot::wire::{self, Before, Manifest, Read, ReadError};

use super::parts::named;
use super::store::{self, Store};
use crate::memory;

/// Tables that are in use now.
#[derive(Debug)]
pub struct Live {
    /// Of the manifest.
    pub sha256: String,
    pub manifest: Arc<Manifest>,
    /// Records that this version does not understand; all else is in use.
    pub left_out: Option<String>,
}

/// Why they are not.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the texts that were kept are gone or damaged: {0}")]
    Lost(String),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it is of the gateway `{found}`, not of `{wanted}`")]
    OtherGateway { found: GatewayName, wanted: GatewayName },
    #[error("reading it panicked: {0}")]
    Panicked(String),
}

/// Loads the manifest with this hash and swaps it in. `before`: the one that is served, unless something of it was left
/// out: shards that are the same in both are not read again.
///
/// # Errors
/// Nothing was changed then.
pub fn load(
    shared: &Shared,
    store: &Store,
    gateway: &GatewayName,
    sha256: &str,
    before: Option<&Manifest>,
) -> Result<Live, LoadError> {
    let begun = Instant::now();
    let text = store.read(sha256).ok_or_else(|| LoadError::Lost("the manifest".to_owned()))?;
    if store::sha256(&text) != sha256 {
        store.remove(sha256);
        return Err(LoadError::Lost("the manifest".to_owned()));
    }
    let manifest = Manifest::parse("the manifest", &text)?;
    if manifest.gateway != *gateway {
        return Err(LoadError::OtherGateway { found: manifest.gateway, wanted: gateway.clone() });
    }
    let served = shared.tables.load_full();
    let before = before.map(|manifest| Before { manifest, snapshot: &served.snapshot });
    let Read { snapshot, credentials, token, left_out } = read(&manifest, store, before)?;
    drop(served);
    let generation = manifest.generation;
    let tables = shared.builder.build(generation, snapshot, &credentials);
    drop(credentials);
    // Before the tables are: whoever sees them may ask at once.
    shared.status.update(|loaded| {
        loaded.manifest_sha256 = Some(sha256.to_owned());
        loaded.operator_token = (!token.is_empty()).then(|| KeyHash::of(token.as_bytes()));
    });
    let old = shared.tables.swap(tables);
    shared.status.update(|loaded| {
        loaded.generation = generation;
        loaded.applied_at = jiff::Timestamp::now().as_second();
        loaded.reloads += 1;
    });
    tracing::info!(generation, "generation {generation} is live after {} ms", begun.elapsed().as_millis());
    if let Err(error) = store.remember(&text) {
        tracing::warn!("cannot write down what is served; a restart without the API server would not find it: {error}");
    }
    drop(text);
    memory::give_back();
    tokio::spawn(memory::free(old));
    Ok(Live { sha256: sha256.to_owned(), manifest: Arc::new(manifest), left_out: describe(&left_out) })
}

fn read(manifest: &Manifest, store: &Store, before: Option<Before<'_>>) -> Result<Read, LoadError> {
    let unneeded = before.map(|before| before.unneeded(manifest)).unwrap_or_default();
    let mut texts = HashMap::new();
    for (name, sha256) in named(manifest) {
        let lost = || LoadError::Lost(format!("`{name}`"));
        if !unneeded.contains(name) {
            texts.insert(name, store.read(sha256).ok_or_else(lost)?);
        } else if !store.has(sha256) {
            return Err(lost());
        }
    }
    wire::read(manifest, |name| texts.get(name).map(String::as_str), before).map_err(|error| match &error {
        // It was whole when it came: files are damaged, this one and perhaps others.
        ReadError::OtherContent { part } | ReadError::Missing { part } => {
            for (name, sha256) in named(manifest) {
                if texts.get(name).is_some_and(|text| store::sha256(text) != sha256) {
                    store.remove(sha256);
                }
            }
            LoadError::Lost(format!("`{part}`"))
        }
        ReadError::Unreadable { .. } | ReadError::NewerFormat { .. } => LoadError::Read(error),
    })
}

fn describe(left_out: &[wire::LeftOut]) -> Option<String> {
    let first = left_out.first()?;
    let more = match left_out.len() {
        1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    Some(format!("left out, because a newer version wrote it: {} ({}){more}", first.object, first.error))
}
