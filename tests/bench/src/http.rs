//! An incremental HTTP/1.1 decoder for both sides of the benchmark: requests at the scripted upstream, responses at
//! the load generator. It knows just enough (status line, content-length, chunked) and refuses the rest, so that a
//! proxy under test which answers in another shape is seen as a failure and not guessed at.

use memchr::memmem;

/// Heads longer than this are refused; no peer of a benchmark sends one.
const HEAD_LIMIT: usize = 32 * 1024;

/// Which messages a decoder reads; they differ in what a missing length means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// No length means no body.
    Request,
    /// No length means "until close", which is refused: every response here says where it ends.
    Response,
}

/// Why the bytes are not a message that this benchmark accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    HeadTooLong,
    StatusLine,
    NoLength,
    Length,
    Chunk,
    BytesAfterEnd(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Sized(usize),
    ChunkSize,
    ChunkData(usize),
    ChunkEnd,
    Trailer,
    Done,
}

/// One message being read. [`Decoder::reset`] makes it ready for the next on the same connection.
#[derive(Debug)]
pub struct Decoder {
    side: Side,
    phase: Phase,
    head: Vec<u8>,
    line: Vec<u8>,
    status: u16,
    keep_alive: bool,
}

impl Decoder {
    pub fn new(side: Side) -> Self {
        Self { side, phase: Phase::Head, head: Vec::new(), line: Vec::new(), status: 0, keep_alive: true }
    }

    pub fn reset(&mut self) {
        self.phase = Phase::Head;
        self.head.clear();
        self.line.clear();
        self.status = 0;
        self.keep_alive = true;
    }

    /// The status of the response, 0 before its head was read.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The head as received, complete once the body has begun.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// False when the peer said that it closes after this message.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Reads `input`, appends the body without its framing to `body`; true when the message is complete.
    ///
    /// # Errors
    /// What does not follow HTTP/1.1, and bytes behind the end of the message (nobody pipelines here).
    pub fn feed(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> Result<bool, Malformed> {
        while !input.is_empty() {
            match self.phase {
                Phase::Head => input = self.read_head(input)?,
                Phase::Sized(left) => {
                    let taken = left.min(input.len());
                    body.extend_from_slice(&input[..taken]);
                    input = &input[taken..];
                    self.phase = if taken == left { Phase::Done } else { Phase::Sized(left - taken) };
                }
                Phase::ChunkSize => {
                    let Some(rest) = self.read_line(input) else { return Ok(false) };
                    input = rest;
                    self.phase = match chunk_size(&self.line)? {
                        0 => Phase::Trailer,
                        size => Phase::ChunkData(size),
                    };
                    self.line.clear();
                }
                Phase::ChunkData(left) => {
                    let taken = left.min(input.len());
                    body.extend_from_slice(&input[..taken]);
                    input = &input[taken..];
                    self.phase = if taken == left { Phase::ChunkEnd } else { Phase::ChunkData(left - taken) };
                }
                Phase::ChunkEnd => {
                    let Some(rest) = self.read_line(input) else { return Ok(false) };
                    input = rest;
                    if !self.line.is_empty() {
                        return Err(Malformed::Chunk);
                    }
                    self.phase = Phase::ChunkSize;
                }
                Phase::Trailer => {
                    let Some(rest) = self.read_line(input) else { return Ok(false) };
                    input = rest;
                    if self.line.is_empty() {
                        self.phase = Phase::Done;
                    }
                    self.line.clear();
                }
                Phase::Done => return Err(Malformed::BytesAfterEnd(input.len())),
            }
        }
        Ok(self.phase == Phase::Done)
    }

    fn read_head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.head.len();
        self.head.extend_from_slice(input);
        // The terminator may lie across two reads.
        let from = before.saturating_sub(3);
        let Some(found) = memmem::find(&self.head[from..], b"\r\n\r\n") else {
            return if self.head.len() > HEAD_LIMIT { Err(Malformed::HeadTooLong) } else { Ok(&[]) };
        };
        let end = from + found + 4;
        self.head.truncate(end);
        self.begin_body()?;
        Ok(&input[end - before..])
    }

    fn begin_body(&mut self) -> Result<(), Malformed> {
        let mut length = None;
        let mut chunked = false;
        let mut lines = self.head.split(|&byte| byte == b'\n');
        let first = lines.next().unwrap_or_default();
        if self.side == Side::Response {
            let digits = first.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).ok_or(Malformed::StatusLine)?;
            self.status = number(digits).ok_or(Malformed::StatusLine)? as u16;
        }
        for line in lines {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                length = Some(number(value).ok_or(Malformed::Length)?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close") {
                self.keep_alive = false;
            }
        }
        self.phase = match (chunked, length, self.side) {
            (true, _, _) => Phase::ChunkSize,
            (false, Some(0), _) | (false, None, Side::Request) => Phase::Done,
            (false, Some(length), _) => Phase::Sized(length),
            (false, None, Side::Response) => return Err(Malformed::NoLength),
        };
        Ok(())
    }

    /// Collects one line into `self.line` without its end; `None` while its end has not come.
    fn read_line<'a>(&mut self, input: &'a [u8]) -> Option<&'a [u8]> {
        match memchr::memchr(b'\n', input) {
            Some(end) => {
                self.line.extend_from_slice(&input[..end]);
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                Some(&input[end + 1..])
            }
            None => {
                self.line.extend_from_slice(input);
                None
            }
        }
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn chunk_size(line: &[u8]) -> Result<usize, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    usize::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nt: v\r\n\r\n";
    const SIZED: &[u8] = b"HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";

    #[test]
    fn every_split_of_a_message_reads_the_same() {
        for (message, status, expected) in [(CHUNKED, 200, &b"hello world"[..]), (SIZED, 429, b"body")] {
            for split in 0..message.len() {
                let mut decoder = Decoder::new(Side::Response);
                let mut body = Vec::new();
                assert_eq!(decoder.feed(&message[..split], &mut body), Ok(false));
                assert_eq!(decoder.feed(&message[split..], &mut body), Ok(true));
                assert_eq!((decoder.status(), &body[..]), (status, expected), "split at {split}");
            }
        }
    }

    #[test]
    fn bytes_behind_the_end_are_a_failure() {
        let mut message = SIZED.to_vec();
        message.push(b'x');
        assert_eq!(Decoder::new(Side::Response).feed(&message, &mut Vec::new()), Err(Malformed::BytesAfterEnd(1)));
    }

    #[test]
    fn a_response_must_say_where_it_ends() {
        let message = b"HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(Decoder::new(Side::Response).feed(message, &mut Vec::new()), Err(Malformed::NoLength));
    }

    #[test]
    fn a_close_is_noticed_and_forgotten_by_reset() {
        let mut decoder = Decoder::new(Side::Response);
        decoder.feed(SIZED, &mut Vec::new()).unwrap();
        assert!(!decoder.keep_alive());
        decoder.reset();
        assert!(decoder.keep_alive());
        assert_eq!(decoder.feed(CHUNKED, &mut Vec::new()), Ok(true));
    }
}
