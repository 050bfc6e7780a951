//! One process for each data folder: a lock on a file, which says who holds it. The kernel lets it go with the process;
//! a process that is just ending is waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How long a process that is ending is waited for: a restart begins before the old process is quite gone.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(20);

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
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => std::thread::sleep(LOOK),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut by = String::new();
                    // Who it is is a courtesy.
                    let _ = file.read_to_string(&mut by);
                    return Err(LockError::Held { by: by.trim().to_owned() });
                }
                Err(error) => return Err(LockError::Io(error.into())),
            }
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
