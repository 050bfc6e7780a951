//! I/O: tells when a configuration may have changed. Watches the folder that holds the files, not the files: editors
//! and Kubernetes replace them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Changes that come together are one: an editor writes, renames and touches.
const SETTLE: Duration = Duration::from_millis(40);

/// Where events of the file system may be lost (network mounts), this still sees a change.
const FALLBACK: Duration = Duration::from_secs(5);

/// A watch on a file or folder.
pub struct Watch {
    _watcher: Option<notify::RecommendedWatcher>,
    changes: mpsc::Receiver<()>,
    path: PathBuf,
    seen: u64,
}

impl Watch {
    /// Begins to watch. Where the system cannot tell of changes, only the slow look every five seconds remains.
    pub fn new(path: &Path) -> Watch {
        // One place: a change that is not taken up yet stands for all that follow.
        let (sender, changes) = mpsc::channel(1);
        let folder = if path.is_dir() {
            path
        } else {
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        };
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        })
        .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::Recursive).map(|()| watcher));
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the system does not tell of changes in `{}`; looking every {} s", folder.display(), FALLBACK.as_secs());
        }
        let seen = fingerprint(path);
        Watch { _watcher: watcher.ok(), changes, path: path.to_owned(), seen }
    }

    /// Waits until something changed. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                event = self.changes.recv() => {
                    if event.is_none() {
                        // No watcher: only the slow look is left.
                        tokio::time::sleep(FALLBACK).await;
                    }
                    tokio::time::sleep(SETTLE).await;
                    while self.changes.try_recv().is_ok() {}
                }
                () = tokio::time::sleep(FALLBACK) => {}
            }
            let now = fingerprint(&self.path);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

/// Names, sizes and times of all files below a path.
fn fingerprint(path: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        path.hash(&mut hasher);
        if metadata.is_dir() {
            let Ok(entries) = std::fs::read_dir(&path) else { continue };
            let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            names.sort();
            open.extend(names);
        } else {
            metadata.len().hash(&mut hasher);
            metadata.modified().ok().hash(&mut hasher);
        }
    }
    hasher.finish()
}
