//! The way out: connections to providers, one pool per core, and the request as it leaves. Knows addresses, TLS and
//! HTTP/1.1; knows nothing of models, keys or money.

pub mod body;
pub mod connect;
pub mod pool;

pub use body::UpstreamBody;
pub use connect::{ConnectError, Connector};
pub use pool::{Pool, SendError, Sent, Target};
