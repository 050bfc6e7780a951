//! Streams: bytes of one dialect to events, events to bytes of a surface. The dialects hold the
//! shapes; here are the framing, the poisoning after an error, and the end.

use super::Surface;
use super::event::Event;
use super::read::DecodeError;
use crate::error::{ErrorBody, UpstreamError};
use crate::sse;
use crate::{Dialect, anthropic, completions, openai};

/// Reads a provider's stream, however its bytes are cut.
#[derive(Debug)]
pub struct StreamDecoder {
    sse: sse::Decoder,
    chunks: Chunks,
    /// Nothing is read after the end or an error.
    ended: bool,
}

#[derive(Debug)]
enum Chunks {
    OpenAi(openai::ChunkDecoder),
    Anthropic(anthropic::ChunkDecoder),
}

/// What the client is shown on a stream instead of the provider's own names.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The model, as the client asked for it.
    pub model: String,
    /// Unix seconds.
    pub created: i64,
    /// OpenAI surfaces: whether the client asked for usage. Anthropic's always has it.
    pub include_usage: bool,
    /// The id to show; without it, the provider's in the surface's style.
    pub id: Option<String>,
}

/// Writes a client's stream. After an error or the end nothing more is written.
#[derive(Debug)]
pub struct StreamEncoder {
    chunks: EncoderChunks,
    ended: bool,
}

#[derive(Debug)]
enum EncoderChunks {
    OpenAi(openai::ChunkEncoder),
    Completions(completions::ChunkEncoder),
    Anthropic(anthropic::ChunkEncoder),
}

impl StreamDecoder {
    pub fn new(dialect: Dialect) -> Self {
        let chunks = match dialect {
            Dialect::OpenAi => Chunks::OpenAi(openai::ChunkDecoder::default()),
            Dialect::Anthropic => Chunks::Anthropic(anthropic::ChunkDecoder::default()),
        };
        Self { sse: sse::Decoder::default(), chunks, ended: false }
    }

    /// Takes the next bytes and appends the events they complete. Events before a failure are
    /// appended too.
    ///
    /// # Errors
    /// When the stream makes no sense or an event is longer than [`sse::MAX_EVENT`]. The rest of
    /// the stream is then ignored.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<(), DecodeError> {
        if self.ended {
            return Ok(());
        }
        self.sse.push(bytes);
        let result = self.take_events(out);
        self.ended |= result.is_err();
        result
    }

    /// The upstream has no more bytes: appends the end if the answer was whole, else an error.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        if self.ended {
            return;
        }
        // Some servers leave out the last blank line. If what is left is half an event instead, the
        // stream was cut, which the lines below tell.
        if let Ok(Some(event)) = self.sse.finish() {
            let _ = self.take_event(&event, out);
        }
        if self.ended {
            return;
        }
        self.ended = true;
        let whole = match &mut self.chunks {
            Chunks::OpenAi(chunks) => chunks.finish(out),
            Chunks::Anthropic(chunks) => chunks.finish(out),
        };
        if !whole {
            out.push(Event::Error(UpstreamError::cut_stream()));
        }
    }

    fn take_events(&mut self, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        while !self.ended {
            let next = self.sse.next_event();
            let next = next.map_err(|error| DecodeError { message: error.to_string(), param: None })?;
            match next {
                Some(event) => self.take_event(&event, out)?,
                None => break,
            }
        }
        Ok(())
    }

    fn take_event(&mut self, event: &sse::Event, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let data = event.data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        let text = std::str::from_utf8(data);
        let text = text.map_err(|_| DecodeError { message: "an event is not valid UTF-8".to_owned(), param: None })?;
        match &mut self.chunks {
            Chunks::OpenAi(chunks) => chunks.decode(text, out)?,
            Chunks::Anthropic(chunks) => chunks.decode(text, out)?,
        }
        self.ended = matches!(out.last(), Some(Event::End | Event::Error(_)));
        Ok(())
    }
}

impl StreamEncoder {
    pub fn new(surface: Surface, options: StreamOptions) -> Self {
        let chunks = match surface {
            Surface::OpenAiChat => EncoderChunks::OpenAi(openai::ChunkEncoder::new(options)),
            Surface::OpenAiCompletions => EncoderChunks::Completions(completions::ChunkEncoder::new(options)),
            Surface::AnthropicMessages => EncoderChunks::Anthropic(anthropic::ChunkEncoder::new(options)),
        };
        Self { chunks, ended: false }
    }

    /// Appends what `event` is on the wire: nothing, one or several events.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::End => self.finish(out),
            Event::Error(error) => self.error(&ErrorBody::from(error), out),
            _ if self.ended => {}
            event => match &mut self.chunks {
                EncoderChunks::OpenAi(chunks) => chunks.encode(event, out),
                EncoderChunks::Completions(chunks) => chunks.encode(event, out),
                EncoderChunks::Anthropic(chunks) => chunks.encode(event, out),
            },
        }
    }

    /// Appends a proper end, if the stream has none yet.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        self.ended = true;
        match &mut self.chunks {
            EncoderChunks::OpenAi(chunks) => chunks.finish(out),
            EncoderChunks::Completions(chunks) => chunks.finish(out),
            EncoderChunks::Anthropic(chunks) => chunks.finish(out),
        }
    }

    /// Appends an error as SDKs raise it in mid-stream. The connection is to be closed after it.
    pub fn error(&mut self, error: &ErrorBody, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        self.ended = true;
        match &self.chunks {
            EncoderChunks::OpenAi(_) | EncoderChunks::Completions(_) => openai::write_stream_error(error, out),
            EncoderChunks::Anthropic(_) => anthropic::write_stream_error(error, out),
        }
    }
}
