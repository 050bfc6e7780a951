//! The head of a provider's answer: its status, its fields as they were received, and how its body ends. Stricter than
//! RFC 9112 asks: what two readers could take for different answers is refused, because the next answer on the
//! connection would be another call's.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::StatusCode;

use crate::framing::{Framing, Malformed};

/// Largest head that is read.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// Most fields of a head.
const MAX_FIELDS: usize = 100;

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: StatusCode,
    pub fields: Fields,
}

/// The fields of a head, in their order, in the bytes they came in. Names are tokens and values have no control
/// characters but tabs.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Lines that were parsed once: nothing but fields, up to the empty line.
    lines: Bytes,
}

/// A head that is complete.
#[derive(Debug)]
pub struct Parsed {
    pub head: Head,
    pub framing: Framing,
    /// The connection may serve again after this answer.
    pub keep_alive: bool,
}

/// Length of the head that `bytes` begin with, and its status; `None` when its end has not come.
///
/// # Errors
/// What is not a head, or too large for one.
pub fn measure(bytes: &[u8]) -> Result<Option<Measured>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Malformed("the head of the answer is too large"));
        }
        Err(_) => return Err(Malformed("the head of the answer is not HTTP/1")),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("the status of the answer is not one"))?;
    let first = answer.headers.first().map(|field| field.name.as_ptr().addr() - bytes.as_ptr().addr());
    Ok(Some(Measured { length, status, is_http_11: answer.version == Some(1), fields: first.unwrap_or(length) }))
}

/// A head whose bytes were not taken yet.
#[derive(Debug)]
pub struct Measured {
    pub length: usize,
    pub status: StatusCode,
    is_http_11: bool,
    /// Where they begin.
    fields: usize,
}

impl Measured {
    /// Takes the head's bytes and decides how its body ends.
    ///
    /// # Errors
    /// Lengths and codings that contradict each other or are not understood.
    pub fn take(self, bytes: Bytes) -> Result<Parsed, Malformed> {
        let Measured { length: _, status, is_http_11, fields } = self;
        let fields = Fields { lines: bytes.slice(fields..) };
        let mut length = None;
        let mut is_chunked = false;
        let mut keep_alive = is_http_11;
        for (name, value) in fields.iter() {
            // By length first: most fields cost one comparison.
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    let number = content_length(value).ok_or(Malformed("`content-length` is not a number"))?;
                    if length.replace(number).is_some_and(|other| other != number) {
                        return Err(Malformed("`content-length` is given twice"));
                    }
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    if is_chunked || !is_http_11 || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed("`transfer-encoding` is something else than one `chunked`"));
                    }
                    is_chunked = true;
                }
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    let has = |word: &[u8]| {
                        value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word))
                    };
                    keep_alive = !has(b"close") && (keep_alive || has(b"keep-alive"));
                }
                _ => {}
            }
        }
        if is_chunked && length.is_some() {
            return Err(Malformed("`content-length` and `transfer-encoding` are both given"));
        }
        let framing = match length {
            // These have no body, whatever they say of one.
            _ if matches!(status.as_u16(), 204 | 304) => Framing::Length(0),
            _ if is_chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        };
        Ok(Parsed { head: Head { status, fields }, framing, keep_alive: keep_alive && framing != Framing::Close })
    }
}

fn content_length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

impl Fields {
    /// Names as they were received, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }

    /// The first value of this name; `name` in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok().map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Parsed>, Malformed> {
        let Some(measured) = measure(text.as_bytes())? else { return Ok(None) };
        let bytes = Bytes::copy_from_slice(&text.as_bytes()[..measured.length]);
        measured.take(bytes).map(Some)
    }

    fn framing(fields: &str) -> Result<(Framing, bool), Malformed> {
        let parsed = parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))?.expect("a complete head");
        Ok((parsed.framing, parsed.keep_alive))
    }

    #[test]
    fn the_fields_say_how_the_body_ends_and_whether_the_connection_stays() {
        for (fields, expected) in [
            ("content-length: 5\r\n", (Framing::Length(5), true)),
            ("Content-Length: 5\r\ncontent-length: 5\r\n", (Framing::Length(5), true)),
            ("Transfer-Encoding: Chunked\r\n", (Framing::Chunked, true)),
            ("x: y\r\n", (Framing::Close, false)),
            ("content-length: 5\r\nConnection: Close\r\n", (Framing::Length(5), false)),
            ("content-length: 5\r\nconnection: x, close\r\n", (Framing::Length(5), false)),
            ("content-length: 5\r\nconnection: keep-alive\r\n", (Framing::Length(5), true)),
        ] {
            assert_eq!(framing(fields), Ok(expected), "{fields}");
        }
        let old = parse("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap().unwrap();
        assert!(!old.keep_alive);
        let old = parse("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n").unwrap().unwrap();
        assert!(old.keep_alive);
        let empty = parse("HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n").unwrap().unwrap();
        assert_eq!((empty.framing, empty.keep_alive), (Framing::Length(0), true));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length:\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "bad name: x\r\n",
            "x: y\r\n folded: z\r\n",
            "x: a\0b\r\n",
        ] {
            assert!(framing(fields).is_err(), "{fields:?}");
        }
        assert!(parse("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        for text in ["garbage\r\n\r\n", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let many: String = (0..=MAX_FIELDS).map(|number| format!("x{number}: y\r\n")).collect();
        assert!(framing(&many).is_err());
        assert!(parse(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES))).is_err());
    }

    #[test]
    fn fields_are_found_by_name_and_keep_their_bytes() {
        let parsed = parse("HTTP/1.1 429 Too Many\r\nRetry-After: 7 \r\nX-A: b\tc\r\n\r\n").unwrap().unwrap();
        assert_eq!(parsed.head.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(parsed.head.fields.text("retry-after"), Some("7"));
        assert_eq!(parsed.head.fields.get("x-a"), Some(&b"b\tc"[..]));
        assert_eq!(parsed.head.fields.get("x-b"), None);
        assert_eq!(parsed.head.fields.iter().count(), 2);
    }
}
