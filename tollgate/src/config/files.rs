//! I/O: finds and reads the files of a configuration.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub text: String,
}

/// Largest file that is read; larger ones are a mistake.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a file, or all `.yaml`, `.yml` and `.json` files of a folder and the folders in it, by name. Names that begin
/// with a dot are passed over (Kubernetes mounts keep their versions there).
///
/// # Errors
/// The path does not exist, or a file cannot be read or is not UTF-8.
pub fn read(path: &Path) -> anyhow::Result<Vec<File>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut paths = Vec::new();
    if metadata.is_dir() {
        collect(path, &mut paths)?;
    } else {
        paths.push(path.to_owned());
    }
    paths.sort();
    paths.into_iter().map(read_one).collect()
}

fn read_one(path: PathBuf) -> anyhow::Result<File> {
    let size = std::fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
    anyhow::ensure!(size <= MAX_BYTES, "`{}` is larger than {MAX_BYTES} bytes", path.display());
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(File { path, text })
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read `{}`", folder.display()))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            paths.push(path);
        }
    }
    Ok(())
}

/// A new file that nobody but its owner may read.
///
/// # Errors
/// It cannot be made.
pub fn create_private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
