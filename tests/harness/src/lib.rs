//! What tests of the whole product stand on: the real binary as a process ([`Gateway`]), the scripted provider behind it
//! ([`Mock`]), resources as users write them ([`objects`]), a client that sees every byte ([`Call`], [`Streaming`],
//! [`RawSocket`]), and the ledger beside the provider's invoice ([`ledger`]). Every wait is bounded; nothing sleeps to be
//! right. [`Stage`] joins them for the common case.
#![forbid(unsafe_code)]

mod binary;
mod client;
mod cluster;
mod gateway;
pub mod kubernetes;
pub mod ledger;
pub mod objects;
mod ports;
mod proxy;
mod raw;
mod redis;
mod small_disk;
mod sse;
mod stage;
mod wire;

pub use binary::{Finished, binary, run};
pub use client::{Call, Response, Streaming};
pub use cluster::{Cluster, OPERATOR_TOKEN};
pub use gateway::{Gateway, Starter};
pub use kubernetes::FakeApi;
pub use ledger::{SpendRow, assert_every_attempt_is_booked, assert_ledger_equals_invoice, ledger_rows, price_versions};
pub use objects::{Object, documents};
pub use ports::free_port;
pub use proxy::{Proxy, ProxyStarter};
pub use raw::RawSocket;
pub use redis::RedisServer;
pub use serde_json::{Value, json};
pub use small_disk::SmallDisk;
pub use sse::Event;
pub use stage::Stage;
pub use tollgate_mock::{
    Action, CancelBilling, Cut, CutHow, Failure, InvoiceRow, Mock, Options, Redirect, Reply, SeenRequest, Separator,
    Step, Tokens, ToolCall, UsageAt, UsageScript,
};
pub use wire::Wire;

/// The longest any single wait may take. Far above what is needed, so that a busy machine fails no test.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The key that [`Stage`] gives to its caller.
pub const KEY: &str = "sk-stage-caller-0123456789abcdef";

/// The administrator's key of every gateway that the harness starts.
pub const MASTER_KEY: &str = "sk-stage-master-0123456789abcdef";

/// What the gateway sends to providers that want a credential.
pub const UPSTREAM_KEY: &str = "sk-upstream-0123456789abcdef";

/// Awaits with [`PATIENCE`].
///
/// # Panics
/// It took longer; `what` says what was waited for.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {} s", PATIENCE.as_secs()),
    }
}
