//! What whoever runs a data plane sets once. Everything that users change while it runs is in the snapshot.

use std::time::Duration;

/// Settings of one data plane process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that serve, each with its own listener and connections.
    pub cores: usize,
    /// Model servers on the same machine may be called.
    pub allow_loopback: bool,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// Request bodies that may be in memory at once, over all cores, bytes.
    pub max_bodies_bytes: usize,
    /// Calls under way per core; what comes above is refused with 503.
    pub max_in_flight: usize,
    /// Largest unary answer of a provider, bytes.
    pub max_reply_bytes: usize,
    /// Until the head of a request must be complete, and how long a connection may be idle between two.
    pub header_timeout: Duration,
    /// Longest pause inside a request body.
    pub body_idle_timeout: Duration,
    /// Between two signs of life on a quiet stream.
    pub keepalive: Duration,
    /// How long streams may go on after the process was asked to stop.
    pub drain: Duration,
    /// Abandoned streams per core that are read to their usage for the sake of a hard budget.
    pub max_abandoned: usize,
    /// How long an abandoned stream is read.
    pub abandoned_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            allow_loopback: true,
            max_body_bytes: 32 << 20,
            max_bodies_bytes: 512 << 20,
            max_in_flight: 4_096,
            max_reply_bytes: 128 << 20,
            header_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            // The longest stream we promise to finish: the default total timeout.
            drain: Duration::from_secs(600),
            max_abandoned: 256,
            abandoned_timeout: Duration::from_secs(120),
        }
    }
}
