//! Measures Tollgate beside nginx `proxy_pass` on one machine in one run.

#![forbid(unsafe_code)]

fn main() {}
