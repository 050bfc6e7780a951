//! Small edits of a JSON body that leave the rest of its bytes where and as they are.
//!
//! The result is a list of slices for one vectored write: what is not edited is shared with the
//! body, never copied. Edits are given in spans of the body as it was read.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::head::Head;
use crate::json::{self, Field, Kind, Layout, Span};

/// `text` as a JSON string, ready to be put in place of a value.
pub fn json_string(text: &str) -> Bytes {
    Bytes::from(json::quoted(text))
}

/// Edits to be made to one body, in any order. They may not overlap.
#[derive(Clone, Debug, Default)]
pub struct Splice {
    replaced: SmallVec<[(Span, Bytes); 2]>,
    removed: SmallVec<[Field; 2]>,
    inserted: SmallVec<[(&'static str, Bytes); 2]>,
}

/// A body in parts that are sent one after the other.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    parts: SmallVec<[Bytes; 6]>,
    length: usize,
}

impl Splice {
    /// Puts `with` in place of `span`. Both must be whole JSON values.
    pub fn replace(&mut self, span: Span, with: Bytes) {
        self.replaced.push((span, with));
    }

    /// Takes a field of the outermost object out, with its comma.
    pub fn remove(&mut self, field: Field) {
        self.removed.push(field);
    }

    /// Adds a field at the end of the outermost object. `name` needs no escapes; `value` is JSON.
    pub fn insert(&mut self, name: &'static str, value: Bytes) {
        self.inserted.push((name, value));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.removed.is_empty() && self.inserted.is_empty()
    }

    /// The body with the edits made. `layout` is that of `body`, an object.
    pub fn apply(self, body: &Bytes, layout: Layout) -> Pieces {
        let Self { replaced, mut removed, inserted } = self;
        let mut edits: SmallVec<[(Span, Bytes); 4]> = SmallVec::new();
        edits.extend(replaced);
        removed.sort_unstable_by_key(|field| field.start);
        let left = layout.fields as usize - removed.len();
        push_removals(&mut edits, &removed, body);
        edits.sort_unstable_by_key(|(span, _)| *span);
        if !inserted.is_empty() {
            let at = Span { start: layout.close, end: layout.close };
            edits.push((at, fields_text(&inserted, left > 0)));
        }
        let mut pieces = Pieces::default();
        let mut done = 0;
        for (span, with) in edits {
            debug_assert!(done <= span.range().start, "edits overlap");
            pieces.push(body.slice(done..span.range().start));
            pieces.push(with);
            done = span.range().end;
        }
        pieces.push(body.slice(done..));
        pieces
    }
}

/// Makes an OpenAI request for a stream ask for its usage, whatever it says of it. Returns whether
/// it did not: then the usage event is ours and not for the client.
pub fn ask_for_usage(splice: &mut Splice, head: &Head, body: &[u8]) -> bool {
    const OPTIONS: Bytes = Bytes::from_static(b"{\"include_usage\":true}");
    if head.include_usage == Some(true) {
        return false;
    }
    match head.stream_options {
        None => splice.insert("stream_options", OPTIONS),
        Some(options) if options.kind != Kind::Object => splice.replace(options.value, OPTIONS),
        Some(options) => match head.include_usage_place(body) {
            Some(place) => splice.replace(place, Bytes::from_static(b"true")),
            None => {
                let inside = options.value.start + 1;
                let is_empty = options.of(body)[1..].trim_ascii_start() == b"}";
                let field: &[u8] = if is_empty { b"\"include_usage\":true" } else { b"\"include_usage\":true," };
                splice.replace(Span { start: inside, end: inside }, Bytes::from_static(field));
            }
        },
    }
    true
}

/// Fields that follow one another are taken out as one, with the comma after them or, at the end
/// of the object, the one before.
fn push_removals(edits: &mut SmallVec<[(Span, Bytes); 4]>, removed: &[Field], body: &[u8]) {
    let mut fields = removed.iter().peekable();
    while let Some(first) = fields.next() {
        let mut start = first.start;
        let mut end = first.value.end;
        let followed = loop {
            let after = skip_space(body, end);
            if body[after as usize] != b',' {
                break false;
            }
            end = skip_space(body, after + 1);
            match fields.next_if(|next| next.start == end) {
                Some(next) => end = next.value.end,
                None => break true,
            }
        };
        if !followed {
            let before = body[..start as usize].trim_ascii_end();
            if before.ends_with(b",") {
                start = before.len() as u32 - 1;
            }
        }
        edits.push((Span { start, end }, Bytes::new()));
    }
}

fn skip_space(body: &[u8], at: u32) -> u32 {
    let rest = &body[at as usize..];
    at + (rest.len() - rest.trim_ascii_start().len()) as u32
}

fn fields_text(fields: &[(&'static str, Bytes)], after_others: bool) -> Bytes {
    let length: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut text = Vec::with_capacity(length);
    for (index, (name, value)) in fields.iter().enumerate() {
        if after_others || index > 0 {
            text.push(b',');
        }
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":");
        text.extend_from_slice(value);
    }
    Bytes::from(text)
}

impl Pieces {
    /// Adds a part at the end; one of no bytes is left out.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.length += part.len();
            self.parts.push(part);
        }
    }

    /// The length of the whole in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The parts in order; none is empty.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The parts as one, copied if there are several.
    pub fn into_bytes(self) -> Bytes {
        match self.parts.as_slice() {
            [part] => part.clone(),
            parts => Bytes::from(parts.concat()),
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(body: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(body);
        pieces
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = smallvec::IntoIter<[Bytes; 6]>;

    fn into_iter(self) -> Self::IntoIter {
        self.parts.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn outline(body: &[u8]) -> (Layout, Vec<(String, Field)>) {
        let mut found = Vec::new();
        let layout = json::fields(body, |key, field| {
            found.push((String::from_utf8(key.to_vec()).expect("text"), field));
        });
        (layout.expect("an object"), found)
    }

    fn edited(body: &str, edit: impl FnOnce(&mut Splice, &dyn Fn(&str) -> Field)) -> String {
        let body = Bytes::from(body.to_owned());
        let (layout, found) = outline(&body);
        let field = |name: &str| found.iter().find(|(key, _)| key == name).expect("a field").1;
        let mut splice = Splice::default();
        edit(&mut splice, &field);
        let pieces = splice.apply(&body, layout);
        assert_eq!(pieces.len(), pieces.parts().iter().map(Bytes::len).sum::<usize>());
        String::from_utf8(pieces.into_bytes().to_vec()).expect("text")
    }

    #[test]
    fn a_value_is_replaced_and_the_rest_is_shared() {
        let body = Bytes::from_static(br#"{ "a" : 1.00 , "model" : "x" , "b" : "\u0041" }"#);
        let (layout, found) = outline(&body);
        let mut splice = Splice::default();
        splice.replace(found[1].1.value, json_string("q\"\n"));
        let pieces = splice.apply(&body, layout);
        let [before, new, after] = pieces.parts() else { panic!("three parts") };
        assert_eq!((before.as_ptr(), &before[..]), (body.as_ptr(), &br#"{ "a" : 1.00 , "model" : "#[..]));
        assert_eq!(&new[..], br#""q\"\n""#);
        assert_eq!(after.as_ptr_range().end, body.as_ptr_range().end);
    }

    #[test]
    fn fields_go_with_their_commas() {
        let body = r#"{ "a" : 1 , "b":[2] ,"c":{} }"#;
        let cases: [(&[&str], &str); 8] = [
            (&[], body),
            (&["a"], r#"{ "b":[2] ,"c":{} }"#),
            (&["b"], r#"{ "a" : 1 , "c":{} }"#),
            (&["c"], r#"{ "a" : 1 , "b":[2]  }"#),
            (&["b", "a"], r#"{ "c":{} }"#),
            (&["a", "c"], r#"{ "b":[2]  }"#),
            (&["c", "b"], r#"{ "a" : 1  }"#),
            (&["a", "b", "c"], "{  }"),
        ];
        for (names, expected) in cases {
            let text = edited(body, |splice, field| names.iter().for_each(|name| splice.remove(field(name))));
            assert_eq!(text, expected, "without {names:?}");
        }
    }

    #[test]
    fn a_field_is_added_to_what_is_left() {
        let add = |splice: &mut Splice| splice.insert("z", Bytes::from_static(b"true"));
        assert_eq!(edited("{}", |splice, _| add(splice)), r#"{"z":true}"#);
        assert_eq!(edited(r#"{"a":1}"#, |splice, _| add(splice)), r#"{"a":1,"z":true}"#);
        let text = edited(r#"{"a":1}"#, |splice, field| {
            splice.remove(field("a"));
            add(splice);
            splice.insert("y", Bytes::from_static(b"0"));
        });
        assert_eq!(text, r#"{"z":true,"y":0}"#);
        let text = edited(r#"{"a":1,"b":2}"#, |splice, field| {
            splice.remove(field("b"));
            add(splice);
        });
        assert_eq!(text, r#"{"a":1,"z":true}"#);
    }

    #[test]
    fn a_stream_is_made_to_tell_its_usage_however_it_was_asked() {
        let cases = [
            ("", true),
            (r#","stream_options":null"#, true),
            (r#","stream_options":{}"#, true),
            (r#","stream_options" : { } "#, true),
            (r#","stream_options":{"x":[1]}"#, true),
            (r#","stream_options":{"include_usage":false,"x":1}"#, true),
            (r#","stream_options":{"x":1, "include_usage" : null}"#, true),
            (r#","stream_options":{"include_usage":true}"#, false),
        ];
        for (options, ours) in cases {
            let body = Bytes::from(format!(r#"{{"messages":[]{options},"z":1.0}}"#));
            let head = crate::head::read_head(crate::head::Operation::Chat, &body).expect("a request");
            let mut splice = Splice::default();
            assert_eq!(ask_for_usage(&mut splice, &head, &body), ours, "{options}");
            assert_eq!(splice.is_empty(), !ours);
            let mut expected: Value = serde_json::from_slice(&body).expect("valid");
            if !expected["stream_options"].is_object() {
                expected["stream_options"] = serde_json::json!({});
            }
            expected["stream_options"]["include_usage"] = Value::from(true);
            let edited = splice.apply(&body, head.layout).into_bytes();
            assert_eq!(serde_json::from_slice::<Value>(&edited).expect("valid"), expected, "{options}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Edit {
        Keep,
        Replace,
        Remove,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn editing_bytes_is_editing_the_document(
            edits in vec(prop_oneof![Just(Edit::Keep), Just(Edit::Replace), Just(Edit::Remove)], 0..7),
            gaps in vec("[ \n\r\t]{0,2}", 40),
            inserts in 0usize..3,
            text in ".{0,12}",
        ) {
            let mut gaps = gaps.iter().cycle();
            let mut gap = || gaps.next().expect("a cycle").as_str();
            let values = [r#""s,}""#, "1.50", "[1, {\"a\" :2}]", "{\"model\":\",\"}", "null"];
            let mut body = format!("{}{{{}", gap(), gap());
            for index in 0..edits.len() {
                let comma = if index > 0 { "," } else { "" };
                let parts = [comma, gap(), &format!("\"k{index}\""), gap(), ":", gap(), values[index % 5], gap()];
                body.push_str(&parts.concat());
            }
            body.push_str(&format!("}}{}", gap()));
            let mut expected: Map<String, Value> = serde_json::from_str(&body).expect("valid");
            let text_of = edited(&body, |splice, field| {
                for (index, edit) in edits.iter().enumerate().rev() {
                    let name = format!("k{index}");
                    match edit {
                        Edit::Keep => {}
                        Edit::Replace => {
                            splice.replace(field(&name).value, json_string(&text));
                            expected.insert(name, Value::from(text.as_str()));
                        }
                        Edit::Remove => {
                            splice.remove(field(&name));
                            expected.remove(&name);
                        }
                    }
                }
                for name in &["x", "y"][..inserts] {
                    splice.insert(name, json_string(&text));
                    expected.insert((*name).to_owned(), Value::from(text.as_str()));
                }
            });
            prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(&text_of).expect("valid"), expected);
        }
    }
}
