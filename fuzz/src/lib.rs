//! What must hold for any input, one module for each fuzz target. An input is nothing but the bytes a client or a
//! provider could send; where a check needs a choice (where to cut, which quirk), it is tried both ways or drawn from
//! the input itself, so that any file is a test case.
//!
//! The files of `targets/` give each `check` to libFuzzer; `fuzz/run` builds and runs them.
#![forbid(unsafe_code)]

mod cuts;
mod document;

pub mod condition;
pub mod error;
pub mod events;
pub mod head;
pub mod json;
pub mod money;
pub mod price;
pub mod recognise;
pub mod reply;
pub mod request;
pub mod sniff;
pub mod stream;
pub mod usage;
