//! Keys that Tollgate makes: generation into Secrets, and rotation.

use crate::{Context, Ended};

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    let _ = context;
    std::future::pending().await
}
