//! The Anthropic dialect: `/v1/messages` requests, replies and stream events.
//!
//! A JSON answer that a model cannot give by itself is asked for as a call of one reserved tool and
//! read back as text; the name is all that ties the two ends together.

mod content;
mod decode;
mod encode;
mod reply;
mod stream_in;
mod stream_out;
mod usage;

pub(crate) use decode::decode_request;
pub(crate) use encode::encode_request;
pub(crate) use reply::{decode_reply, encode_reply};
pub(crate) use stream_in::ChunkDecoder;
pub(crate) use stream_out::{ChunkEncoder, write_stream_error};

/// The tool whose input is the answer. Reserved: a client's tool of this name is not one.
pub(crate) const JSON_TOOL: &str = "tollgate_json_output";
