//! Has ready proxies probe model deployments.

use crate::{Context, Ended};

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    let _ = context;
    std::future::pending().await
}
