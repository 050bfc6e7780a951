//! Server-sent events: from the events of a dialect to the acts that send them, with everything a script breaks. Pure.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body::{Act, Write};
use crate::generation::INVALID_MARK;
use crate::invoice::End;
use crate::script::{Cut, CutHow, Reply};
use crate::tokens::Tokens;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// Anthropic names its events; OpenAI does not.
    pub name: Option<&'static str>,
    pub data: Value,
    pub brings: Brings,
    /// The event tells the usage.
    pub usage: bool,
}

/// What an event adds to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brings {
    Nothing,
    Reasoning,
    Content,
}

impl Event {
    pub fn new(name: Option<&'static str>, data: Value, brings: Brings) -> Event {
        Event { name, data, brings, usage: false }
    }
}

/// The acts that send `events`, and what the last of them means. `done`: the dialect ends with `[DONE]`. `error`: the
/// dialect's data of a server error.
pub(crate) fn acts(mut events: Vec<Event>, reply: &Reply, full: &Tokens, done: bool, error: Value) -> (Vec<Act>, End) {
    if reply.padding_bytes > 0
        && let Some(Event { data: Value::Object(fields), .. }) = events.first_mut()
    {
        fields.insert("padding".into(), json!("x".repeat(reply.padding_bytes)));
    }
    let newline = reply.separator.text();
    let mut progress = Progress::new(&events, full);
    let mut writes = Vec::new();
    for event in &events {
        writes.push(Write { bytes: encode(event, newline, reply.comment.as_deref()), ..progress.after(event) });
    }
    let plain = |text: &str| Write { bytes: format!("data: {text}{newline}{newline}").into(), ..Write::default() };
    if done {
        writes.extend((0..reply.done.unwrap_or(1)).map(|_| plain("[DONE]")));
    }
    writes.extend(reply.after_done.as_deref().map(plain));
    let named_error = (!done).then_some("error");
    let error_event = |cut: &Cut| {
        let event = Event::new(named_error, cut.error.clone().unwrap_or(error), Brings::Nothing);
        Write { bytes: encode(&event, newline, None), ..Write::default() }
    };
    play(writes, reply, error_event)
}

/// The acts that send `writes` under the script's delays and cut.
pub(crate) fn play(writes: Vec<Write>, reply: &Reply, error: impl FnOnce(&Cut) -> Write) -> (Vec<Act>, End) {
    let mut acts = Vec::new();
    let (before, after) = match &reply.cut {
        Some(cut) => cut_at(writes, cut),
        None => (writes, Vec::new()),
    };
    push(&mut acts, before, reply.chunk_delay_ms);
    let Some(cut) = &reply.cut else { return (acts, End::Completed) };
    match &cut.how {
        CutHow::Close => acts.push(Act::Close),
        CutHow::Reset => acts.push(Act::Reset),
        CutHow::Hang => acts.push(Act::Hang),
        CutHow::Finish => {}
        CutHow::Error => acts.push(Act::Write(error(cut))),
        CutHow::Gate(name) => {
            acts.push(Act::Gate(name.clone()));
            push(&mut acts, after, reply.chunk_delay_ms);
            return (acts, End::Completed);
        }
    }
    (acts, End::Cut)
}

/// Each write reaches the socket before the next is made, so that a disconnect is noticed where it happens.
fn push(acts: &mut Vec<Act>, writes: Vec<Write>, delay_ms: u64) {
    for write in writes {
        if let Some(Act::Write(_)) = acts.last() {
            acts.push(Act::Flush);
            if delay_ms > 0 {
                acts.push(Act::Sleep(Duration::from_millis(delay_ms)));
            }
        }
        acts.push(Act::Write(write));
    }
}

/// Splits what is sent before the cut from the rest.
fn cut_at(mut writes: Vec<Write>, cut: &Cut) -> (Vec<Write>, Vec<Write>) {
    match (cut.after_events, cut.after_bytes) {
        (Some(events), _) => {
            let after = writes.split_off(events.min(writes.len()));
            (writes, after)
        }
        (None, bytes) => {
            let mut left = bytes.unwrap_or(0);
            let mut before = Vec::new();
            let mut rest = writes.into_iter();
            for mut write in rest.by_ref() {
                if write.bytes.len() <= left {
                    left -= write.bytes.len();
                    before.push(write);
                    continue;
                }
                let tail = write.bytes.split_off(left);
                // The output of a torn event counts as produced: the provider made it.
                let after = std::iter::once(Write { bytes: tail, usage: write.usage, ..Write::default() });
                if left > 0 {
                    before.push(Write { usage: false, ..write });
                }
                return (before, after.chain(rest).collect());
            }
            (before, Vec::new())
        }
    }
}

/// Spreads the billed output over the events that bring it, so that the last of them reaches exactly the whole.
struct Progress {
    full: Tokens,
    reasoning_events: u64,
    content_events: u64,
    reasoning_sent: u64,
    content_sent: u64,
}

impl Progress {
    fn new(events: &[Event], full: &Tokens) -> Progress {
        let count = |kind| events.iter().filter(|event| event.brings == kind).count() as u64;
        Progress {
            full: *full,
            reasoning_events: count(Brings::Reasoning),
            content_events: count(Brings::Content),
            reasoning_sent: 0,
            content_sent: 0,
        }
    }

    fn after(&mut self, event: &Event) -> Write {
        match event.brings {
            Brings::Nothing => return Write { usage: event.usage, ..Write::default() },
            Brings::Reasoning => self.reasoning_sent += 1,
            Brings::Content => self.content_sent += 1,
        }
        let part = |whole: u64, sent: u64, of: u64| match of {
            0 => 0,
            of => (u128::from(whole) * u128::from(sent) / u128::from(of)) as u64,
        };
        let reasoning = part(self.full.reasoning, self.reasoning_sent, self.reasoning_events);
        let content = self.full.output.saturating_sub(self.full.reasoning);
        Write {
            bytes: Bytes::new(),
            output: Some(reasoning + part(content, self.content_sent, self.content_events)),
            reasoning: Some(reasoning),
            usage: event.usage,
        }
    }
}

fn encode(event: &Event, newline: &str, comment: Option<&str>) -> Bytes {
    let mut text = String::new();
    if let Some(comment) = comment {
        text += &format!(": {comment}{newline}{newline}");
    }
    if let Some(name) = event.name {
        text += &format!("event: {name}{newline}");
    }
    text += &format!("data: {}{newline}{newline}", event.data);
    spoil(text)
}

/// Turns the marks of [`INVALID_MARK`] into bytes that are no UTF-8.
pub(crate) fn spoil(text: String) -> Bytes {
    if !text.contains(INVALID_MARK) {
        return text.into();
    }
    let parts: Vec<&[u8]> = text.split(INVALID_MARK).map(str::as_bytes).collect();
    parts.join(&[0xff, 0xfe][..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Separator;

    fn events(count: usize) -> Vec<Event> {
        (0..count).map(|at| Event::new(None, json!({"n": at}), Brings::Content)).collect()
    }

    fn sent(acts: &[Act]) -> Vec<u8> {
        let bytes =
            acts.iter().filter_map(|act| if let Act::Write(write) = act { Some(&write.bytes[..]) } else { None });
        bytes.collect::<Vec<_>>().concat()
    }

    fn plain(reply: &Reply) -> (Vec<Act>, End) {
        acts(events(3), reply, &Tokens::new(5, 10), true, json!({"error": {}}))
    }

    #[test]
    fn a_stream_ends_with_done() {
        let (acts, end) = plain(&Reply::default());
        let text = "data: {\"n\":0}\n\ndata: {\"n\":1}\n\ndata: {\"n\":2}\n\ndata: [DONE]\n\n";
        assert_eq!((String::from_utf8(sent(&acts)).unwrap().as_str(), end), (text, End::Completed));
    }

    #[test]
    fn output_is_spread_over_the_events_and_ends_whole() {
        let (acts, _) = plain(&Reply::default());
        let outputs: Vec<u64> =
            acts.iter().filter_map(|act| if let Act::Write(write) = act { write.output } else { None }).collect();
        assert_eq!(outputs, [3, 6, 10]);
    }

    #[test]
    fn separators_comments_and_endings_follow_the_script() {
        let reply = Reply {
            separator: Separator::CrLf,
            comment: Some("ping".into()),
            done: Some(2),
            after_done: Some("more".into()),
            ..Reply::default()
        };
        let text = String::from_utf8(sent(&plain(&reply).0)).unwrap();
        assert!(text.starts_with(": ping\r\n\r\ndata: {\"n\":0}\r\n\r\n"), "{text}");
        assert!(text.ends_with("data: [DONE]\r\n\r\ndata: [DONE]\r\n\r\ndata: more\r\n\r\n"), "{text}");
    }

    #[test]
    fn every_byte_offset_can_be_the_cut() {
        let whole = sent(&plain(&Reply::default()).0);
        for at in 0..=whole.len() {
            let cut = Cut { after_bytes: Some(at), ..Cut::default() };
            let (acts, end) = plain(&Reply { cut: Some(cut), ..Reply::default() });
            assert_eq!((sent(&acts), end), (whole[..at].to_vec(), End::Cut));
            assert!(matches!(acts.last(), Some(Act::Close)));
            let gate = Cut { after_bytes: Some(at), how: CutHow::Gate("g".into()), ..Cut::default() };
            let (acts, end) = plain(&Reply { cut: Some(gate), ..Reply::default() });
            assert_eq!((sent(&acts), end), (whole.clone(), End::Completed));
        }
    }

    #[test]
    fn the_mark_becomes_bytes_that_are_no_utf8() {
        assert_eq!(spoil(format!("a{INVALID_MARK}b")), Bytes::from_static(b"a\xff\xfeb"));
    }
}
