//! The one place that maps a file into memory. Everything else works on the safe slice that comes back.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Maps the first `bytes` of a journal segment, shared, for reading and writing.
///
/// # Errors
/// The kernel's, when it refuses the mapping.
pub fn map_segment(file: &File, bytes: usize) -> io::Result<MmapMut> {
    // SAFETY: a map is unsound to read while others change the file. The data folder is locked against other
    // processes, each segment has exactly one mapping with one owner, and nothing in this process writes to or truncates
    // the file by other means while it is mapped (it is used again only when the owner is gone); others only read it,
    // through the file descriptor. All of
    // its blocks are allocated before it is mapped, so that a full disk cannot turn a store into a SIGBUS.
    unsafe { MmapOptions::new().len(bytes).map_mut(file) }
}
