//! From custom resources to what a proxy runs: the compiled [`Snapshot`](model::Snapshot), the catalogue of providers,
//! prices, money, conditions, and `compile`, the only place that decides. Pure: no I/O, no clock, no randomness; whoever
//! calls brings them.

mod address;
pub mod catalogue;
pub mod compile;
pub mod condition;
pub mod finding;
mod members;
pub mod model;
pub mod money;
pub mod price;
pub mod wire;

pub use address::may_call;
pub use finding::{Finding, ObjectRef, Reason, Severity};
pub use members::Members;
pub use model::{Credential, GatewayName, KeyHash, Snapshot};
