//! I/O: key texts that Tollgate made itself, in files of mode 0600 of the data folder, for their owner. A key is made
//! once and kept; only its hash goes anywhere else.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The folder of generated keys.
#[derive(Clone, Debug)]
pub struct Keys {
    folder: PathBuf,
}

/// A key, and whether it was made just now.
pub struct Generated {
    pub text: String,
    pub path: PathBuf,
    pub is_new: bool,
}

impl Keys {
    /// Keys live in `data/keys`.
    pub fn new(data: &Path) -> Keys {
        Keys { folder: data.join("keys") }
    }

    /// The key in `namespace/name`, made if there is none.
    ///
    /// # Errors
    /// The file can neither be read nor made.
    pub fn get_or_create(&self, namespace: &str, name: &str) -> anyhow::Result<Generated> {
        let plain = |text: &str| !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']);
        anyhow::ensure!(plain(namespace) && plain(name), "`{namespace}/{name}` cannot be the name of a file");
        let path = self.folder.join(namespace).join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => {
                return Ok(Generated { text: text.trim().to_owned(), path, is_new: false });
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        }
        let text = tollgate_operator::keys::new_key().context("no randomness from the system")?;
        write_private(&path, &text)?;
        Ok(Generated { text, path, is_new: true })
    }
}

/// Writes a file that only its owner may read: whole or not at all.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("a key's file has a folder")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make `{}`", folder.display()))?;
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path());
        let first = keys.get_or_create("team-a", "ci").unwrap();
        let again = keys.get_or_create("team-a", "ci").unwrap();
        assert!(first.is_new && !again.is_new);
        assert_eq!(first.text, again.text);
        assert!(first.text.starts_with("sk-") && first.text.len() == 46, "{}", first.text.len());
        assert_eq!(std::fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path());
        for (namespace, name) in [("..", "x"), ("a", "../x"), ("", "x"), ("a", "")] {
            assert!(keys.get_or_create(namespace, name).is_err(), "{namespace}/{name}");
        }
    }
}
