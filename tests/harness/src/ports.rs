//! Ports for servers that are told theirs. I/O.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that Linux gives to connections and to who asks for any: nobody takes one of these by chance between
/// the look at it and the server's start, nor while the server is away.
const PORTS: Range<u16> = 10_000..20_000;
/// A Redis in cluster mode listens on its port and on the one so far above it.
const BUS: u16 = 10_000;
/// So many are tried by one process before those of the next.
const OF_A_PROCESS: u32 = 100;

/// A port of 127.0.0.1 on which nobody listens, nor on the one 10,000 above it; this process gets no port twice before it
/// has had all.
///
/// # Panics
/// None is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    let first = (std::process::id() % (u32::from(count) / OF_A_PROCESS) * OF_A_PROCESS) as u16;
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (0..count)
        .map(|_| PORTS.start + (first + NEXT.fetch_add(1, Ordering::Relaxed) % count) % count)
        .find(|port| is_free(*port) && is_free(port + BUS))
        .expect("a free port")
}
