//! A wire between a gateway and its database that can be held at one place: after the database was told to commit, and
//! before the gateway hears that it did. I/O.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// The message that ends a transaction, in the simple query protocol.
const COMMIT: &[u8] = b"COMMIT\0";

/// The wire.
pub struct Relay {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_armed: AtomicBool,
    is_held: AtomicBool,
}

impl Relay {
    /// To a server at this port.
    pub fn start(server: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                connect(client, server, &shared);
            }
        });
        Relay { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From the next commit on, nothing of what the server says comes through.
    pub fn hold_answer_to_commit(&self) {
        self.state.is_armed.store(true, SeqCst);
    }

    /// Whether a commit was sent and its answer is held.
    pub fn is_held(&self) -> bool {
        self.state.is_held.load(SeqCst)
    }

    /// As it was, for connections made from now on.
    pub fn release(&self) {
        self.state.is_armed.store(false, SeqCst);
        self.state.is_held.store(false, SeqCst);
    }
}

fn connect(client: TcpStream, server: TcpStream, state: &Arc<State>) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("a file descriptor is left");
    let (mut from_client, mut to_server) = (clone(&client), clone(&server));
    let (mut from_server, mut to_client) = (server, client);
    let (up, down) = (state.clone(), state.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer) {
            let bytes = &buffer[..read];
            // The client sends it alone, in one piece.
            if up.is_armed.load(SeqCst) && bytes.windows(COMMIT.len()).any(|window| window == COMMIT) {
                up.is_held.store(true, SeqCst);
            }
            if to_server.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(std::net::Shutdown::Both);
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer) {
            if !down.is_held.load(SeqCst) && to_client.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
}
