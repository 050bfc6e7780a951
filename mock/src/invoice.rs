//! What the provider bills: one row per request it served, written once, when the request ends in any way. An
//! [`OpenCall`] that is dropped unsettled means that the client left. No I/O.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::route::Surface;
use crate::state::State;
use crate::tokens::Tokens;

/// One served request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceRow {
    /// Order of arrival, from 1.
    pub seq: u64,
    /// The `x-request-id` header the request carried.
    pub request_id: Option<String>,
    pub surface: Surface,
    /// The model asked for (Azure: the deployment); empty where the request names none.
    pub model: String,
    /// Total input billed, cache reads and writes included.
    pub input_tokens: u64,
    /// Total output billed, reasoning included.
    pub output_tokens: u64,
    pub cache_read: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    pub reasoning: u64,
    /// Whether the row costs anything: false means all tokens are 0.
    pub billed: bool,
    /// The whole answer was handed to the socket, and it was a whole answer.
    pub completed: bool,
    /// The client left before that.
    pub client_gone: bool,
    pub stream: bool,
    /// The HTTP status; `None`: no header was sent.
    pub status: Option<u16>,
    /// Whether the answer, as far as it was sent, told the usage.
    pub usage_sent: bool,
    /// Body bytes handed to the socket.
    pub bytes_sent: u64,
}

/// What a provider bills for a stream whose client leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CancelBilling {
    /// Input, and the output produced until the disconnect was noticed.
    #[default]
    Stops,
    /// The generation runs on to its end, and all of it is billed.
    Full,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    /// The script cut it short, or the mock is stopping.
    Cut,
    ClientGone,
}

/// A request being served; becomes a row when it ends.
pub(crate) struct OpenCall {
    pub state: Arc<State>,
    pub row: InvoiceRow,
    /// What the whole answer costs; `None`: nothing was computed, or errors are free.
    pub full: Option<Tokens>,
    /// Output already sent by a stream, reasoning included.
    pub produced_output: u64,
    pub produced_reasoning: u64,
    settled: bool,
}

impl OpenCall {
    pub fn new(state: Arc<State>, row: InvoiceRow) -> OpenCall {
        OpenCall { state, row, full: None, produced_output: 0, produced_reasoning: 0, settled: false }
    }

    /// Writes the row. Later calls do nothing.
    pub fn settle(&mut self, end: End) {
        if self.settled {
            return;
        }
        self.settled = true;
        self.row.completed = end == End::Completed;
        self.row.client_gone = end == End::ClientGone;
        let whole = !self.row.stream
            || end == End::Completed
            || (end == End::ClientGone && self.state.cancel_billing == CancelBilling::Full);
        let billed = self.full.map(|full| {
            if whole {
                full
            } else {
                Tokens { output: self.produced_output, reasoning: self.produced_reasoning, ..full }
            }
        });
        if let Some(Tokens { input, output, cache_read, cache_write_5m, cache_write_1h, reasoning }) = billed {
            self.row.input_tokens = input;
            self.row.output_tokens = output;
            self.row.cache_read = cache_read;
            self.row.cache_write_5m = cache_write_5m;
            self.row.cache_write_1h = cache_write_1h;
            self.row.reasoning = reasoning;
            self.row.billed = true;
        }
        self.state.close_call(self.row.clone());
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let end = if self.state.is_stopping() { End::Cut } else { End::ClientGone };
        self.settle(end);
    }
}
