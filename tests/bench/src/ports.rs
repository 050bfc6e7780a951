//! Free ports of 127.0.0.1 and waiting for a server to listen on one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A server that has not bound its port by now will not.
const START: Duration = Duration::from_secs(60);

/// `N` different ports that were free a moment ago.
///
/// # Errors
/// When none can be bound.
pub fn free<const N: usize>() -> io::Result<[SocketAddr; N]> {
    // All are held until all are known, so that none is given twice.
    let held = (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<Vec<_>>>()?;
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&held) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

/// True once `address` accepts; false when `alive` says no or the time is over.
pub fn wait_for(address: SocketAddr, mut alive: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + START;
    while Instant::now() < end && alive() {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
