//! I/O: the cache folder. Every text lies in a file named after its SHA-256, the manifest that is served lies beside
//! them; so one key's change writes one shard, an idle proxy holds no text in memory, and a process that starts while
//! the API server is away finds the last good tables. Credentials are among them: only the owner can read anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tollgate_snapshot::model::KeyHash;

use crate::config::files::create_private;

/// The folder, and what did not fit into it. Cheap to share.
#[derive(Clone)]
pub struct Store {
    folder: Arc<Path>,
    /// Texts that could not be written, by hash.
    unwritten: Arc<Mutex<BTreeMap<String, String>>>,
}

/// In lower case hexadecimal digits, as manifests have them.
pub fn sha256(text: &str) -> String {
    KeyHash::of(text.as_bytes()).to_string()
}

impl Store {
    /// Makes the folder where it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> io::Result<Store> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder.join("parts"))?;
        Ok(Store { folder: folder.into(), unwritten: Arc::default() })
    }

    fn part(&self, sha256: &str) -> PathBuf {
        self.folder.join("parts").join(sha256)
    }

    fn manifest(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    /// Keeps a text and tells its hash. What cannot be written is kept in memory, with a warning.
    pub fn put(&self, text: &str) -> String {
        let sha256 = sha256(text);
        let path = self.part(&sha256);
        // What is kept in memory is tried again: there may be room now.
        if path.exists() {
            return sha256;
        }
        if let Err(error) = replace(&path, text) {
            tracing::warn!("cannot write `{}`, so it is kept in memory: {error}", path.display());
            self.unwritten().insert(sha256.clone(), text.to_owned());
        }
        sha256
    }

    /// Whether a text with this hash is here.
    pub fn has(&self, sha256: &str) -> bool {
        self.unwritten().contains_key(sha256) || self.part(sha256).exists()
    }

    /// The text with this hash, if it is here. Whoever reads it checks that it is undamaged.
    pub fn read(&self, sha256: &str) -> Option<String> {
        if let Some(text) = self.unwritten().get(sha256) {
            return Some(text.clone());
        }
        // Names come from a manifest: a hash, or nothing is read.
        let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| fs::read_to_string(self.part(sha256)).ok()).flatten()
    }

    /// Forgets a text that turned out to be damaged.
    pub fn remove(&self, sha256: &str) {
        self.unwritten().remove(sha256);
        // What cannot be removed cannot be written anew either, and that is told there.
        let _ = fs::remove_file(self.part(sha256));
    }

    /// Remembers which manifest is served.
    ///
    /// # Errors
    /// It cannot be written: after a restart an older one would be found.
    pub fn remember(&self, manifest: &str) -> io::Result<()> {
        replace(&self.manifest(), manifest)
    }

    /// Forgets the texts that are not among these.
    ///
    /// # Errors
    /// The folder cannot be read or written: texts pile up.
    pub fn retain(&self, kept: &BTreeSet<&str>) -> io::Result<()> {
        self.unwritten().retain(|sha256, _| kept.contains(&**sha256));
        for entry in fs::read_dir(self.folder.join("parts"))? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The manifest that was served last; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn last(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.manifest()) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unwritten(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a file of mode 0600 that is there whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let written = create_private(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn texts_are_found_by_hash_and_only_by_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (one, other) = (store.put("one"), store.put("other"));
        assert_eq!(store.read(&one).as_deref(), Some("one"));
        assert_eq!(store.read("../manifest.json"), None);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.part(&one)), 0o600);
        assert_eq!(mode(folder.path().join("parts")), 0o700);
        store.remember("{}").unwrap();
        store.retain(&[one.as_str()].into()).unwrap();
        assert_eq!(mode(store.manifest()), 0o600);
        assert_eq!((store.read(&one).as_deref(), store.read(&other)), (Some("one"), None));
        assert_eq!(store.last().unwrap().as_deref(), Some("{}"));
        store.remove(&one);
        assert_eq!(store.read(&one), None);
    }

    #[test]
    fn what_cannot_be_written_is_kept_in_memory_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::remove_dir_all(folder.path()).unwrap();
        let sha256 = store.put("text");
        assert!(store.has(&sha256));
        assert_eq!(store.read(&sha256).as_deref(), Some("text"));
        DirBuilder::new().recursive(true).create(folder.path().join("parts")).unwrap();
        store.put("text");
        assert_eq!(fs::read_to_string(store.part(&sha256)).unwrap(), "text");
    }
}
