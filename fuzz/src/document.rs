//! JSON read by another parser than ours, to compare with. Knows nothing of the code under test but its depth limit.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tollgate_dialects::json::MAX_DEPTH;

/// The fields of an object in their order, repeated ones included, keys decoded and values as written.
#[derive(Debug)]
pub(crate) struct Fields<'t>(pub Vec<(String, &'t RawValue)>);

/// Whether `text` is one JSON value of no more than the depth we take.
pub(crate) fn is_json(text: &[u8]) -> bool {
    // The parser leaves the encoding of strings that it passes over unchecked, so it is given text.
    std::str::from_utf8(text)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok() && depth(text) <= MAX_DEPTH)
}

/// Whether `text` is one JSON object of no more than the depth we take.
pub(crate) fn is_object(text: &[u8]) -> bool {
    is_json(text) && text.trim_ascii_start().first() == Some(&b'{')
}

/// How many objects and arrays are open at once in a text that is JSON.
fn depth(text: &str) -> u32 {
    let (mut open, mut deepest, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' if !in_string => open -= 1,
            _ => {}
        }
    }
    deepest
}

impl<'t> Fields<'t> {
    /// `None` if the text is no object, or has a key whose escapes name no character.
    pub(crate) fn of(text: &'t [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The values of that key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'t RawValue> + 'a {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The value of that key; of a repeated one the last.
    pub(crate) fn get(&self, key: &str) -> Option<&'t RawValue> {
        self.all(key).last()
    }

    /// Keys and values as text, but for the fields of that key.
    pub(crate) fn without(&self, left_out: &[&str]) -> Vec<(&str, &'t str)> {
        let kept = self.0.iter().filter(|(key, _)| !left_out.contains(&key.as_str()));
        kept.map(|(key, value)| (key.as_str(), value.get())).collect()
    }
}

impl<'de: 't, 't> Deserialize<'de> for Fields<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// The text of a JSON string; `None` for anything else, or when its escapes name no character.
pub(crate) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}
