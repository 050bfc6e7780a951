//! Server-sent events are the same however their bytes were cut, and those that a reading by the letter of their
//! specification gives.

use tollgate_dialects::sse::{Decoder, Event};

use crate::cuts::deliveries;

/// # Panics
/// When they are not.
pub fn check(input: &[u8]) {
    let expected = by_the_letter(input);
    for chunks in deliveries(input) {
        let events: Vec<_> =
            decode(&chunks).into_iter().map(|event| (event.name.to_vec(), event.data.to_vec())).collect();
        assert_eq!(events, expected);
    }
}

/// All events of a stream that comes in these pieces. Inputs are too short for a limit to be met.
pub(crate) fn decode(chunks: &[&[u8]]) -> Vec<Event> {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(event) = decoder.next_event().expect("short") {
            events.push(event);
        }
    }
    events.extend(decoder.finish().expect("short"));
    events
}

/// Name and data of each event. What the end of the stream leaves open counts, as some providers end so.
fn by_the_letter(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut events = Vec::new();
    let mut name = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    let mut lines = lines(stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream));
    lines.push(b"");
    for line in lines {
        if line.is_empty() {
            events.extend(data.take().map(|data| (std::mem::take(&mut name), data)));
            name.clear();
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.map_or((line, &b""[..]), |colon| (&line[..colon], &line[colon + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match (field, &mut data) {
            (b"event", _) => name = value.to_vec(),
            (b"data", None) => data = Some(value.to_vec()),
            (b"data", Some(data)) => data.extend([b"\n", value].concat()),
            _ => {}
        }
    }
    events
}

/// Lines end with a carriage return, a line feed, or both.
fn lines(stream: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = stream;
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        lines.push(&rest[..end]);
        rest = &rest[end..];
        rest = rest.strip_prefix(b"\r\n").unwrap_or(&rest[1..]);
    }
    lines.push(rest);
    lines
}
