//! The bytes of one client's connection, shared by whoever drives it and the body of the request that is read from it.

use std::future::Future;
use std::io::Error;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::out::Out;
use super::stream::ClientStream;
use crate::framing::Decoder;
use crate::head_guard::HeadGuard;

/// Room that is made for each read, at first; it grows while reads fill it.
const FIRST_ROOM: usize = 8 << 10;
const MOST_ROOM: usize = 64 << 10;

/// Room for a body whose length is known.
const BODY_ROOM: usize = 1 << 20;

/// What a client may send ahead of the answer it waits for.
const MAX_AHEAD_BYTES: usize = 64 << 10;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: HeadGuard<ClientStream>,
    /// Received and not yet taken.
    pub input: BytesMut,
    /// Where in the body of the request under way the input stands.
    pub body: Decoder,
    /// The client waits for a word before it sends its body.
    pub expects_continue: bool,
    pub out: Out,
    room: usize,
}

impl Wire {
    pub fn new(stream: HeadGuard<ClientStream>) -> Wire {
        Wire {
            stream,
            input: BytesMut::new(),
            body: Decoder::Done,
            expects_continue: false,
            out: Out::default(),
            room: FIRST_ROOM,
        }
    }

    /// Receives more; `Ok(0)` at the end of the connection. `left`: bytes that are still to come, where that is known.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, left: Option<u64>) -> Poll<Result<usize, Error>> {
        // Thousands of connections wait here: they get memory when there is something to put into it.
        ready!(self.stream.get_ref().poll_read_ready(cx))?;
        let more = left.map(|left| usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(self.input.len()));
        // Not a byte more than a body needs: at its end that would move all of it to a larger place.
        self.input.reserve(more.map_or(self.room, |more| more.clamp(1, BODY_ROOM)));
        let spare = self.input.capacity() - self.input.len();
        let received = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))?;
        if received == spare && more.is_none() {
            self.room = (self.room * 2).min(MOST_ROOM);
        }
        Poll::Ready(Ok(received))
    }

    /// Ready when the client hung up. Takes in what it sends ahead, within bounds.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What comes before the end of the body is for whoever reads that.
        while self.body == Decoder::Done && self.input.len() < MAX_AHEAD_BYTES {
            match ready!(self.poll_fill(cx, None)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Sends the word that a client waits for before its body.
    pub fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if std::mem::take(&mut self.expects_continue) {
            self.out.push(bytes::Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        self.poll_send(cx)
    }

    /// Ready when all was sent.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Wire { stream, out, .. } = self;
        ready!(out.poll_write(stream, cx))?;
        // TLS may have taken the bytes and not got them out.
        Pin::new(stream).poll_flush(cx)
    }

    /// Tells the client that nothing follows.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Between two calls: frees what only a call needs.
    pub fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.out.rest();
    }
}
