//! I/O: a client's connection, whose request heads are looked at as they arrive. A parsed request no longer shows what two
//! servers in a row may read as different requests (both kinds of length, bare line feeds); here the raw bytes are still
//! there. Follows the framing of bodies only to know where the next head begins;
//! changes no byte, and [`crate::pipeline`] refuses what is noted here.

use std::cell::Cell;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest line that is looked at: more than is taken as a whole head.
const MAX_LINE_BYTES: usize = 128 << 10;

/// What was seen of the heads of one connection.
#[derive(Debug, Default)]
pub struct Heads {
    refused: Cell<Option<Refused>>,
    handed_over: Cell<u64>,
}

impl Heads {
    /// What is wrong with the next request. Once for each request that is handed over, in their order.
    pub fn next(&self) -> Option<&'static str> {
        let number = self.handed_over.get();
        self.handed_over.set(number + 1);
        self.refused.get().filter(|refused| number >= refused.from).map(|refused| refused.reason)
    }
}

/// From this request on (they are counted from 0) nothing on the connection is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    from: u64,
    reason: &'static str,
}

/// A client's connection that notes what is wrong with the heads it carries.
#[derive(Debug)]
pub struct HeadGuard<S> {
    stream: S,
    scanner: Scanner,
    heads: Rc<Heads>,
}

impl<S> HeadGuard<S> {
    pub fn new(stream: S, heads: Rc<Heads>) -> Self {
        HeadGuard { stream, scanner: Scanner::default(), heads }
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if let Some(refused) = this.scanner.push(&buffer.filled()[before..]) {
            this.heads.refused.set(Some(refused));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadGuard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Reads the framing of the requests of a connection from pieces of any size.
#[derive(Debug, Default)]
struct Scanner {
    place: Place,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    head: Head,
    /// Heads that were complete.
    complete: u64,
    refused: Option<Refused>,
}

/// Where in a request the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// Bytes left of a body.
    Body(u64),
    ChunkSize,
    /// Bytes left of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Nothing more is looked at: what follows is refused.
    Over,
}

/// What the lines of a head have said so far.
#[derive(Debug, Default)]
struct Head {
    has_request_line: bool,
    has_host: bool,
    length: Option<u64>,
    is_chunked: bool,
}

impl Scanner {
    /// Takes what came next. The answer, once there is one, stays.
    fn push(&mut self, mut bytes: &[u8]) -> Option<Refused> {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Over => break,
                Place::Body(left) => self.skip(bytes, left, Place::Body, Place::Head),
                Place::Chunk(left) => self.skip(bytes, left, Place::Chunk, Place::ChunkEnd),
                Place::Head | Place::ChunkSize | Place::ChunkEnd | Place::Trailers => self.take_line(bytes),
            };
        }
        self.refused
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, more: fn(u64) -> Place, after: Place) -> &'b [u8] {
        let here = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - here as u64;
        self.place = if left == 0 { after } else { more(left) };
        &bytes[here..]
    }

    /// Acts on the first line, or keeps what is there of it.
    fn take_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if end.is_some() && self.begun.is_empty() {
            self.line(line);
            return rest;
        }
        if self.begun.len() + line.len() > MAX_LINE_BYTES {
            self.refuse("a line is too long");
            return rest;
        }
        self.begun.extend_from_slice(line);
        if end.is_some() {
            let line = std::mem::take(&mut self.begun);
            self.line(&line);
        }
        rest
    }

    /// `line`: with its end.
    fn line(&mut self, line: &[u8]) {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return self.refuse("a line ends with a line feed alone");
        };
        match self.place {
            Place::Head => self.head_line(line),
            Place::ChunkSize => match chunk_size(line) {
                Some(0) => self.place = Place::Trailers,
                Some(size) => self.place = Place::Chunk(size),
                None => self.refuse("the size of a chunk is not a number"),
            },
            Place::ChunkEnd if line.is_empty() => self.place = Place::ChunkSize,
            Place::ChunkEnd => self.refuse("a chunk is longer than its size"),
            Place::Trailers if line.is_empty() => self.place = Place::Head,
            Place::Trailers => {}
            Place::Body(_) | Place::Chunk(_) | Place::Over => unreachable!("these places are not read by lines"),
        }
    }

    fn head_line(&mut self, line: &[u8]) {
        let Some(first) = line.first() else {
            // Lines before a request may be empty.
            if self.head.has_request_line {
                self.end_head();
            }
            return;
        };
        if !self.head.has_request_line {
            self.head.has_request_line = true;
            return;
        }
        // Names by their first letter: most lines cost one comparison.
        match first {
            b'c' | b'C' => {
                if let Some(value) = value_of(line, "content-length") {
                    self.content_length(value);
                }
            }
            b't' | b'T' => {
                if let Some(value) = value_of(line, "transfer-encoding") {
                    self.transfer_encoding(value);
                }
            }
            b'h' | b'H' if value_of(line, "host").is_some() => {
                let is_again = std::mem::replace(&mut self.head.has_host, true);
                if is_again {
                    self.refuse("`host` is given more than once");
                }
            }
            b' ' | b'\t' => self.refuse("a header is folded"),
            _ => {}
        }
    }

    fn content_length(&mut self, value: &[u8]) {
        if self.head.is_chunked {
            return self.refuse(BOTH);
        }
        if self.head.length.is_some() {
            return self.refuse("`content-length` is given more than once");
        }
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        match std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok()) {
            Some(length) => self.head.length = Some(length),
            None => self.refuse("`content-length` is not a number"),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        if self.head.length.is_some() {
            return self.refuse(BOTH);
        }
        if self.head.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return self.refuse("`transfer-encoding` is something else than one `chunked`");
        }
        self.head.is_chunked = true;
    }

    fn end_head(&mut self) {
        let Head { has_request_line: _, has_host: _, length, is_chunked } = std::mem::take(&mut self.head);
        self.complete += 1;
        self.place = match length {
            _ if is_chunked => Place::ChunkSize,
            None | Some(0) => Place::Head,
            Some(length) => Place::Body(length),
        };
    }

    /// Of the head under way, else of the one to come.
    #[cold]
    fn refuse(&mut self, reason: &'static str) {
        self.refused = Some(Refused { from: self.complete, reason });
        self.place = Place::Over;
        self.begun = Vec::new();
    }
}

const BOTH: &str = "`content-length` and `transfer-encoding` are both given";

/// The value of a header line of that name, without the space around it.
fn value_of<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":").filter(|_| start.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(value.trim_ascii())
}

/// The number at the beginning of the line of a chunk; extensions follow.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    matches!(rest.first(), None | Some(b' ' | b'\t' | b';')).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GET: &str = "GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";

    fn post(more: &str, body: &str) -> String {
        format!("POST /v1/messages HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n{more}\r\n{body}")
    }

    fn refused(text: &str) -> Option<(u64, &'static str)> {
        Scanner::default().push(text.as_bytes()).map(|refused| (refused.from, refused.reason))
    }

    #[test]
    fn requests_in_a_row_are_followed_through_their_bodies() {
        let bad = post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n");
        for good in [
            GET.to_owned(),
            format!("\r\n\r\n{GET}"),
            post("", ""),
            post("content-length: 0\r\n", ""),
            post("CONTENT-LENGTH:\t5 \r\n", "a\nb\n\n"),
            post("content-length: 51\r\n", "GET / HTTP/1.1\r\ncontent-length: 1\r\nhost: a\r\nhost: b"),
            post("transfer-encoding: Chunked\r\n", "0\r\n\r\n"),
            post(
                "Transfer-Encoding:chunked\r\n",
                "5\r\na\nb\n\n\r\n00F ;x=\"y\"\r\n0123456789abcde\r\n0\r\nx: y\r\n\r\n",
            ),
            post("content-length-of: x\r\nhosts: b\r\ntransfer-encodings: x\r\nconnection: close\r\n", ""),
        ] {
            assert_eq!(refused(&good), None, "{good}");
            assert_eq!(refused(&format!("{good}{GET}{bad}")), Some((2, BOTH)), "{good}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        const MORE: &str = "`content-length` is given more than once";
        const NUMBER: &str = "`content-length` is not a number";
        const CODING: &str = "`transfer-encoding` is something else than one `chunked`";
        for (more, reason) in [
            ("content-length: 1\r\ntransfer-encoding: chunked\r\n", BOTH),
            ("transfer-encoding: chunked\r\nx: y\r\ncontent-length: 1\r\n", BOTH),
            ("content-length: 1\r\ntransfer-encoding: identity\r\n", BOTH),
            ("content-length: 1\r\ncontent-length: 2\r\n", MORE),
            ("content-length: 1\r\nContent-Length: 1\r\n", MORE),
            ("content-length: 1, 1\r\n", NUMBER),
            ("content-length: +1\r\n", NUMBER),
            ("content-length: -1\r\n", NUMBER),
            ("content-length: 0x1\r\n", NUMBER),
            ("content-length:\r\n", NUMBER),
            ("content-length: 99999999999999999999\r\n", NUMBER),
            ("transfer-encoding: chunked, chunked\r\n", CODING),
            ("transfer-encoding: gzip, chunked\r\n", CODING),
            ("transfer-encoding: xchunked\r\n", CODING),
            ("transfer-encoding:\r\n", CODING),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", CODING),
            ("host: b\r\n", "`host` is given more than once"),
            ("x: y\n", "a line ends with a line feed alone"),
            ("x: y\r\n folded: z\r\n", "a header is folded"),
        ] {
            assert_eq!(refused(&format!("{GET}{}", post(more, ""))), Some((1, reason)), "{more}");
        }
        assert_eq!(refused("GET / HTTP/1.1\nhost: a\n\n").map(|(from, _)| from), Some(0));
        let unended = post("transfer-encoding: chunked\r\n", "1\r\nab\r\n");
        assert_eq!(
            refused(&unended),
            Some((1, "a chunk is longer than its size")),
            "the body itself is its reader's to judge"
        );
        for size in ["", "+5", "x", "fffffffffffffffff", "5x", "0\n"] {
            let broken = post("transfer-encoding: chunked\r\n", &format!("{size}\r\n"));
            assert_eq!(refused(&broken).map(|(from, _)| from), Some(1), "{size}");
        }
        assert_eq!(refused(&"x".repeat(MAX_LINE_BYTES + 1)), Some((0, "a line is too long")));
    }

    #[test]
    fn requests_before_the_refused_one_are_served() {
        let heads = Heads::default();
        assert_eq!(heads.next(), None);
        heads.refused.set(Some(Refused { from: 2, reason: "x" }));
        assert_eq!([heads.next(), heads.next(), heads.next()], [None, Some("x"), Some("x")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_pieces_that_arrive_do_not_matter(
            parts in prop::collection::vec(prop::sample::select(vec![
                GET.to_owned(),
                post("content-length: 12\r\n", "GET / HTTP\n\n"),
                post("transfer-encoding: chunked\r\n", "3;x\r\na\r\n\r\n1\r\n\n\r\n0\r\nt: u\r\n\r\n"),
                post("content-length: 2\r\ntransfer-encoding: chunked\r\n", ""),
                "\n".to_owned(),
                "\r".to_owned(),
                "x".to_owned(),
            ]), 0..8),
            sizes in prop::collection::vec(1usize..40, 1..8),
        ) {
            let text = parts.concat();
            let whole = Scanner::default().push(text.as_bytes());
            let mut scanner = Scanner::default();
            let (mut left, mut in_pieces) = (text.as_bytes(), None);
            for size in sizes.iter().cycle() {
                let (piece, rest) = left.split_at(left.len().min(*size));
                in_pieces = scanner.push(piece);
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(in_pieces, whole);
        }
    }
}
