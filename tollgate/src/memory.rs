//! What a load needed and nobody needs any more goes back to the system. The allocator hands freed memory back a second
//! later, and only while it is used, which an idle gateway is not. It stays so for calls, which come and go faster that
//! way; the start and the end of a load are told apart here.
#![allow(unsafe_code)]

use std::ffi::c_long;

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set, mi_option_t};

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
    }
}

/// Gives back what this thread freed. Takes a few milliseconds: for after a load, never for a thread that serves.
pub fn give_back() {
    // SAFETY: takes a flag by value and touches only memory that nobody has allocated; any thread may call it any time.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

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
