//! One process for each data folder: a lock on a file, which says who holds it. The kernel lets it go with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Held while the ledger is open.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it; what it wrote about itself.
    Held {
        by: String,
    },
    Io(io::Error),
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be written.
    pub fn take(path: &Path) -> Result<Lock, LockError> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(LockError::Io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut by = String::new();
                // Who it is is a courtesy.
                let _ = file.read_to_string(&mut by);
                return Err(LockError::Held { by: by.trim().to_owned() });
            }
            Err(error) => return Err(LockError::Io(error.into())),
        }
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "process {}", std::process::id())
        };
        write(&mut file).map_err(LockError::Io)?;
        Ok(Lock { _file: file })
    }
}
