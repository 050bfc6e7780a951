//! The scripted provider: it stands in for OpenAI-compatible, Azure OpenAI and Anthropic providers over HTTP/1.1, in
//! the demo, on its own, and in front of every test. It keeps its own invoice, so that a gateway's ledger can be
//! compared with what the provider really billed. It knows nothing of the gateway.
//!
//! How a request flows: [`server`] accepts, [`route`] names the surface, [`script`] says what should happen (or the
//! default reply does), [`generation`] decides what a model would have said and used, [`openai`], [`anthropic`] and
//! [`embeddings`] give it its wire shape, [`stream`] frames it, [`body`] plays it out, [`invoice`] writes the row.
#![forbid(unsafe_code)]

mod answer;
mod anthropic;
mod body;
mod cli;
mod control;
mod embeddings;
mod generation;
mod gzip;
mod invoice;
mod link;
mod openai;
mod route;
mod schema;
mod script;
mod serve;
mod server;
mod state;
mod stream;
mod tokens;

pub use cli::run_cli;
pub use invoice::{CancelBilling, InvoiceRow};
pub use route::Surface;
pub use script::{
    Action, Cut, CutHow, Failure, RawBody, RawResponse, Redirect, Reply, Separator, Step, ToolCall, UsageAt,
    UsageScript,
};
pub use server::{Mock, Options};
pub use state::SeenRequest;
pub use tokens::Tokens;
