//! One step of a streamed answer in no dialect.
//!
//! Order of a stream: `Start`, pieces, `Stop` for each choice, `Usage` if the provider reported it,
//! `End`; or `Error` at any point and nothing after it.

use super::reply::StopReason;
use crate::Usage;
use crate::error::UpstreamError;

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Start {
        id: String,
        model: String,
        /// What the provider already knows: the input's tokens, with Anthropic.
        usage: Option<Usage>,
    },
    Text {
        choice: u32,
        text: String,
    },
    Thinking {
        choice: u32,
        text: String,
    },
    /// Ends a piece of thinking and proves it.
    ThinkingSignature {
        choice: u32,
        signature: String,
    },
    RedactedThinking {
        choice: u32,
        data: String,
    },
    /// A tool call begins; `index` counts the calls of the choice from 0.
    ToolCall {
        choice: u32,
        index: u32,
        id: String,
        name: String,
    },
    /// A piece of the call's arguments, JSON text. At least one comes for every call.
    ToolArguments {
        choice: u32,
        index: u32,
        json: String,
    },
    Stop {
        choice: u32,
        reason: StopReason,
        stop_sequence: Option<String>,
    },
    /// The final figures, once.
    Usage(Usage),
    /// The provider failed, or its stream was cut.
    Error(UpstreamError),
    End,
}
