//! Append-only text files of one JSON record a line, each with its checksum in front: people can read them, a torn
//! end is recognised, and damage anywhere else is told, never skipped. Does I/O.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Read and written at once.
const BUFFER_BYTES: usize = 1 << 18;

/// A log that is open for appending.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

/// What a log held.
#[derive(Debug)]
pub struct Contents<T> {
    pub records: Vec<T>,
    /// Bytes up to the end of the last good record of the intact beginning.
    pub intact_bytes: u64,
    /// Good records follow bad bytes: not a torn end but damage. Byte offset of the damage.
    pub damaged_at: Option<u64>,
}

/// Reads a log; one that does not exist is empty. Records after damage are not returned.
///
/// # Errors
/// The file cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Contents<T>> {
    let mut records = Vec::new();
    let Extent { intact_bytes, damaged_at } = each(path, |record| records.push(record))?;
    Ok(Contents { records, intact_bytes, damaged_at })
}

/// What of a log can be read.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// As of [`Contents`].
    pub intact_bytes: u64,
    pub damaged_at: Option<u64>,
}

/// The same, one record after the other: a long log is never whole in memory.
///
/// # Errors
/// The file cannot be read.
pub fn each<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(T)) -> io::Result<Extent> {
    let mut extent = Extent { intact_bytes: 0, damaged_at: None };
    let mut file = match File::open(path) {
        Ok(file) => BufReader::with_capacity(BUFFER_BYTES, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(extent),
        Err(error) => return Err(error),
    };
    let mut offset = 0;
    let mut bad_at = None;
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        let end = offset + line.len() as u64;
        match (decode(&line), bad_at) {
            (Some(record), None) => {
                take(record);
                extent.intact_bytes = end;
            }
            (Some(_), Some(at)) => {
                extent.damaged_at = Some(at);
                break;
            }
            (None, None) => bad_at = Some(offset),
            (None, Some(_)) => {}
        }
        offset = end;
        line.clear();
    }
    Ok(extent)
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let line = line.strip_suffix(b"\n")?;
    let (checksum, record) = (line.get(..8)?, line.get(9..)?);
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    if line[8] != b' ' || crc32fast::hash(record) != checksum {
        return None;
    }
    serde_json::from_slice(record).ok()
}

/// Appends a record's line to a buffer.
pub fn encode<T: Serialize>(record: &T, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut *into, record)
        .expect("records of the ledger are plain data and writing to memory works");
    let checksum = format!("{:08x}", crc32fast::hash(&into[start + 9..]));
    into[start..start + 8].copy_from_slice(checksum.as_bytes());
    into.push(b'\n');
}

impl Log {
    /// Opens a log for appending after `intact_bytes`; what follows (a torn end) is cut off.
    ///
    /// # Errors
    /// The file cannot be opened, cut or synced.
    pub fn open(path: &Path, intact_bytes: u64) -> io::Result<Log> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        if file.metadata()?.len() > intact_bytes {
            file.set_len(intact_bytes)?;
            file.sync_all()?;
        }
        Ok(Log { path: path.to_owned(), file, size: intact_bytes })
    }

    /// Replaces a log by these records, whole or not at all, durable when it returns.
    ///
    /// # Errors
    /// The disk's; the old log is still there then.
    pub fn replace<T: Serialize>(path: &Path, records: impl IntoIterator<Item = T>) -> io::Result<Log> {
        let temporary = path.with_extension("new");
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(&temporary)?);
        let mut size = 0;
        let mut line = Vec::new();
        for record in records {
            line.clear();
            encode(&record, &mut line);
            file.write_all(&line)?;
            size += line.len() as u64;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Log { path: path.to_owned(), file, size })
    }

    /// Appends lines made by [`encode`]. Not durable before [`Log::sync`].
    ///
    /// # Errors
    /// The disk's. A part may have been written: replace the log before the next append.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// The disk's. What was appended may be lost although it can be read: replace the log.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The file, to be synced by who does not hold the log meanwhile.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes created, renamed and removed names of a folder durable.
///
/// # Errors
/// The disk's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &[u32]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.log");
        let mut log = Log::open(&path, 0).unwrap();
        let mut lines = Vec::new();
        records.iter().for_each(|record| encode(record, &mut lines));
        log.append(&lines).unwrap();
        log.sync().unwrap();
        (folder, path)
    }

    #[test]
    fn a_log_cut_anywhere_yields_a_prefix() {
        let (_folder, path) = written(&[1, 22, 333]);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let contents = read::<u32>(&path).unwrap();
            assert!([1, 22, 333].starts_with(&contents.records), "{cut}");
            assert_eq!(contents.damaged_at, None);
            let mut log = Log::open(&path, contents.intact_bytes).unwrap();
            let mut line = Vec::new();
            encode(&4444, &mut line);
            log.append(&line).unwrap();
            assert_eq!(read::<u32>(&path).unwrap().records.last(), Some(&4444));
        }
    }

    #[test]
    fn a_flipped_bit_is_a_torn_end_or_told_as_damage() {
        let (_folder, path) = written(&[1, 22, 333]);
        let bytes = std::fs::read(&path).unwrap();
        let last_line = bytes.len() - 13;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            let contents = read::<u32>(&path).unwrap();
            assert!([1, 22, 333].starts_with(&contents.records), "{bit}");
            // A checksum reads the same in capitals. A line break lost joins two lines; the last of them may be the end.
            let told = contents.damaged_at.is_some() || contents.records.len() == 3;
            assert!(told || bit / 8 + 14 >= last_line, "{bit}");
        }
    }
}
