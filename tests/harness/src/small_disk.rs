//! A small file system over a folder, which a test can fill. Needs root. I/O.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tmpfs over a folder; unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Of this size, as `mount` takes it. `None` where it may not be mounted.
    pub fn mount(folder: &Path, size: &str) -> Option<SmallDisk> {
        let options = format!("size={size}");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "tollgate-test"]).arg(folder);
        let mounted = command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then(|| SmallDisk(folder.to_owned()))
    }

    /// Takes all the space that is left.
    pub fn fill(&self) -> File {
        let mut file = File::create(self.filler()).expect("a file more");
        let block = vec![1; 64 << 10];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
        file
    }

    /// Gives it back.
    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("the filler goes");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left may still have files there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
