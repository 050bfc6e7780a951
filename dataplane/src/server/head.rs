//! The head of a request. What can be read in two ways was noted by [`crate::head_guard`] as it arrived; this is what
//! remains: a method, a target, fields, and how the body ends.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};

use crate::framing::Framing;

/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Most fields of a head.
const MAX_FIELDS: usize = 100;

/// Longest target.
const MAX_TARGET_BYTES: usize = 65_534;

/// A request without its body.
#[derive(Debug)]
pub struct Head {
    pub parts: Parts,
    pub framing: Framing,
    /// The client can read an answer in chunks, and more than one.
    pub keep_alive: bool,
    /// The client waits for a word before it sends its body.
    pub expects_continue: bool,
}

/// Takes a head off `input`; `None` when its end has not come.
///
/// # Errors
/// The status that refuses what is no head.
pub fn take(input: &mut BytesMut) -> Result<Option<Head>, StatusCode> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let start = input.as_ptr().addr();
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, input, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(_) => return Err(StatusCode::BAD_REQUEST),
    };
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let place = |part: &[u8]| {
        let from = part.as_ptr().addr() - start;
        from..from + part.len()
    };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).map_err(|_| BAD)?;
    let target = place(request.path.unwrap_or_default().as_bytes());
    if target.len() > MAX_TARGET_BYTES {
        return Err(StatusCode::URI_TOO_LONG);
    }
    let is_http_11 = request.version == Some(1);
    let places: smallvec::SmallVec<[_; 24]> =
        request.headers.iter().map(|field| (place(field.name.as_bytes()), place(field.value))).collect();
    let bytes = input.split_to(length).freeze();
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = Uri::from_maybe_shared(bytes.slice(target)).map_err(|_| BAD)?;
    parts.version = if is_http_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut head = Head { parts, framing: Framing::Length(0), keep_alive: is_http_11, expects_continue: false };
    head.parts.headers.reserve(places.len());
    for (name, value) in places {
        let name = HeaderName::from_bytes(&bytes[name]).map_err(|_| BAD)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(value)).map_err(|_| BAD)?;
        head.note(&name, value.as_bytes(), is_http_11).ok_or(BAD)?;
        head.parts.headers.append(name, value);
    }
    Ok(Some(head))
}

impl Head {
    /// Acts on the fields that are about the connection. `None`: such a request is not answered.
    fn note(&mut self, name: &HeaderName, value: &[u8], is_http_11: bool) -> Option<()> {
        let is_chunked = self.framing == Framing::Chunked;
        match *name {
            CONTENT_LENGTH if !is_chunked => self.framing = Framing::Length(number(value)?),
            TRANSFER_ENCODING if is_http_11 => {
                // A coding that is not understood is refused here; one too many by the guard, in the client's dialect.
                value.to_ascii_lowercase().ends_with(b"chunked").then_some(())?;
                self.framing = Framing::Chunked;
            }
            TRANSFER_ENCODING => return None,
            CONNECTION if has(value, b"close") => self.keep_alive = false,
            EXPECT => self.expects_continue = is_http_11 && value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        Some(())
    }
}

fn number(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

fn has(list: &[u8], word: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word))
}

/// Whether more bytes can have brought the end of a head. `seen`: bytes that were looked at before.
pub fn may_be_complete(input: &[u8], seen: usize) -> bool {
    let new = &input[seen.saturating_sub(3).min(input.len())..];
    seen == 0
        || input.len() >= MAX_HEAD_BYTES
        || memchr::memmem::find(new, b"\n\r\n").is_some()
        || memchr::memmem::find(new, b"\n\n").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Head>, StatusCode> {
        take(&mut text.as_bytes().into())
    }

    fn post(fields: &str) -> Result<Option<Head>, StatusCode> {
        parse(&format!("POST /v1/messages?x=y HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    #[test]
    fn a_head_is_taken_once_it_is_complete_and_what_follows_stays() {
        let text = "\r\nPOST /v1/messages?x=y HTTP/1.1\r\nHost: a\r\nX: y\r\nx: z\r\n\r\nbody";
        for end in 0..text.len() - 4 {
            assert!(parse(&text[..end]).unwrap().is_none(), "{end}");
        }
        let mut input = BytesMut::from(text);
        let head = take(&mut input).unwrap().unwrap();
        assert_eq!(input, b"body"[..]);
        assert_eq!((head.parts.method, head.parts.uri.path()), (Method::POST, "/v1/messages"));
        assert_eq!(head.parts.headers.get_all("x").iter().collect::<Vec<_>>(), ["y", "z"]);
        assert_eq!((head.framing, head.keep_alive, head.expects_continue), (Framing::Length(0), true, false));
    }

    #[test]
    fn fields_say_how_the_body_ends_and_whether_the_connection_stays() {
        let facts = |fields: &str| {
            let head = post(fields).unwrap().unwrap();
            (head.framing, head.keep_alive, head.expects_continue)
        };
        assert_eq!(facts("content-length: 5\r\n"), (Framing::Length(5), true, false));
        assert_eq!(facts("Transfer-Encoding: Chunked\r\nexpect: 100-Continue\r\n"), (Framing::Chunked, true, true));
        assert_eq!(facts("connection: keep-alive, Close\r\n"), (Framing::Length(0), false, false));
        let old = parse("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").unwrap().unwrap();
        assert!(!old.keep_alive);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "\0\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.1\r\nbad name: x\r\n\r\n",
            "GET / HTTP/1.1\r\nname : x\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nx: \0\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(parse(text).unwrap_err(), StatusCode::BAD_REQUEST, "{text:?}");
        }
        let many: String = (0..=MAX_FIELDS).map(|at| format!("x{at}: 1\r\n")).collect();
        assert_eq!(post(&many).unwrap_err(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let large = format!("x: {}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(post(&large).unwrap_err(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }

    #[test]
    fn a_head_that_comes_in_pieces_is_parsed_when_it_can_be_whole() {
        let text = b"GET / HTTP/1.1\r\nx: y\r\n\r\n";
        for seen in 1..text.len() {
            assert!(may_be_complete(text, seen) || seen > text.len(), "{seen}");
            assert!(!may_be_complete(&text[..seen], seen.saturating_sub(1).max(1)), "{seen}");
        }
    }
}
