//! Why an operator stops that nobody told to. Whatever can be tried again is tried again and is not here.

use std::convert::Infallible;

/// What a part ends with. Parts end only when they cannot go on.
pub type Ended = Result<Infallible, Error>;

/// Why the operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot find out how to reach the API server: {0}")]
    Configuration(String),
    #[error("cannot make a client of the API server")]
    Client(#[source] Box<kube::Error>),
    #[error("cannot listen on port {port}")]
    Listen { port: u16, source: std::io::Error },
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    #[error("the part `{0}` ended")]
    PartEnded(&'static str),
}
