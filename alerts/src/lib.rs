//! Who is told when a budget passes a share of its limit. Used by the operator in a cluster and by the process of a folder:
//! each says where budgets stand, keeps the [`State`] where it survives a restart, and has [`deliver`] send what is due.
//!
//! ```text
//! where budgets stand ─► State::look ─► crossings: Event or log line, metric
//!                             │ state is kept
//!                             └─► State::due ─► deliver (webhooks) ─► State::settle ─► state is kept
//! ```
//! A crossing is told once in a period; again where the spend fell below the share in between. What goes to a webhook is kept
//! before it is sent, and until it is taken: it arrives at least once.
#![forbid(unsafe_code)]

mod state;
mod webhook;

pub use state::{Crossing, Delivery, Standing, State, is_near_limit};
pub use webhook::{Sender, deliver};
