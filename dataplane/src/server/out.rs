//! What is on its way to a client: small pieces copied together, a large one as it is, in one write where the socket
//! takes it.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice, Result, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;

/// Pieces from this size on are not copied.
const LARGE_BYTES: usize = 16 << 10;

/// No more is gathered while so much waits for the client.
const FULL_BYTES: usize = 64 << 10;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Known(u64),
    Chunks,
    /// With the connection, for clients of HTTP/1.0.
    ToTheEnd,
}

/// Bytes for one client, in their order.
#[derive(Debug, Default)]
pub struct Out {
    small: Vec<u8>,
    /// Of `small`, what was sent.
    sent: usize,
    /// Behind `small`.
    large: Bytes,
    /// Behind `large`: the end of its chunk.
    tail: &'static [u8],
}

impl Out {
    /// Begins an answer.
    pub fn head(&mut self, status: StatusCode, fields: &HeaderMap, length: Length, close: bool) {
        let out = &mut self.small;
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or("-").as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        push_date(out, jiff::Timestamp::now().as_second());
        self.end_head(length, close && !fields.contains_key(http::header::CONNECTION));
    }

    /// Begins an answer whose status line and fields are written, the date among them.
    pub fn begin(&mut self, head: Vec<u8>, length: Length, close: bool) {
        if self.small.is_empty() {
            self.small = head;
        } else {
            self.small.extend_from_slice(&head);
        }
        self.end_head(length, close);
    }

    fn end_head(&mut self, length: Length, close: bool) {
        let out = &mut self.small;
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        match length {
            Length::Known(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Length::Chunks => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Length::ToTheEnd => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Adds bytes. Not while it is full.
    pub fn push(&mut self, data: Bytes) {
        if data.len() < LARGE_BYTES {
            self.small.extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Adds bytes as a chunk. Not while it is full.
    pub fn push_chunk(&mut self, data: Bytes) {
        if data.is_empty() {
            // It would end the body.
            return;
        }
        let size = write!(self.small, "{:x}\r\n", data.len());
        debug_assert!(size.is_ok(), "a vector takes all");
        self.push(data);
        if self.large.is_empty() {
            self.small.extend_from_slice(b"\r\n");
        } else {
            self.tail = b"\r\n";
        }
    }

    /// Ends a body in chunks. Not while it is full.
    pub fn push_end(&mut self) {
        self.small.extend_from_slice(b"0\r\n\r\n");
    }

    /// Nothing more may be added until all was sent.
    pub fn is_full(&self) -> bool {
        !self.large.is_empty() || self.sent > 0 || !self.tail.is_empty() || self.small.len() >= FULL_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.sent == self.small.len() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Ready when all was sent.
    pub fn poll_write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.is_empty() {
            let small = &self.small[self.sent..];
            let stream = Pin::new(&mut *stream);
            let written = if self.large.is_empty() && self.tail.is_empty() {
                ready!(stream.poll_write(cx, small))?
            } else {
                let slices = [IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.tail)];
                ready!(stream.poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.small.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_small = written.min(self.small.len() - self.sent);
        self.sent += of_small;
        let of_large = (written - of_small).min(self.large.len());
        self.large.advance(of_large);
        self.tail = &self.tail[written - of_small - of_large..];
        if self.large.is_empty() {
            self.large = Bytes::new();
        }
    }

    /// Frees what only a call needs.
    pub fn rest(&mut self) {
        *self = Out::default();
    }
}

/// The date of a second since 1970, as a field.
pub fn push_date(out: &mut Vec<u8>, second: i64) {
    thread_local! {
        static LINE: RefCell<(i64, String)> = const { RefCell::new((0, String::new())) };
    }
    LINE.with_borrow_mut(|(of, line)| {
        if *of != second || line.is_empty() {
            *of = second;
            let at = UNIX_EPOCH + Duration::from_secs(second.max(0) as u64);
            *line = format!("date: {}\r\n", httpdate::fmt_http_date(at));
        }
        out.extend_from_slice(line.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// What a client receives through a socket that takes `room` bytes at once.
    async fn received(out: &mut Out, room: usize) -> Vec<u8> {
        let (mut near, mut far) = tokio::io::duplex(room);
        let sending = async {
            std::future::poll_fn(|cx| out.poll_write(&mut near, cx)).await.unwrap();
            drop(near);
        };
        let mut text = Vec::new();
        tokio::join!(sending, async { far.read_to_end(&mut text).await.unwrap() });
        text
    }

    #[tokio::test]
    async fn small_and_large_pieces_arrive_in_their_order_whatever_the_socket_takes() {
        let large = Bytes::from(vec![b'l'; LARGE_BYTES]);
        for room in [1, 7, 4096, 1 << 20] {
            let mut out = Out::default();
            out.push_chunk(Bytes::from_static(b"abc"));
            out.push_chunk(Bytes::new());
            assert!(!out.is_full());
            out.push_chunk(large.clone());
            assert!(out.is_full());
            let text = received(&mut out, room).await;
            let expected = [&b"3\r\nabc\r\n4000\r\n"[..], &large, b"\r\n"].concat();
            assert!(text == expected, "{room}");
            assert!(out.is_empty() && !out.is_full());
            out.push_end();
            assert_eq!(received(&mut out, room).await, b"0\r\n\r\n");
        }
    }

    #[tokio::test]
    async fn a_head_has_its_fields_its_length_and_the_date() {
        let mut fields = HeaderMap::new();
        fields.insert("x-a", http::HeaderValue::from_static("b"));
        let mut out = Out::default();
        out.head(StatusCode::NOT_FOUND, &fields, Length::Known(3), true);
        let text = String::from_utf8(received(&mut out, 100).await).unwrap();
        let start = "HTTP/1.1 404 Not Found\r\nx-a: b\r\ndate: ";
        let end = " GMT\r\nconnection: close\r\ncontent-length: 3\r\n\r\n";
        assert!(text.starts_with(start) && text.ends_with(end), "{text}");
        let mut written = b"HTTP/1.1 200 OK\r\n".to_vec();
        push_date(&mut written, 784_111_777);
        out.begin(written, Length::Chunks, false);
        let text = String::from_utf8(received(&mut out, 100).await).unwrap();
        let expected = "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(text, expected);
    }
}
