//! What a load needed and nobody needs any more goes back to the system. The allocator itself does so only a little
//! later and while it is used, which an idle gateway is not; and it is not made to hurry, because calls that come and go
//! are faster when it does not.
#![allow(unsafe_code)]

/// Gives back what this thread freed. Takes a few milliseconds: for after a load, never for a thread that serves.
pub fn give_back() {
    // SAFETY: takes a flag by value and touches only memory that nobody has allocated; any thread may call it any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
