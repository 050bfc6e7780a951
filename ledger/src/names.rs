//! The dictionary: names of keys, teams, models and so on to the numbers that records hold. Names are added when a
//! snapshot is built or a key is first used, not for each request. Does I/O: one small write for each new name.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::log::{self, Log};
use crate::terms::NameId;

/// Longer names are cut: rows are for people.
const MAX_NAME_BYTES: usize = 1024;

/// Names that clients chose which one process takes, and with how many of all kinds it stops taking them: about 150 bytes
/// each stay in memory.
const MAX_CHOSEN: usize = 100_000;
const MAX_WITH_CHOSEN: usize = 1_000_000;

/// The dictionary.
#[derive(Debug)]
pub struct Names {
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    ids: HashMap<Arc<str>, u32, foldhash::fast::RandomState>,
    /// Name of id 1, 2, ...
    names: Vec<Arc<str>>,
    /// Names that clients chose, taken by this process.
    chosen: usize,
    log: Log,
    /// Names from here on are not in the file: writing failed.
    unwritten_from: usize,
}

impl Names {
    /// Reads the dictionary. Names after damage are lost; their numbers are not used again, see [`Names::reserve`].
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path) -> io::Result<Names> {
        let contents = log::read::<(u32, Arc<str>)>(path)?;
        if let Some(offset) = contents.damaged_at {
            tracing::error!("{} is damaged at byte {offset}: some rows will show placeholders", path.display());
            std::fs::copy(path, path.with_extension("damaged"))?;
        }
        let log = Log::open(path, contents.intact_bytes)?;
        let mut names: Vec<Arc<str>> = Vec::with_capacity(contents.records.len());
        for (id, name) in contents.records {
            while names.len() + 1 < id as usize {
                names.push(placeholder(names.len() + 1));
            }
            names.push(name);
        }
        let ids = names.iter().enumerate().map(|(at, name)| (name.clone(), at as u32 + 1)).collect();
        Ok(Names { inner: RwLock::new(Inner { ids, unwritten_from: names.len(), names, chosen: 0, log }) })
    }

    /// The number of a name; a new one if it has none yet. The empty name is 0.
    pub fn intern(&self, name: &str) -> NameId {
        let name = cut(name);
        if name.is_empty() {
            return NameId(0);
        }
        if let Some(id) = self.read().ids.get(name) {
            return NameId(*id);
        }
        let mut inner = self.write();
        if let Some(id) = inner.ids.get(name) {
            return NameId(*id);
        }
        let id = inner.add(name.into());
        inner.write_out();
        NameId(id)
    }

    /// The number of a name that a client chose. `None` for a new one where those there are are enough: clients must not
    /// fill memory and disk with names.
    pub fn intern_chosen(&self, name: &str) -> Option<NameId> {
        let name = cut(name);
        if name.is_empty() {
            return Some(NameId(0));
        }
        if let Some(id) = self.read().ids.get(name) {
            return Some(NameId(*id));
        }
        let mut inner = self.write();
        if let Some(id) = inner.ids.get(name) {
            return Some(NameId(*id));
        }
        if inner.chosen >= MAX_CHOSEN || inner.names.len() >= MAX_WITH_CHOSEN {
            return None;
        }
        inner.chosen += 1;
        let id = inner.add(name.into());
        inner.write_out();
        Some(NameId(id))
    }

    /// Makes sure that numbers up to this one are taken, by placeholders where their names were lost.
    pub fn reserve(&self, highest: u32) {
        let mut inner = self.write();
        while inner.names.len() < highest as usize {
            let name = placeholder(inner.names.len() + 1);
            inner.add(name);
        }
        inner.write_out();
    }

    /// Names with numbers above this one.
    pub fn above(&self, known: usize) -> Vec<Arc<str>> {
        self.read().names.get(known..).unwrap_or_default().to_vec()
    }

    /// Names with numbers above this one, made durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn since(&self, known: u32) -> io::Result<Vec<(u32, Arc<str>)>> {
        if self.read().names.len() <= known as usize {
            return Ok(Vec::new());
        }
        let mut inner = self.write();
        inner.write_out();
        if inner.unwritten_from < inner.names.len() {
            return Err(io::Error::other("new names could not be written"));
        }
        let file = inner.log.share()?;
        let start = known as usize;
        let names =
            inner.names[start..].iter().enumerate().map(|(at, name)| ((start + at) as u32 + 1, name.clone())).collect();
        // Calls that bring a name of their own do not wait for the disk.
        drop(inner);
        file.sync_data()?;
        Ok(names)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, name: Arc<str>) -> u32 {
        self.names.push(name.clone());
        let id = self.names.len() as u32;
        self.ids.insert(name, id);
        id
    }

    /// Best effort: a name that could not be written is tried again with the next one, and before its rows are copied.
    fn write_out(&mut self) {
        let mut lines = Vec::new();
        for (at, name) in self.names.iter().enumerate().skip(self.unwritten_from) {
            log::encode(&(at as u32 + 1, name), &mut lines);
        }
        match self.log.append(&lines) {
            Ok(()) => self.unwritten_from = self.names.len(),
            Err(error) => {
                tracing::error!(%error, "cannot write names to {}", self.log.path().display());
                // A part of a line may be there: cut it off, or the next line would be joined to it.
                let (path, size) = (self.log.path().to_owned(), self.log.size_bytes());
                if let Ok(log) = Log::open(&path, size) {
                    self.log = log;
                }
            }
        }
    }
}

fn placeholder(id: usize) -> Arc<str> {
    format!("lost-name-{id}").into()
}

fn cut(name: &str) -> &str {
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    &name[..name.floor_char_boundary(MAX_NAME_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.log");
        let names = Names::open(&path).unwrap();
        assert_eq!((names.intern("a"), names.intern("b\n\"ü"), names.intern("a")), (NameId(1), NameId(2), NameId(1)));
        assert_eq!(names.intern(""), NameId(0));
        drop(names);
        let names = Names::open(&path).unwrap();
        assert_eq!((names.intern("b\n\"ü"), names.intern("c")), (NameId(2), NameId(3)));
        assert_eq!(names.since(1).unwrap(), [(2, "b\n\"ü".into()), (3, "c".into())]);
    }

    #[test]
    fn names_that_clients_choose_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::open(&folder.path().join("names.log")).unwrap();
        let own = names.intern("own");
        assert_eq!(names.intern_chosen("theirs"), Some(NameId(2)));
        names.write().chosen = MAX_CHOSEN;
        assert_eq!(names.intern_chosen("new"), None);
        assert_eq!((names.intern_chosen("own"), names.intern_chosen("theirs")), (Some(own), Some(NameId(2))));
        assert_eq!(names.intern("new"), NameId(3));
    }

    #[test]
    fn a_lost_name_never_gives_its_number_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.log");
        let names = Names::open(&path).unwrap();
        names.intern("a");
        names.intern("b");
        drop(names);
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..20]).unwrap();
        let names = Names::open(&path).unwrap();
        names.reserve(2);
        assert_eq!(names.intern("c"), NameId(3));
        assert_eq!(names.intern("é".repeat(1000).as_str()), names.intern(&"é".repeat(512)));
    }
}
