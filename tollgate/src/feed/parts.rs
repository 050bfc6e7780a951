//! Which tables the gateway's manifest names and which of them are here: pure bookkeeping over names and hashes. The
//! texts themselves are in the [store](super::store), so that an idle proxy holds none of them.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_snapshot::wire::{Manifest, ReadError};

/// What is known of a gateway's tables.
#[derive(Debug)]
pub struct Parts {
    /// Name of the ConfigMap with the manifest.
    manifest_name: String,
    manifest: Option<Named>,
    /// SHA-256 of every text that is here, by the name of its object.
    seen: BTreeMap<String, String>,
}

/// A manifest as it is in the API.
#[derive(Debug)]
struct Named {
    sha256: String,
    /// Or why it cannot be used.
    manifest: Result<Manifest, ReadError>,
}

/// How far the tables are.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Nobody wrote a manifest, or somebody deleted it.
    NoManifest,
    /// It is nonsense or of a newer version.
    Refused(&'a ReadError),
    /// These objects are missing or of another generation.
    Waiting {
        generation: u64,
        missing: Vec<&'a str>,
    },
    Complete {
        sha256: &'a str,
        manifest: &'a Manifest,
    },
}

impl Parts {
    pub fn new(manifest_name: String) -> Parts {
        Parts { manifest_name, manifest: None, seen: BTreeMap::new() }
    }

    /// An object has this text, whose hash is `sha256`.
    pub fn present(&mut self, name: &str, text: &str, sha256: String) {
        if name == self.manifest_name {
            self.manifest = Some(Named { manifest: Manifest::parse(name, text), sha256 });
        } else {
            self.seen.insert(name.to_owned(), sha256);
        }
    }

    /// An object is not there, or has no such text any more.
    pub fn absent(&mut self, name: &str) {
        if name == self.manifest_name {
            self.manifest = None;
        } else {
            self.seen.remove(name);
        }
    }

    /// These are all ConfigMaps that there are. Secrets (`is_secret`) are told one by one.
    pub fn listed(&mut self, names: &BTreeSet<String>, is_secret: impl Fn(&str) -> bool) {
        self.seen.retain(|name, _| names.contains(name) || is_secret(name));
        if !names.contains(&self.manifest_name) {
            self.manifest = None;
        }
    }

    pub fn progress(&self) -> Progress<'_> {
        let Some(Named { sha256, manifest }) = &self.manifest else { return Progress::NoManifest };
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => return Progress::Refused(error),
        };
        let missing: Vec<&str> = named(manifest)
            .filter(|(name, sha256)| self.seen.get(*name).is_none_or(|seen| seen != sha256))
            .map(|(name, _)| name)
            .collect();
        if missing.is_empty() {
            Progress::Complete { sha256, manifest }
        } else {
            Progress::Waiting { generation: manifest.generation, missing }
        }
    }

    /// Secrets that the manifest names.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let manifest = self.manifest.as_ref().and_then(|named| named.manifest.as_ref().ok());
        manifest.into_iter().flat_map(|manifest| manifest.credentials.iter().map(|secret| secret.name.as_str()))
    }

    /// Hashes of everything that is in the API, whether or not the manifest names it yet, and of the manifest.
    pub fn hashes(&self) -> impl Iterator<Item = &str> {
        let manifest = self.manifest.iter().map(|named| &named.sha256);
        self.seen.values().chain(manifest).map(String::as_str)
    }
}

/// Names and hashes of everything that a manifest names.
pub fn named(manifest: &Manifest) -> impl Iterator<Item = (&str, &str)> {
    let parts = manifest.policy.iter().chain(&manifest.keys).map(|part| (&*part.name, &*part.sha256));
    parts.chain(manifest.credentials.iter().map(|secret| (&*secret.name, &*secret.sha256)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::wire::{PartRef, SecretRef};

    fn manifest(generation: u64, keys: &str) -> String {
        let part = |name: &str, sha256: &str| PartRef { name: name.into(), sha256: sha256.into(), bytes: 1 };
        let secret = SecretRef { name: "secret".into(), sha256: "s1".into() };
        Manifest {
            format: 1,
            generation,
            policy: vec![part("policy", "p1")],
            keys: vec![part("keys", keys)],
            credentials: vec![secret],
            ..Manifest::default()
        }
        .to_text()
    }

    fn missing(parts: &Parts) -> Vec<&str> {
        match parts.progress() {
            Progress::Waiting { missing, .. } => missing,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tables_are_complete_when_every_part_has_the_hash_that_the_manifest_names() {
        let mut parts = Parts::new("manifest".into());
        assert_eq!(parts.progress(), Progress::NoManifest);
        parts.present("keys", "", "k0".into());
        parts.present("manifest", &manifest(1, "k1"), "m1".into());
        assert_eq!(missing(&parts), ["policy", "keys", "secret"]);
        assert_eq!(parts.secrets().collect::<Vec<_>>(), ["secret"]);
        parts.present("policy", "", "p1".into());
        parts.present("secret", "", "s1".into());
        assert_eq!(missing(&parts), ["keys"]);
        parts.present("keys", "", "k1".into());
        assert!(matches!(parts.progress(), Progress::Complete { sha256: "m1", .. }));
        // A part of the next generation comes before its manifest.
        parts.present("keys", "", "k2".into());
        assert_eq!(missing(&parts), ["keys"]);
        parts.present("manifest", &manifest(2, "k2"), "m2".into());
        assert!(matches!(parts.progress(), Progress::Complete { sha256: "m2", .. }));
    }

    #[test]
    fn what_a_list_does_not_hold_is_gone_but_for_secrets() {
        let mut parts = Parts::new("manifest".into());
        parts.present("manifest", &manifest(1, "k1"), "m1".into());
        for (name, sha256) in [("policy", "p1"), ("keys", "k1"), ("secret", "s1")] {
            parts.present(name, "", sha256.into());
        }
        let listed = ["manifest", "policy"].map(str::to_owned).into();
        parts.listed(&listed, |name| name == "secret");
        assert_eq!(missing(&parts), ["keys"]);
        parts.listed(&BTreeSet::new(), |name| name == "secret");
        assert_eq!(parts.progress(), Progress::NoManifest);
    }

    #[test]
    fn a_manifest_of_a_newer_format_is_refused() {
        let mut parts = Parts::new("manifest".into());
        parts.present("manifest", r#"{"format": 99}"#, "m".into());
        assert!(matches!(parts.progress(), Progress::Refused(ReadError::NewerFormat { format: 99, .. })));
    }
}
