//! A wire to a server that can be held and cut while both ends live. I/O, on threads of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::PATIENCE;

/// The wire: an address on this machine that leads to the server.
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    mode: Mode,
    /// How often all connections were ended.
    severed: u32,
    /// Pieces of answers that wait.
    held_answers: usize,
    connections: Vec<TcpStream>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Passes,
    HoldsAnswers,
    Cut,
}

impl Mode {
    fn holds(self, is_answer: bool) -> bool {
        match self {
            Mode::Passes => false,
            Mode::HoldsAnswers => is_answer,
            Mode::Cut => true,
        }
    }
}

impl Wire {
    /// Ends with the test's process.
    ///
    /// # Panics
    /// No port is free.
    pub fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Where nobody listens the client is told so, as without a wire.
                if let Ok(server) = TcpStream::connect(server) {
                    shared.connect(client, server);
                }
            }
        });
        Wire { address, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, and nobody is told: as where a network drops everything.
    pub fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// From now on nothing passes of what the server says.
    pub fn hold_answers(&self) {
        self.set(Mode::HoldsAnswers);
    }

    /// Waits until the server has said something that is held.
    ///
    /// # Panics
    /// It says nothing.
    pub fn wait_for_held_answer(&self) {
        let waits = |inner: &mut Inner| inner.held_answers == 0;
        let (inner, timeout) =
            self.state.changed.wait_timeout_while(self.state.lock(), PATIENCE, waits).expect("no holder panics");
        drop(inner);
        assert!(!timeout.timed_out(), "nothing was said within {} s", PATIENCE.as_secs());
    }

    /// All passes again, first of all what was held: it comes late.
    pub fn mend(&self) {
        self.set(Mode::Passes);
    }

    /// Ends all connections; what was held is lost. New ones pass.
    pub fn sever(&self) {
        let mut inner = self.state.lock();
        inner.mode = Mode::Passes;
        inner.severed += 1;
        for connection in inner.connections.drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.state.changed.notify_all();
    }

    fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
        self.state.changed.notify_all();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    fn connect(self: &Arc<State>, client: TcpStream, server: TcpStream) {
        let clone = |stream: &TcpStream| stream.try_clone().expect("a file descriptor is left");
        for stream in [&client, &server] {
            // A report and its answer are small, and are waited for.
            let _ = stream.set_nodelay(true);
        }
        let mut inner = self.lock();
        inner.connections.extend([clone(&client), clone(&server)]);
        let severed = inner.severed;
        drop(inner);
        let (from_client, to_server) = (clone(&client), clone(&server));
        let (asks, answers) = (self.clone(), self.clone());
        std::thread::spawn(move || asks.carry(from_client, to_server, false, severed));
        std::thread::spawn(move || answers.carry(server, client, true, severed));
    }

    /// One direction, until an end is gone or the wire was severed.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool, severed: u32) {
        let mut buffer = [0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let mut inner = self.lock();
            inner.held_answers += usize::from(is_answer);
            self.changed.notify_all();
            while inner.mode.holds(is_answer) && inner.severed == severed {
                inner = self.changed.wait(inner).expect("no holder panics");
            }
            inner.held_answers -= usize::from(is_answer);
            let is_over = inner.severed != severed;
            drop(inner);
            if is_over || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself, and a client of it through a wire.
    fn echo() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::to(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
                });
            }
        });
        let client = TcpStream::connect(wire.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (wire, client)
    }

    fn read(client: &mut TcpStream) -> u8 {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn what_is_held_comes_late_and_what_is_severed_never() {
        let (wire, mut client) = echo();
        client.write_all(b"a").unwrap();
        assert_eq!(read(&mut client), b'a');
        wire.hold_answers();
        client.write_all(b"b").unwrap();
        wire.wait_for_held_answer();
        wire.mend();
        assert_eq!(read(&mut client), b'b');
        wire.cut();
        client.write_all(b"c").unwrap();
        wire.sever();
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "the connection is over");
        let mut client = TcpStream::connect(wire.address()).unwrap();
        client.write_all(b"d").unwrap();
        assert_eq!(read(&mut client), b'd');
    }
}
