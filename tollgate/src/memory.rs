//! What a load needed and nobody needs any more goes back to the system. The allocator hands freed memory back a second
//! later, and only while it is used, which an idle gateway is not. It stays so for calls, which come and go faster that
//! way; the start and the end of a load are told apart here.
#![allow(unsafe_code)]

use std::ffi::c_long;
use std::ops::Range;
use std::path::Path;

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set, mi_option_t};
use rustix::mm::{Advice, madvise};
use tollgate_dataplane::current::Replaced;

/// `mi_option_purge_delay` of mimalloc 3, which the bindings have no name for: milliseconds until freed memory goes back.
const PURGE_DELAY: mi_option_t = 15;

/// While it lives, freed memory goes back at once: a snapshot then lies on fresh memory and fills it, instead of holding
/// on to what the documents took. For the start, before there are threads that serve.
#[derive(Debug)]
pub struct Frugal {
    usual_delay_ms: c_long,
}

impl Frugal {
    pub fn begin() -> Frugal {
        // SAFETY: both take numbers by value and have no requirements. The option is one word that is only compared with
        // times; an allocation on another thread sees it before or after, and either will do.
        unsafe {
            let usual_delay_ms = mi_option_get(PURGE_DELAY);
            mi_option_set(PURGE_DELAY, 0);
            Frugal { usual_delay_ms }
        }
    }
}

impl Drop for Frugal {
    fn drop(&mut self) {
        // SAFETY: as in `begin`.
        unsafe { mi_option_set(PURGE_DELAY, self.usual_delay_ms) };
        give_back();
        unmap_code();
    }
}

/// Gives back what this thread freed. Takes a few milliseconds: for after a load, never for a thread that serves.
pub fn give_back() {
    // SAFETY: takes a flag by value and touches only memory that nobody has allocated; any thread may call it any time.
    unsafe { mi_collect(true) };
}

/// Frees tables once nobody uses them, on a thread for which neither a call nor the loader waits.
pub async fn free(old: Replaced) {
    old.unused().await;
    let freed = move || {
        drop(old);
        give_back();
    };
    // It fails where the process ends, which frees all.
    let _ = tokio::task::spawn_blocking(freed).await;
}

/// Unmaps the pages of the program's code. A start runs far more of it than calls do, and the system maps more still
/// around what is run. What is run again is found in the page cache, in less than a microsecond for each 64 KiB.
fn unmap_code() {
    // Where the system does not tell, nothing is unmapped.
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = std::env::current_exe() else { return };
    for code in maps.lines().filter_map(|line| code_of(line, &program)) {
        let start = std::ptr::with_exposed_provenance_mut(code.start);
        // SAFETY: the range is a mapping of the program's file that nobody can write to, so every page of it is what the
        // file has, and is read from there again. Code that runs meanwhile, this here too, faults and goes on.
        let _ = unsafe { madvise(start, code.len(), Advice::LinuxDontNeed) };
    }
}

/// The addresses of a line of `/proc/self/maps`, if it is of the program's code.
fn code_of(line: &str, program: &Path) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    // Data that was relocated may be read-only too, but is not what the file has: it never is executable.
    let is_code = words.next() == Some("r-xp") && words.nth(3).is_some_and(|path| Path::new(path) == program);
    is_code.then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are mapped of the code of this program.
    fn resident() -> usize {
        let program = std::env::current_exe().unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| code_of(line, &program).is_none());
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the program has code");
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn code_that_is_unmapped_runs_on() {
        let before = resident();
        unmap_code();
        let after = resident();
        assert!(after < before, "{after} bytes of code are mapped, {before} were before");
    }

    #[test]
    fn only_code_of_the_program_is_unmapped() {
        let code = |line: &str| code_of(line, Path::new("/tollgate"));
        assert_eq!(code("1000-3000 r-xp 00001000 fe:00 42    /tollgate"), Some(0x1000..0x3000));
        for other in [
            "1000-3000 r--p 00001000 fe:00 42    /tollgate",
            "1000-3000 rwxp 00001000 fe:00 42    /tollgate",
            "1000-3000 r-xp 00001000 fe:00 42    /lib/libc.so.6",
            "1000-3000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn the_delay_is_the_usual_one_after_a_start() {
        // SAFETY: as in `Frugal::begin`.
        let delay_ms = || unsafe { mi_option_get(PURGE_DELAY) };
        let usual = delay_ms();
        // The default of mimalloc 3: whoever numbers its options anew makes this fail.
        assert_eq!(usual, 1000);
        let frugal = Frugal::begin();
        assert_eq!(delay_ms(), 0);
        drop(frugal);
        assert_eq!(delay_ms(), usual);
    }
}
