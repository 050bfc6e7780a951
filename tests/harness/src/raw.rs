//! A bare socket, for bytes that no HTTP client would send. I/O.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest that a server may let a silent client wait: its own timeouts, and time to spare.
const SILENCE: Duration = Duration::from_secs(60);

/// A connection.
pub struct RawSocket {
    stream: TcpStream,
    /// All that was read.
    pub received: Vec<u8>,
}

impl RawSocket {
    /// Connects.
    ///
    /// # Panics
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> RawSocket {
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a socket takes options");
        RawSocket { stream, received: Vec::new() }
    }

    /// Sends; a peer that has closed is no failure, its answer may still be read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads until the peer closes. Gives everything that was ever read.
    pub async fn read_to_end(&mut self) -> String {
        while self.read_some().await {}
        self.text()
    }

    /// Reads until this text is there, or the peer closes.
    pub async fn read_until(&mut self, text: &str) -> String {
        while !self.text().contains(text) && self.read_some().await {}
        self.text()
    }

    async fn read_some(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match tokio::time::timeout(SILENCE, self.stream.read(&mut buffer)).await {
            Err(_) => panic!("neither bytes nor an end came within {} s", SILENCE.as_secs()),
            Ok(Ok(0) | Err(_)) => false,
            Ok(Ok(count)) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// The status of the first response; `None`: there was none.
    pub fn status(&self) -> Option<u16> {
        self.text().strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    /// How many responses came.
    pub fn responses(&self) -> usize {
        self.text().matches("HTTP/1.1 ").count()
    }
}
