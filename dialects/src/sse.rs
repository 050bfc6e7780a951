//! Server-sent events: finding where one ends however the bytes were cut, and reading it.
//!
//! [`Framer`] finds events in place and copies nothing; the pass-through relay uses it directly.
//! [`Decoder`] holds bytes back until an event is whole, for translation between dialects.

use bytes::{Bytes, BytesMut};

use crate::json::Span;

/// The longest line that is taken, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// The longest event that is taken, in bytes.
pub const MAX_EVENT: usize = 4 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event found whole; spans are of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// From the start of the event to behind its blank line.
    pub length: usize,
    /// The value of the last `event` line; empty if there is none.
    pub name: Span,
    /// The value of the `data` line. Of several, from the first to the end of the last: see [`join_data`].
    pub data: Span,
    pub data_lines: u32,
}

/// Finds the end of an event in bytes that come piece by piece. Offsets count from the start of
/// the event at hand, so its bytes may move between calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Framer {
    begun: bool,
    /// The last byte looked at was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// How far the event was looked at.
    seen: usize,
    /// Where the line at hand begins.
    line: usize,
    name: Span,
    data: Span,
    data_lines: u32,
}

impl Framer {
    /// Looks on in `event`, the bytes from the start of the event at hand. `None` if it is not
    /// whole yet; then call again with the same bytes and more.
    pub fn advance(&mut self, event: &[u8]) -> Option<Frame> {
        if !self.begun && !self.begin(event) {
            return None;
        }
        loop {
            if self.after_return {
                if *event.get(self.seen)? == b'\n' {
                    self.seen += 1;
                    self.line = self.seen;
                }
                self.after_return = false;
            }
            let Some(ahead) = memchr::memchr2(b'\n', b'\r', &event[self.seen..]) else {
                self.seen = event.len();
                return None;
            };
            let end = self.seen + ahead;
            let mut next = end + 1;
            if event[end] == b'\r' {
                match event.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            if end == self.line {
                return Some(self.end_event(next));
            }
            self.take_line(event, end);
            self.seen = next;
            self.line = next;
        }
    }

    /// The event at hand as if the stream's end were the end of its line and a blank one; `None`
    /// if there is nothing but white space.
    pub fn finish(&mut self, event: &[u8]) -> Option<Frame> {
        if self.line < event.len() {
            self.take_line(event, event.len());
        }
        (!event.trim_ascii().is_empty()).then(|| self.end_event(event.len()))
    }

    /// How long the line at hand is so far.
    fn line_length(&self) -> usize {
        self.seen - self.line
    }

    /// Forgets the event at hand but for its last byte, and what was read of it, to look for its
    /// end only. The caller keeps that one byte in its place.
    pub fn keep_last_byte(&mut self) {
        self.line = usize::from(self.line == self.seen);
        self.seen = 1;
        self.name = Span::default();
        self.data = Span::default();
        self.data_lines = 0;
    }

    /// Passes a byte order mark; false while it is open whether there is one.
    fn begin(&mut self, event: &[u8]) -> bool {
        if event.starts_with(BYTE_ORDER_MARK) {
            self.seen = BYTE_ORDER_MARK.len();
            self.line = self.seen;
        } else if BYTE_ORDER_MARK.starts_with(event) {
            return false;
        }
        self.begun = true;
        true
    }

    #[inline(always)]
    fn take_line(&mut self, event: &[u8], end: usize) {
        let line = &event[self.line..end];
        if let Some(value) = line.strip_prefix(b"data").and_then(value_of) {
            self.data.end = end as u32;
            if self.data_lines == 0 {
                self.data.start = (end - value.len()) as u32;
            }
            self.data_lines += 1;
        } else if let Some(value) = line.strip_prefix(b"event").and_then(value_of) {
            self.name = Span { start: (end - value.len()) as u32, end: end as u32 };
        }
    }

    fn end_event(&mut self, length: usize) -> Frame {
        let frame = Frame { length, name: self.name, data: self.data, data_lines: self.data_lines };
        *self = Self { begun: true, after_return: self.after_return, ..Self::default() };
        frame
    }
}

/// The value of a line after its field name; `None` if the name goes on.
#[inline(always)]
fn value_of(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// The values of several `data` lines, joined by line feeds. `data` is the span of a [`Frame`],
/// so it begins in the first line's value.
pub(crate) fn join_data(event: &[u8], data: Span) -> Vec<u8> {
    let mut joined = Vec::with_capacity(data.len());
    for (index, line) in data.of(event).split(|byte| matches!(byte, b'\n' | b'\r')).enumerate() {
        if index == 0 {
            joined.extend_from_slice(line);
        } else if let Some(value) = line.strip_prefix(b"data").and_then(value_of) {
            joined.push(b'\n');
            joined.extend_from_slice(value);
        }
    }
    joined
}

/// One event, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The value of `event:`; empty if it has none.
    pub name: Bytes,
    /// The values of `data:`, several joined by line feeds.
    pub data: Bytes,
}

/// A stream that is refused because it would have to be held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line of more than [`MAX_LINE`] bytes.
    #[error("event stream line over {MAX_LINE} bytes")]
    LineTooLong,
    /// An event of more than [`MAX_EVENT`] bytes.
    #[error("event stream event over {MAX_EVENT} bytes")]
    EventTooLong,
}

/// Makes events of bytes that come piece by piece. Comments and events without data are passed over.
#[derive(Debug, Default)]
pub struct Decoder {
    framer: Framer,
    held: BytesMut,
}

impl Decoder {
    /// Takes what came next. Follow with [`Self::next_event`] until it has none.
    pub fn push(&mut self, chunk: &[u8]) {
        self.held.extend_from_slice(chunk);
    }

    /// The next event that is whole.
    ///
    /// # Errors
    /// A line or an event is too long; the stream cannot be read on.
    pub fn next_event(&mut self) -> Result<Option<Event>, SseError> {
        while let Some(frame) = self.framer.advance(&self.held) {
            if frame.length > MAX_EVENT {
                return Err(SseError::EventTooLong);
            }
            let bytes = self.held.split_to(frame.length).freeze();
            if frame.data_lines > 0 {
                return event_of(&bytes, frame).map(Some);
            }
        }
        if self.framer.line_length() > MAX_LINE {
            return Err(SseError::LineTooLong);
        }
        if self.held.len() > MAX_EVENT {
            return Err(SseError::EventTooLong);
        }
        Ok(None)
    }

    /// The event at the end of a stream that lacks its blank line, or even its line's end, as
    /// some providers leave it. Whether it was cut short only its data tells.
    ///
    /// # Errors
    /// As [`Self::next_event`].
    pub fn finish(&mut self) -> Result<Option<Event>, SseError> {
        let Some(frame) = self.framer.finish(&self.held) else { return Ok(None) };
        let bytes = self.held.split().freeze();
        if frame.data_lines == 0 { Ok(None) } else { event_of(&bytes, frame).map(Some) }
    }
}

fn event_of(bytes: &Bytes, frame: Frame) -> Result<Event, SseError> {
    let data =
        if frame.data_lines == 1 { bytes.slice(frame.data.range()) } else { Bytes::from(join_data(bytes, frame.data)) };
    if data.len() > MAX_LINE && data.split(|byte| *byte == b'\n').any(|line| line.len() > MAX_LINE) {
        return Err(SseError::LineTooLong);
    }
    Ok(Event { name: bytes.slice(frame.name.range()), data })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The events of a whole stream, read as its specification says: lines, then fields.
    fn reference(stream: &str) -> Vec<(String, String)> {
        let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        let (mut name, mut data) = (String::new(), Vec::new());
        let mut lines: Vec<_> = stream.split('\n').collect();
        lines.push("");
        for line in lines {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((name, data.join("\n")));
                }
                (name, data) = (String::new(), Vec::new());
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = value.to_owned(),
                "data" => data.push(value.to_owned()),
                _ => {}
            }
        }
        events
    }

    fn decoded<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(event) = decoder.next_event().expect("short") {
                events.push((text(&event.name), text(&event.data)));
            }
        }
        if let Some(event) = decoder.finish().expect("short") {
            events.push((text(&event.name), text(&event.data)));
        }
        events
    }

    #[test]
    fn the_usual_and_the_odd_streams_are_read() {
        let cases: [(&str, &[(&str, &str)]); 12] = [
            ("data: a\n\n", &[("", "a")]),
            ("data:a\n\ndata:  b\n\n", &[("", "a"), ("", " b")]),
            ("event: x\ndata: {}\n\n", &[("x", "{}")]),
            ("data: {}\r\nevent: x\r\n\r\ndata: 2\r\n\r\n", &[("x", "{}"), ("", "2")]),
            ("data: 1\r\rdata: 2\r\r", &[("", "1"), ("", "2")]),
            (": ping\n\ndata: 1\n\n: ping\n\n", &[("", "1")]),
            ("data: a\n: between\ndata: b\nid: 3\ndata\n\n", &[("", "a\nb\n")]),
            ("\u{feff}data: a\n\n", &[("", "a")]),
            ("\n\n\ndata: a\n\n\n\n", &[("", "a")]),
            ("data: a\n\ndata: [DONE]", &[("", "a"), ("", "[DONE]")]),
            ("event: only\n\ndata: a\n", &[("", "a")]),
            ("database: a\neventful: b\ndata:\n\n", &[("", "")]),
        ];
        for (stream, events) in cases {
            let expected: Vec<_> = events.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(reference(stream), expected, "{stream:?} by the reference");
            assert_eq!(decoded([stream.as_bytes()]), expected, "{stream:?}");
        }
    }

    #[test]
    fn a_cut_anywhere_changes_nothing() {
        let stream = "\u{feff}event: a\r\ndata: {\"x\":1}\r\n\r\n: ping\r\rdata: é\ndata: 2\n\ndata:3\r\n\r\n";
        let expected = reference(stream);
        assert_eq!(expected.len(), 3);
        let bytes = stream.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let chunks = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(decoded(chunks), expected, "cut at {first} and {second}");
            }
        }
        assert_eq!(decoded(bytes.chunks(1)), expected);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"data: ");
        decoder.push(&vec![b'a'; MAX_LINE]);
        assert_eq!(decoder.next_event(), Err(SseError::LineTooLong));

        let mut decoder = Decoder::default();
        decoder.push(b"data: ");
        decoder.push(&vec![b'a'; MAX_LINE + 1]);
        decoder.push(b"\n\n");
        assert_eq!(decoder.next_event(), Err(SseError::LineTooLong), "also if it came whole");

        let mut decoder = Decoder::default();
        let line = [b"data: ".as_slice(), &vec![b'a'; MAX_LINE / 2], b"\n"].concat();
        for _ in 0..7 {
            decoder.push(&line);
            assert_eq!(decoder.next_event(), Ok(None));
        }
        decoder.push(&line);
        assert_eq!(decoder.next_event(), Err(SseError::EventTooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_chunking_gives_what_the_reference_gives(
            lines in vec(prop_oneof![
                Just(String::new()), Just(":x".into()), Just("data".into()), "data: ?[a-c\u{e9}:]{0,3}",
                "event: ?[ab]{0,2}", "[a-d:]{0,3}"], 0..14),
            ends in vec(prop_oneof![Just("\n"), Just("\r"), Just("\r\n")], 14),
            cuts in vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stream: String = lines.iter().zip(ends).flat_map(|(line, end)| [line.as_str(), end]).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &stream.as_bytes()[cut[0]..cut[1]]);
            prop_assert_eq!(decoded(chunks), reference(&stream));
            prop_assert_eq!(decoded(stream.as_bytes().chunks(1)), reference(&stream));
        }
    }
}
