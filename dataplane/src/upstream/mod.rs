//! The way out: connections to providers, one pool per core, and the request as it leaves. Knows addresses, TLS and
//! HTTP/1.1; knows nothing of models, keys or money.

pub mod answer;
pub mod connect;
pub mod connection;
pub mod head;
pub mod pool;

pub use answer::{Body, Unread};
pub use connect::{ConnectError, Connector};
pub use connection::Message;
pub use head::Fields;
pub use pool::{Pool, SWEEP, SendError, Sent, Target};
