//! A YAML document in which numbers keep their text, so that `5e-07` never passes through a float on its way to a price.
//! Knows nothing of LiteLLM.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use yaml_serde::Value;

/// A part of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Boolean(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the order of the document.
    Map(Vec<(String, Node)>),
    /// Something with a tag of its own, which nothing here reads.
    Tagged,
}

impl Node {
    /// Reads the one document of a text. Anchors are followed and merge keys (`<<`) merged.
    ///
    /// # Errors
    /// The parser's message, with line and column where it knows them.
    pub fn parse(text: &str) -> Result<Node, String> {
        let shape: Value = yaml_serde::from_str(text).map_err(|error| error.to_string())?;
        let deserializer = yaml_serde::Deserializer::from_str(text);
        let mut node = Shaped(&shape).deserialize(deserializer).map_err(|error| error.to_string())?;
        node.merge();
        Ok(node)
    }

    /// What it is, for texts that say what was expected instead.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null => "nothing",
            Node::Boolean(_) => "a boolean",
            Node::Number(_) => "a number",
            Node::Text(_) => "text",
            Node::List(_) => "a list",
            Node::Map(_) => "a map",
            Node::Tagged => "a value with a tag",
        }
    }

    /// As JSON, for what is handed on as it is.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Node::Null | Node::Tagged => serde_json::Value::Null,
            Node::Boolean(value) => (*value).into(),
            Node::Number(text) => json_number(text),
            Node::Text(text) => text.clone().into(),
            Node::List(items) => items.iter().map(Node::to_json).collect(),
            Node::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect())
            }
        }
    }

    /// What `<<` brings comes first in line and gives way to what is written beside it.
    fn merge(&mut self) {
        match self {
            Node::List(items) => items.iter_mut().for_each(Node::merge),
            Node::Map(entries) => {
                entries.iter_mut().for_each(|(_, value)| value.merge());
                let Some(at) = entries.iter().position(|(key, _)| key == "<<") else { return };
                let (_, brought) = entries.remove(at);
                let maps = if let Node::List(maps) = brought { maps } else { vec![brought] };
                for map in maps {
                    let Node::Map(more) = map else { continue };
                    for (key, value) in more {
                        if entries.iter().all(|(present, _)| *present != key) {
                            entries.push((key, value));
                        }
                    }
                }
            }
            Node::Null | Node::Boolean(_) | Node::Number(_) | Node::Text(_) | Node::Tagged => {}
        }
    }
}

/// Whole numbers stay whole; what JSON has no number for (`.inf`, `0x10` aside) stays text.
fn json_number(text: &str) -> serde_json::Value {
    let plain = text.replace('_', "");
    if let Ok(number) = plain.parse::<i64>() {
        return number.into();
    }
    if let Some(number) = plain.strip_prefix("0x").and_then(|digits| i64::from_str_radix(digits, 16).ok()) {
        return number.into();
    }
    match plain.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
        Some(number) => number.into(),
        None => text.into(),
    }
}

/// A second reading, led by what the first found: only it can ask for a number's text.
struct Shaped<'a>(&'a Value);

impl<'de> DeserializeSeed<'de> for Shaped<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Value::Null => IgnoredAny::deserialize(deserializer).map(|_| Node::Null),
            Value::Tagged(_) => IgnoredAny::deserialize(deserializer).map(|_| Node::Tagged),
            Value::Bool(value) => IgnoredAny::deserialize(deserializer).map(|_| Node::Boolean(*value)),
            Value::Number(_) => String::deserialize(deserializer).map(Node::Number),
            Value::String(_) => String::deserialize(deserializer).map(Node::Text),
            Value::Sequence(items) => deserializer.deserialize_seq(ListVisitor(items)),
            Value::Mapping(entries) => deserializer.deserialize_map(MapVisitor(entries)),
        }
    }
}

struct ListVisitor<'a>(&'a [Value]);

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::with_capacity(self.0.len());
        for shape in self.0 {
            items.extend(access.next_element_seed(Shaped(shape))?);
        }
        // Lets the parser see the end of the list.
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::List(items))
    }
}

struct MapVisitor<'a>(&'a yaml_serde::Mapping);

impl<'de> Visitor<'de> for MapVisitor<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::with_capacity(self.0.len());
        for (key, shape) in self.0 {
            if matches!(key, Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_)) {
                return Err(A::Error::custom("a key of a map must be text"));
            }
            let Some(key) = access.next_key::<String>()? else { break };
            entries.push((key, access.next_value_seed(Shaped(shape))?));
        }
        while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_text() {
        let node = Node::parse("a: 5e-07\nb: 0.10\nc: [1, 2.50]\nd: '7'\ne: true\nf:\ng: yes\n").unwrap();
        let number = |text: &str| Node::Number(text.to_owned());
        let expected = [
            ("a", number("5e-07")),
            ("b", number("0.10")),
            ("c", Node::List(vec![number("1"), number("2.50")])),
            ("d", Node::Text("7".to_owned())),
            ("e", Node::Boolean(true)),
            ("f", Node::Null),
            ("g", Node::Text("yes".to_owned())),
        ];
        assert_eq!(node, Node::Map(expected.map(|(key, value)| (key.to_owned(), value)).to_vec()));
    }

    #[test]
    fn anchors_are_followed_and_merge_keys_merged() {
        let node = Node::parse("a: &base {x: 1, y: 2}\nb: {<<: *base, y: 3}\nc: *base\n").unwrap();
        let expected = serde_json::json!({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}});
        assert_eq!(node.to_json(), expected);
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        for text in ["a: [", "a: b: c", "a: 1\na: 2", "\t- x", "? [a]\n: b\n", "*x", "a: 1\n---\nb: 2\n"] {
            assert!(!Node::parse(text).unwrap_err().is_empty(), "{text}");
        }
        let bomb = (1..30).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
            let references = vec![format!("*a{}", n - 1); 9].join(",");
            format!("{text}a{n}: &a{n} [{references}]\n")
        });
        assert!(Node::parse(&bomb).is_err());
    }

    #[test]
    fn json_keeps_whole_numbers_whole() {
        assert_eq!(json_number("12"), serde_json::json!(12));
        assert_eq!(json_number("0x10"), serde_json::json!(16));
        assert_eq!(json_number("0.2"), serde_json::json!(0.2));
        assert_eq!(json_number(".inf"), serde_json::json!(".inf"));
    }
}
