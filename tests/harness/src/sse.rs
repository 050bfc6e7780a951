//! Server-sent events as the SDKs' decoders see them, and what they trip over: comments, ids and retries are kept. Pure.

use std::collections::VecDeque;

use crate::Value;

/// One event, or a group of comment lines on their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event:` line.
    pub name: Option<String>,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
    pub comments: Vec<String>,
    pub id: Option<String>,
    pub retry: Option<String>,
}

impl Event {
    /// The data as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.data))
    }

    pub fn is_done(&self) -> bool {
        self.data == "[DONE]"
    }
}

/// Splits bytes into events, however they are cut. Lines end with LF or CR LF.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    open: Option<Event>,
    ready: VecDeque<Event>,
}

impl Events {
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            self.take(&line);
        }
    }

    fn take(&mut self, line: &str) {
        if line.is_empty() {
            self.ready.extend(self.open.take());
            return;
        }
        let open = self.open.get_or_insert_default();
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => open.comments.push(value.to_owned()),
            "event" => open.name = Some(value.to_owned()),
            "id" => open.id = Some(value.to_owned()),
            "retry" => open.retry = Some(value.to_owned()),
            "data" if open.data.is_empty() => open.data = value.to_owned(),
            "data" => {
                open.data.push('\n');
                open.data.push_str(value);
            }
            _ => panic!("a line that no decoder knows: {line:?}"),
        }
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// What the end of the body leaves: an event without its empty line.
    pub fn finish(&mut self) -> Option<Event> {
        self.pop().or_else(|| self.open.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_they_are_cut() {
        let text = b": ping\n\nevent: a\r\ndata: 1\r\ndata: 2\r\n\r\ndata: [DONE]\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            text.chunks(size).for_each(|chunk| events.push(chunk));
            let all: Vec<Event> = std::iter::from_fn(|| events.finish()).collect();
            assert_eq!(all.len(), 3, "{size}");
            assert_eq!((all[0].comments[0].as_str(), &*all[0].data), ("ping", ""));
            assert_eq!((all[1].name.as_deref(), &*all[1].data), (Some("a"), "1\n2"));
            assert!(all[2].is_done());
        }
    }
}
