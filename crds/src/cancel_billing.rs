//! What a provider bills of a stream that is cancelled.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is billed of a stream whose connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CancelBilling {
    /// What was sent until then.
    Stops,
    /// The answer to its end.
    Full,
}
