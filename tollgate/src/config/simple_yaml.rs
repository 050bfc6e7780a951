//! A second, small reader of YAML, there for one reason: a gateway with 10,000 keys is to start in a tenth of a second,
//! and the full reader takes longer than that. It knows the plain way to write a resource (mappings and lists by
//! indentation, flow collections on one line, quotes without escapes) and gives up on everything else, so that the full
//! reader stays the only one that judges and words what is wrong. Whatever it accepts, both read alike: the tests hold
//! the two against each other.

use serde::de::value::{Error, MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// A document, or a part of one. Scalars are as they were written, without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    Mapping(Vec<(&'a str, Node<'a>)>),
    List(Vec<Node<'a>>),
    Text(&'a str),
    /// Decimal digits, perhaps with a minus or a fraction.
    Number(&'a str),
    /// `true` or `false`.
    Bool(&'a str),
}

/// Deeper documents are left to the full reader, which has a limit of its own.
const DEEPEST: usize = 32;

/// Longer keys are left to the full reader: YAML stops looking for a colon after 1,024 characters.
const LONGEST_KEY: usize = 128;

/// Larger mappings are left to the full reader: keys are compared one by one.
const MOST_KEYS: usize = 64;

/// The document, where it is written in the plain way; `None` says nothing about whether it is YAML.
pub fn parse(text: &str) -> Option<Node<'_>> {
    if !text.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')) {
        return None;
    }
    let mut lines = Lines { rest: text, current: None };
    lines.advance();
    let document = lines.mapping(0, 0)?;
    lines.current.is_none().then_some(document)
}

/// A line that says something.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    /// Column of the first character, from 0.
    indent: usize,
    /// Without the spaces around it.
    text: &'a str,
}

/// The lines of a document that are neither empty nor comments.
struct Lines<'a> {
    /// Behind the current line.
    rest: &'a str,
    current: Option<Line<'a>>,
}

impl<'a> Lines<'a> {
    fn advance(&mut self) {
        self.current = None;
        while self.current.is_none() && !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            let text = line.trim_start_matches(' ');
            if !text.is_empty() && !text.starts_with('#') {
                self.current = Some(Line { indent: line.len() - text.len(), text: text.trim_end_matches(' ') });
            }
        }
    }

    fn current_at(&self, indent: usize) -> Option<&'a str> {
        self.current.filter(|line| line.indent == indent).map(|line| line.text)
    }

    /// The mapping whose keys begin at `indent`. Ends before the first line that is not one of its own.
    fn mapping(&mut self, indent: usize, depth: usize) -> Option<Node<'a>> {
        let mut entries = Vec::new();
        while let Some(line) = self.current_at(indent) {
            let (key, rest) = split_key(line)?;
            let value = if is_blank(rest) {
                self.advance();
                self.nested(indent, depth + 1)?
            } else {
                let value = inline(rest.trim_start_matches(' '), depth + 1)?;
                self.advance();
                value
            };
            push_entry(&mut entries, key, value)?;
        }
        (!entries.is_empty()).then_some(Node::Mapping(entries))
    }

    /// What stands below a key that begins at `indent`.
    fn nested(&mut self, indent: usize, depth: usize) -> Option<Node<'a>> {
        if depth > DEEPEST {
            return None;
        }
        let line = self.current?;
        if line.text.starts_with("- ") {
            // Lists may stand as far left as the key that they belong to.
            (line.indent >= indent).then(|| self.list(line.indent, depth))?
        } else {
            (line.indent > indent).then(|| self.mapping(line.indent, depth))?
        }
    }

    /// The list whose dashes stand at `indent`.
    fn list(&mut self, indent: usize, depth: usize) -> Option<Node<'a>> {
        let mut items = Vec::new();
        while let Some(behind) = self.current_at(indent).and_then(|line| line.strip_prefix("- ")) {
            let text = behind.trim_start_matches(' ');
            if split_key(text).is_some() {
                // A mapping that begins on the line of its dash.
                let inner = indent + 2 + (behind.len() - text.len());
                self.current = Some(Line { indent: inner, text });
                items.push(self.nested(indent, depth + 1)?);
            } else {
                items.push(inline(text, depth + 1)?);
                self.advance();
            }
        }
        Some(Node::List(items))
    }
}

/// A value that fills the rest of its line.
fn inline(text: &str, depth: usize) -> Option<Node<'_>> {
    let (value, rest) = value(text, depth)?;
    is_blank(rest).then_some(value)
}

/// Nothing, or a comment that is set off.
fn is_blank(rest: &str) -> bool {
    rest.is_empty() || (rest.starts_with(' ') && matches!(rest.trim_start_matches(' ').as_bytes(), [] | [b'#', ..]))
}

/// A value and what stands behind it on the line.
fn value(text: &str, depth: usize) -> Option<(Node<'_>, &str)> {
    if depth > DEEPEST {
        return None;
    }
    match text.as_bytes().first()? {
        b'{' => flow_mapping(&text[1..], depth),
        b'[' => flow_list(&text[1..], depth),
        b'"' => {
            let (inside, rest) = text[1..].split_once('"')?;
            (!inside.contains('\\')).then_some((Node::Text(inside), rest))
        }
        // `''` stands for a quote: what follows the first one is then neither a comma nor the end.
        b'\'' => text[1..].split_once('\'').map(|(inside, rest)| (Node::Text(inside), rest)),
        _ => {
            let (plain, rest) = text.split_at(plain_length(text.as_bytes()));
            Some((scalar(plain)?, rest))
        }
    }
}

fn flow_mapping(mut text: &str, depth: usize) -> Option<(Node<'_>, &str)> {
    let mut entries = Vec::new();
    if let Some(rest) = text.trim_start_matches(' ').strip_prefix('}') {
        return Some((Node::Mapping(entries), rest));
    }
    loop {
        let (key, rest) = split_key(text.trim_start_matches(' '))?;
        let (value, rest) = value(rest.trim_start_matches(' '), depth + 1)?;
        push_entry(&mut entries, key, value)?;
        let rest = rest.trim_start_matches(' ');
        match rest.as_bytes().first()? {
            b',' => text = &rest[1..],
            b'}' => return Some((Node::Mapping(entries), &rest[1..])),
            _ => return None,
        }
    }
}

fn flow_list(mut text: &str, depth: usize) -> Option<(Node<'_>, &str)> {
    let mut items = Vec::new();
    if let Some(rest) = text.trim_start_matches(' ').strip_prefix(']') {
        return Some((Node::List(items), rest));
    }
    loop {
        let (value, rest) = value(text.trim_start_matches(' '), depth + 1)?;
        items.push(value);
        let rest = rest.trim_start_matches(' ');
        match rest.as_bytes().first()? {
            b',' => text = &rest[1..],
            b']' => return Some((Node::List(items), &rest[1..])),
            _ => return None,
        }
    }
}

fn push_entry<'a>(entries: &mut Vec<(&'a str, Node<'a>)>, key: &'a str, value: Node<'a>) -> Option<()> {
    if entries.len() >= MOST_KEYS || entries.iter().any(|(other, _)| *other == key) {
        return None;
    }
    entries.push((key, value));
    Some(())
}

/// A key without quotes, and what stands behind its colon: nothing, or a space and more.
fn split_key(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-');
    let length = bytes.iter().position(|byte| !is_inner(byte))?;
    let (key, rest) = text.split_at(length);
    let rest = rest.strip_prefix(':')?;
    let is_key = length <= LONGEST_KEY && bytes[0].is_ascii_alphabetic() && !is_word_of_yaml(key);
    (is_key && (rest.is_empty() || rest.starts_with(' '))).then_some((key, rest))
}

/// Bytes of the scalar without quotes that the text begins with.
fn plain_length(text: &[u8]) -> usize {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-@+*=%$();".contains(&byte);
    let mut length = 0;
    while let Some(&byte) = text.get(length) {
        // Before a space a colon ends a key, behind one `#` begins a comment; both are plain between letters.
        let is_joint = matches!(byte, b' ' | b':')
            && length > 0
            && text.get(length + 1).is_some_and(|next| next.is_ascii_alphanumeric() || *next == b'/');
        if !is_inner(byte) && !is_joint {
            break;
        }
        length += 1;
    }
    length
}

/// What a scalar without quotes stands for, where that is beyond doubt.
fn scalar(text: &str) -> Option<Node<'_>> {
    match text.as_bytes() {
        [b'0'..=b'9', ..] => {
            if is_number(text) {
                return Some(Node::Number(text));
            }
            // Other ways to write numbers: 0x10, 007, 1e3.
            let is_odd = text.len() > 1 && text.starts_with('0') || text.parse::<f64>().is_ok();
            (!is_odd).then_some(Node::Text(text))
        }
        [b'-', rest @ ..] => (!rest.starts_with(b"0") && is_number(&text[1..])).then_some(Node::Number(text)),
        [b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'_', ..] => match text {
            "true" | "false" => Some(Node::Bool(text)),
            _ if is_word_of_yaml(text) => None,
            _ => Some(Node::Text(text)),
        },
        _ => None,
    }
}

/// `7`, `1.50`: at most 18 digits, so that they fit an `i64`, and none of them a needless zero in front.
fn is_number(text: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    text.len() <= 18 && is_digits(whole) && is_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

fn is_word_of_yaml(text: &str) -> bool {
    matches!(text.len(), 4 | 5) && ["true", "false", "null"].iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Types ask as they ask the full reader: a text takes any scalar as it was written, and a structure is a mapping.
impl<'de> Deserializer<'de> for &Node<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Node::Mapping(entries) => {
                visitor.visit_map(MapDeserializer::new(entries.iter().map(|(key, value)| (*key, value))))
            }
            Node::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Node::Text(text) => visitor.visit_borrowed_str(text),
            Node::Bool(text) => visitor.visit_bool(*text == "true"),
            Node::Number(text) if text.contains('.') => visitor.visit_f64(text.parse().map_err(Error::custom)?),
            Node::Number(text) if text.starts_with('-') => visitor.visit_i64(text.parse().map_err(Error::custom)?),
            Node::Number(text) => visitor.visit_u64(text.parse().map_err(Error::custom)?),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Node::Text(text) | Node::Number(text) | Node::Bool(text) => visitor.visit_borrowed_str(text),
            Node::Mapping(_) | Node::List(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Node::Mapping(_) => self.deserialize_any(visitor),
            _ => Err(Error::custom("not a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Node::Text(text) => visitor.visit_enum(StrDeserializer::<Error>::new(text)),
            _ => Err(Error::custom("not the name of a variant")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
    }
}

impl<'de> IntoDeserializer<'de, Error> for &Node<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;
    use crate::config::document::split;

    const SAMPLES: [&str; 2] =
        [include_str!("../../../crds/tests/samples.yaml"), include_str!("../../../crds/tests/every_field.yaml")];

    const KEY: &str = r#"apiVersion: tollgate.dev/v1alpha1
kind: VirtualKey
metadata: {name: key-00000, namespace: bench}
spec:
  teamRef: {name: team-00}
  models: [model-000, model-001, "swap-*"]
  budget: {limit: "1000000", period: {calendar: Month}, enforcement: Hard}
  limits: # of this key
    requestsPerMinute: 1000
    perModel:
    - model: model-000
      tokensPerMinute: 20
    - {model: 'model-001', tokensPerMinute: 2.5}
  disabled: false
"#;

    fn full<T: DeserializeOwned>(text: &str) -> Result<T, String> {
        yaml_serde::from_str(text).map_err(|error| error.to_string())
    }

    fn agree_as<T: DeserializeOwned + PartialEq + Debug>(node: &Node<'_>, text: &str) {
        if let Ok(simple) = T::deserialize(node) {
            assert_eq!(Ok(simple), full::<T>(text), "{text}");
        }
    }

    /// Whether the text was accepted; panics where the full reader reads it otherwise.
    fn agree(text: &str) -> bool {
        #[derive(Debug, Deserialize, PartialEq)]
        #[serde(deny_unknown_fields)]
        struct Named {
            name: String,
        }
        #[derive(Debug, Deserialize, PartialEq)]
        enum Choice {
            Month,
        }
        let Some(node) = parse(text) else { return false };
        assert_eq!(Value::deserialize(&node).map_err(|error| error.to_string()), full::<Value>(text), "{text}");
        agree_as::<BTreeMap<String, String>>(&node, text);
        agree_as::<BTreeMap<String, Option<i32>>>(&node, text);
        agree_as::<BTreeMap<String, f64>>(&node, text);
        agree_as::<BTreeMap<String, bool>>(&node, text);
        agree_as::<BTreeMap<String, Vec<String>>>(&node, text);
        agree_as::<BTreeMap<String, BTreeMap<String, String>>>(&node, text);
        agree_as::<BTreeMap<String, Named>>(&node, text);
        agree_as::<BTreeMap<String, Choice>>(&node, text);
        agree_as::<BTreeMap<String, ()>>(&node, text);
        agree_as::<BTreeMap<String, (String, String)>>(&node, text);
        true
    }

    #[test]
    fn the_plain_way_to_write_resources_is_read() {
        assert!(agree(KEY));
        for text in [
            "a: b",
            "a: 1\nb: -2\nc: 1.50\nd: 0\ne: 0.25\nf: true\n",
            "a: b c\nb: gpt-4:free\nc: http://10.0.0.7:8000/v1\nd: 2026-01-01T00:00:00Z\ne: 10m\nf: 1.2.3\n",
            "a:\n  - b\n  - c: 1\n    d: 2\n  -   e: {f: [g, {h: i}]}\nj:\n- k\n",
            "# one\na: b # two\n\n  # three\nc:   \n    d: 'e # f'   \n",
            "a: {}\nb: []\nc: {d: [], e: \"\", f: ''}\n",
            "a: ['x', \"y, z\", w]\nb: {c: \"d: e\"}\n",
        ] {
            assert!(agree(text), "{text}");
        }
    }

    #[test]
    fn most_of_our_samples_are_read() {
        let parts: Vec<_> = SAMPLES.iter().flat_map(|text| split(text)).collect();
        let read = parts.iter().filter(|part| agree(part.text)).count();
        assert!(read * 10 >= parts.len() * 8, "{read} of {}", parts.len());
    }

    #[test]
    fn what_could_mean_something_else_is_left_to_the_full_reader() {
        let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
        let wide: String = (0..100).map(|number| format!("k{number}: v\n")).collect();
        for text in [
            "",
            "a",
            "- a",
            "{a: b}",
            " a: b",
            "a:",
            "a: ~",
            "a: null",
            "a: True",
            "a: &b c",
            "a: *b",
            "a: !b c",
            "a: |\n  b\n",
            "a: >\n  b\n",
            "a: b\n  c\n",
            "a: b\n c: d\n",
            "a:\n    b: c\n  d: e\n",
            "a: [b,\n  c]\n",
            "a: [b: c]",
            "a: {b}",
            "a: {b:c}",
            "a: [b,]",
            "a: [b] c",
            "a: 'it''s'",
            "a: \"b\\n\"",
            "a: \"b\n  c\"",
            "a: b: c",
            "a: b#c",
            "a: 0x10",
            "a: 010",
            "a: 1e3",
            "a: 1.",
            "a: -0",
            "a: +1",
            "a: .inf",
            "a: 1234567890123456789012",
            "a: b\na: c\n",
            "a: {b: c, b: d}",
            "<<: {a: b}",
            "? a\n: b\n",
            "a: - b",
            "a:\n- b\n  - c\n",
            "a:\n  - - b\n",
            "a:\tb",
            "a: b\r\n",
            "a: \u{e9}",
            "a: @b",
            "a: `b`",
            "a: %b",
            "%YAML 1.2\n",
            "a: b\n...\n",
            &deep,
            &wide,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    /// Words with and without a meaning of their own.
    const WORDS: [&str; 44] = [
        "a",
        "b",
        "name",
        "x: y",
        "true",
        "false",
        "False",
        "null",
        "yes",
        "no",
        "0",
        "7",
        "-7",
        "-0",
        "1.50",
        "1.",
        "1.5.2",
        "007",
        "0.5",
        "0x1f",
        "1_000",
        "1e3",
        "1:30",
        "12:30:45",
        "2026-01-01",
        "inf",
        "nan",
        "infinity",
        "Month",
        "a b",
        "a:b",
        "a/b",
        "\"q\"",
        "'q'",
        "\"7\"",
        "{a: b}",
        "{}",
        "[]",
        "[a, 1]",
        "{a: {b: [c]}}",
        "{name: 3}",
        "[a, [b]]",
        "gpt-4:free",
        "e-mail@example.com",
    ];

    fn line() -> impl Strategy<Value = String> {
        let key = select(&["a", "b", "name", "c.d/e", "f-g", "- a", "- name", "-"][..]);
        let end = select(&["", "", "", " ", " # c", "#", ",", ":"][..]);
        (0usize..4, key, proptest::option::weighted(0.7, select(&WORDS[..])), end).prop_map(
            |(depth, key, value, end)| {
                let indent = "  ".repeat(depth);
                match value {
                    Some(value) if key == "-" => format!("{indent}- {value}{end}\n"),
                    Some(value) => format!("{indent}{key}: {value}{end}\n"),
                    None => format!("{indent}{key}:{end}\n"),
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn both_readers_read_generated_documents_alike(lines in proptest::collection::vec(line(), 1..6)) {
            agree(&lines.concat());
        }

        #[test]
        fn both_readers_read_a_scalar_alike(text in "[a-fnx0-9_./@+*=%$();: -]{1,8}") {
            agree(&format!("a: {text}\n"));
            agree(&format!("a: [{text}]\n"));
            agree(&format!("a: {{b: {text}}}\n"));
            agree(&format!("{text}: a\n"));
        }

        #[test]
        fn both_readers_read_damaged_documents_alike(
            sample in any::<Index>(),
            edits in proptest::collection::vec(
                (any::<Index>(), 0usize..3, select(&b"{}[]:,-#\"' \nab01.*&!|>?%@~\\"[..])),
                1..4,
            ),
        ) {
            let mut texts: Vec<&str> = SAMPLES.iter().flat_map(|text| split(text)).map(|part| part.text).collect();
            texts.push(KEY);
            let mut bytes = sample.get(&texts).as_bytes().to_vec();
            for (at, kind, byte) in edits {
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes.insert(at, byte),
                    1 => bytes[at] = byte,
                    _ => drop(bytes.remove(at)),
                }
            }
            agree(&String::from_utf8_lossy(&bytes));
        }
    }
}
