//! One dialect told in another: a request, a reply and a stream in no dialect, with a decoder and an
//! encoder for each dialect beside it.
//!
//! Off the fast path: a call whose client and provider speak the same dialect never comes here, so
//! these parts may allocate and care only for being right. Pure, and never panics on bad input.
//!
//! ```text
//! client body -> decode_request -> Request -> encode_request -> provider
//! client <- encode_reply  <- Reply  <- decode_reply  <- provider
//! client <- StreamEncoder <- Events <- StreamDecoder <- provider
//! ```

mod event;
mod options;
pub(crate) mod raw;
pub(crate) mod read;
mod reply;
mod request;
mod stream;
pub(crate) mod write;

pub use event::Event;
pub(crate) use options::Unsupported;
pub use options::{EncodeError, EncodeOptions, MaxTokensField, Quirks, ThinkingStyle};
pub use raw::Raw;
pub use read::DecodeError;
pub(crate) use reply::shown_id;
pub use reply::{Choice, Reply, ReplyOptions, StopReason};
pub use request::{
    Audio, Block, Document, Effort, Function, Image, JsonSchema, Message, OutputFormat, Part, Request, Role,
    ServiceTier, Source, Thinking, ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult,
};
pub use stream::{StreamDecoder, StreamEncoder, StreamOptions};

use crate::{Dialect, anthropic, completions, openai};

/// What a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `/v1/chat/completions`.
    OpenAiChat,
    /// `/v1/completions`, told as a chat of one user message.
    OpenAiCompletions,
    /// `/v1/messages`.
    AnthropicMessages,
}

impl Surface {
    /// The dialect of its errors and fields.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::OpenAiChat | Self::OpenAiCompletions => Dialect::OpenAi,
            Self::AnthropicMessages => Dialect::Anthropic,
        }
    }
}

/// Reads a client's request.
///
/// # Errors
/// When the body is not JSON, lacks what it must have, has a wrong type somewhere, or asks for what
/// cannot be told as a chat (several prompts or token arrays in `/v1/completions`).
pub fn decode_request(surface: Surface, body: &[u8]) -> Result<Request, DecodeError> {
    match surface {
        Surface::OpenAiChat => openai::decode_request(body),
        Surface::OpenAiCompletions => completions::decode_request(body),
        Surface::AnthropicMessages => anthropic::decode_request(body),
    }
}

/// The body to send to a provider of `dialect`.
///
/// # Errors
/// [`EncodeError::Unsupported`] when the dialect cannot say everything and nothing may be dropped;
/// [`EncodeError::Invalid`] when there is no message to send.
pub fn encode_request(
    dialect: Dialect,
    request: &Request,
    options: &EncodeOptions<'_>,
) -> Result<Vec<u8>, EncodeError> {
    match dialect {
        Dialect::OpenAi => openai::encode_request(request, options),
        Dialect::Anthropic => anthropic::encode_request(request, options),
    }
}

/// Reads a provider's whole answer.
///
/// # Errors
/// When it is not an answer of the dialect.
pub fn decode_reply(dialect: Dialect, body: &[u8]) -> Result<Reply, DecodeError> {
    match dialect {
        Dialect::OpenAi => openai::decode_reply(body),
        Dialect::Anthropic => anthropic::decode_reply(body),
    }
}

/// The body of the answer to a client.
pub fn encode_reply(surface: Surface, reply: &Reply, options: &ReplyOptions<'_>) -> Vec<u8> {
    match surface {
        Surface::OpenAiChat => openai::encode_reply(reply, options),
        Surface::OpenAiCompletions => completions::encode_reply(reply, options),
        Surface::AnthropicMessages => anthropic::encode_reply(reply, options),
    }
}
