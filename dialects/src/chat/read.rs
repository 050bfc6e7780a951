//! Reading JSON one level at a time, with the path of what is read, so that a wrong field can be
//! named to whom sent it.
//!
//! `null` reads as absent, the last of equal keys wins, and nesting costs no stack: a value is
//! text until someone looks into it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::raw::Raw;

/// What is wrong with a body, for a 400 in the client's dialect or for the log of a bad upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// Public and actionable; holds no content of the body but names and indexes.
    pub message: String,
    /// The path of the field, such as `messages[0].content[1].type`; `request_body` when the whole
    /// body is not JSON.
    pub param: Option<String>,
}

impl DecodeError {
    pub(crate) fn at(path: &str, problem: impl fmt::Display) -> Self {
        Self { message: format!("`{path}` {problem}"), param: Some(path.to_owned()) }
    }

    pub(crate) fn body(problem: impl fmt::Display) -> Self {
        Self { message: format!("the body {problem}"), param: Some("request_body".to_owned()) }
    }
}

/// One JSON value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    raw: &'a RawValue,
    path: String,
}

/// The fields of one object that nobody has taken yet, in their order.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: String,
    fields: Vec<(String, &'a RawValue)>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(raw: &'a RawValue, path: impl Into<String>) -> Self {
        Self { raw, path: path.into() }
    }

    pub(crate) fn text(&self) -> &'a str {
        self.raw.get()
    }

    pub(crate) fn raw(&self) -> Raw {
        Raw::of(self.raw)
    }

    pub(crate) fn is_string(&self) -> bool {
        self.text().starts_with('"')
    }

    pub(crate) fn is_number(&self) -> bool {
        self.text().starts_with(|first: char| first == '-' || first.is_ascii_digit())
    }

    pub(crate) fn is_object(&self) -> bool {
        self.text().starts_with('{')
    }

    pub(crate) fn is_array(&self) -> bool {
        self.text().starts_with('[')
    }

    pub(crate) fn string(&self) -> Result<String, DecodeError> {
        if !self.is_string() {
            return Err(self.wrong("must be a string"));
        }
        serde_json::from_str(self.text()).map_err(|_| self.wrong("must be valid Unicode text"))
    }

    pub(crate) fn bool(&self) -> Result<bool, DecodeError> {
        serde_json::from_str(self.text()).map_err(|_| self.wrong("must be true or false"))
    }

    pub(crate) fn number(&self) -> Result<Number, DecodeError> {
        serde_json::from_str(self.text()).map_err(|_| self.wrong("must be a number"))
    }

    /// A count. Some clients and servers write counts as `12.0`, which is taken as 12.
    pub(crate) fn u64(&self) -> Result<u64, DecodeError> {
        let problem = "must be a whole number that is not negative";
        let number = self.number().map_err(|_| self.wrong(problem))?;
        if let Some(count) = number.as_u64() {
            return Ok(count);
        }
        match number.as_f64() {
            // 2^53: the last float up to which whole numbers are exact.
            Some(float) if (0.0..=9_007_199_254_740_992.0).contains(&float) && float.fract() == 0.0 => Ok(float as u64),
            _ => Err(self.wrong(problem)),
        }
    }

    pub(crate) fn array(&self) -> Result<Vec<Node<'a>>, DecodeError> {
        if !self.is_array() {
            return Err(self.wrong("must be an array"));
        }
        let items: Vec<&'a RawValue> = serde_json::from_str(self.text()).map_err(|_| self.wrong("must be an array"))?;
        let nodes = items.into_iter().enumerate();
        Ok(nodes.map(|(index, raw)| Node::new(raw, format!("{}[{index}]", self.path))).collect())
    }

    pub(crate) fn fields(&self) -> Result<Fields<'a>, DecodeError> {
        if !self.is_object() {
            return Err(self.wrong("must be an object"));
        }
        let Pairs(fields) = serde_json::from_str(self.text()).map_err(|_| self.wrong("must be an object"))?;
        Ok(Fields { path: self.path.clone(), fields })
    }

    pub(crate) fn wrong(&self, problem: impl fmt::Display) -> DecodeError {
        DecodeError::at(&self.path, problem)
    }
}

impl<'a> Fields<'a> {
    /// The top level of a body.
    pub(crate) fn of_body(body: &'a [u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(body).map_err(|_| DecodeError::body("is not valid UTF-8"))?;
        Self::of_text(text)
    }

    pub(crate) fn of_text(text: &'a str) -> Result<Self, DecodeError> {
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|error| DecodeError::body(format_args!("is not valid JSON: {error}")))?;
        if !raw.get().starts_with('{') {
            return Err(DecodeError::body("must be a JSON object"));
        }
        Node::new(raw, "").fields()
    }

    /// The path of `key` in this object.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes `key` out; `None` when it is absent or `null`.
    pub(crate) fn take(&mut self, key: &str) -> Option<Node<'a>> {
        let mut found = None;
        self.fields.retain(|(name, raw)| {
            let hit = name == key;
            if hit {
                found = Some(*raw);
            }
            !hit
        });
        found.filter(|raw| raw.get() != "null").map(|raw| Node::new(raw, self.path_of(key)))
    }

    pub(crate) fn need(&mut self, key: &str) -> Result<Node<'a>, DecodeError> {
        self.take(key).ok_or_else(|| DecodeError::at(&self.path_of(key), "is required"))
    }

    pub(crate) fn take_string(&mut self, key: &str) -> Result<Option<String>, DecodeError> {
        self.take(key).map(|node| node.string()).transpose()
    }

    pub(crate) fn need_string(&mut self, key: &str) -> Result<String, DecodeError> {
        self.need(key)?.string()
    }

    pub(crate) fn take_bool(&mut self, key: &str) -> Result<Option<bool>, DecodeError> {
        self.take(key).map(|node| node.bool()).transpose()
    }

    pub(crate) fn take_u64(&mut self, key: &str) -> Result<Option<u64>, DecodeError> {
        self.take(key).map(|node| node.u64()).transpose()
    }

    pub(crate) fn take_number(&mut self, key: &str) -> Result<Option<Number>, DecodeError> {
        self.take(key).map(|node| node.number()).transpose()
    }

    pub(crate) fn take_fields(&mut self, key: &str) -> Result<Option<Fields<'a>>, DecodeError> {
        self.take(key).map(|node| node.fields()).transpose()
    }

    pub(crate) fn need_fields(&mut self, key: &str) -> Result<Fields<'a>, DecodeError> {
        self.need(key)?.fields()
    }

    pub(crate) fn take_array(&mut self, key: &str) -> Result<Vec<Node<'a>>, DecodeError> {
        Ok(self.take(key).map(|node| node.array()).transpose()?.unwrap_or_default())
    }

    pub(crate) fn take_raw(&mut self, key: &str) -> Option<Raw> {
        self.take(key).map(|node| node.raw())
    }

    /// The object under `key`, if it is one.
    pub(crate) fn lenient_fields(&mut self, key: &str) -> Option<Fields<'a>> {
        self.take(key).and_then(|node| node.fields().ok())
    }

    /// The string under `key`, if it is one.
    pub(crate) fn lenient_string(&mut self, key: &str) -> Option<String> {
        self.take(key).and_then(|node| node.string().ok())
    }

    /// What nobody took and is not `null`, in its order.
    pub(crate) fn rest(self) -> Vec<(String, Raw)> {
        let known = self.fields.into_iter().filter(|(_, raw)| raw.get() != "null");
        known.map(|(name, raw)| (name, Raw::of(raw))).collect()
    }
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_absent_and_the_last_of_equal_keys_wins() {
        let mut fields = Fields::of_body(br#"{"a":1,"b":null,"a":2,"z":1e400}"#).unwrap();
        assert_eq!(fields.take_u64("a").unwrap(), Some(2));
        assert!(fields.take("b").is_none());
        assert_eq!(fields.rest(), vec![("z".to_owned(), Raw::parse("1e400").unwrap())]);
    }

    #[test]
    fn a_wrong_field_is_named_by_its_path() {
        let mut fields = Fields::of_body(br#"{"messages":[{"role":3}]}"#).unwrap();
        let messages = fields.take_array("messages").unwrap();
        let error = messages[0].fields().unwrap().need_string("role").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].role"));
        assert_eq!(error.message, "`messages[0].role` must be a string");
    }

    #[test]
    fn deep_nesting_and_bad_utf8_are_refused_or_read_without_a_crash() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert!(Fields::of_body(deep.as_bytes()).is_ok());
        let broken = "[".repeat(200_000);
        assert!(Fields::of_body(broken.as_bytes()).is_err());
        assert_eq!(Fields::of_body(b"{\"a\":\"\xff\"}").unwrap_err().message, "the body is not valid UTF-8");
    }

    #[test]
    fn counts_may_be_written_as_whole_floats_only() {
        let mut fields = Fields::of_body(br#"{"a":12.0,"b":1.5,"c":-1,"d":1e300}"#).unwrap();
        assert_eq!(fields.take_u64("a").unwrap(), Some(12));
        for key in ["b", "c", "d"] {
            assert!(fields.take_u64(key).is_err(), "{key}");
        }
    }
}
