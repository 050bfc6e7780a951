//! The proxy: listener → auth → policy → limits → routing → upstream → relay → metering. [`pipeline`] is the page to
//! read first. Knows snapshots, never resources or Kubernetes; a binary gives it a snapshot, a ledger and settings.
#![forbid(unsafe_code)]

pub mod admit;
pub mod alarm;
pub mod answer;
pub mod attempt;
pub mod attribution;
pub mod booking;
pub mod call;
pub mod caller;
pub mod condition;
pub mod cooldown;
pub mod core;
pub mod count_tokens;
pub mod detach;
pub mod dispatch;
pub mod error;
pub mod exposition;
pub mod framing;
pub mod head_guard;
pub mod hold;
pub mod limits;
pub mod lines;
pub mod metrics;
pub mod outgoing;
pub mod pipeline;
pub mod plan;
pub mod probe;
pub mod recognise;
pub mod record;
pub mod relay;
pub mod reply;
pub mod serve;
pub mod server;
pub mod settings;
pub mod shared_budgets;
pub mod status;
pub mod status_port;
pub mod surcharge;
pub mod tables;
pub mod tls;
pub mod upstream;
pub mod used;
