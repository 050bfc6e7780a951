//! The OpenAI dialect of chat: `/v1/chat/completions` requests, replies, chunks and usage.
//!
//! Serves OpenAI, Azure and every server shaped like them; what is odd about one is a quirk.

mod content;
mod decode;
mod encode;
mod reply;
mod stream_in;
mod stream_out;
mod usage;

pub(crate) use decode::{decode_request, decode_thinking_mode, take_sampling};
pub(crate) use encode::{encode_request, type_of};
pub(crate) use reply::{decode_reply, encode_reply, finish_reason};
pub(crate) use stream_in::ChunkDecoder;
pub(crate) use stream_out::{ChunkEncoder, write_done, write_stream_error};
pub(crate) use usage::encode_usage;
