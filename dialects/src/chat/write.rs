//! Building JSON in a chosen key order, with kept text (`Raw`) inside.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Number;

use super::raw::Raw;

/// A JSON value to be written.
#[derive(Clone, Debug)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Raw(Cow<'a, Raw>),
    Array(Vec<Json<'a>>),
    Object(Members<'a>),
}

/// The members of an object, in writing order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Members<'a> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An object that starts with its `type`.
    pub(crate) fn typed(name: &'static str) -> Self {
        Self::new().with("type", name)
    }

    pub(crate) fn with(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) -> Self {
        self.push(key, value);
        self
    }

    pub(crate) fn maybe(self, key: &'static str, value: Option<impl Into<Json<'a>>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    pub(crate) fn push(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) {
        self.0.push((key.into(), value.into()));
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out);
        out
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, self).expect("every key is a string and a vector takes all bytes");
    }

    /// Writes this as one `data:` line of an event stream. A kept text may hold line breaks between
    /// its tokens, never inside strings; as spaces they mean the same and do not end the line.
    pub(crate) fn write_data_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        let start = out.len();
        self.write(out);
        for byte in &mut out[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.extend_from_slice(b"\n\n");
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::String(value) => serializer.serialize_str(value),
            Self::Raw(value) => value.serialize(serializer),
            Self::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Object(members) => members.serialize(serializer),
        }
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl From<bool> for Json<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Json<'_> {
    fn from(value: u64) -> Self {
        Self::Number(value.into())
    }
}

impl From<u32> for Json<'_> {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<i64> for Json<'_> {
    fn from(value: i64) -> Self {
        Self::Number(value.into())
    }
}

impl From<Number> for Json<'_> {
    fn from(value: Number) -> Self {
        Self::Number(value)
    }
}

impl<'a> From<&'a str> for Json<'a> {
    fn from(value: &'a str) -> Self {
        Self::String(Cow::Borrowed(value))
    }
}

impl<'a> From<&'a String> for Json<'a> {
    fn from(value: &'a String) -> Self {
        Self::String(Cow::Borrowed(value))
    }
}

impl From<String> for Json<'_> {
    fn from(value: String) -> Self {
        Self::String(Cow::Owned(value))
    }
}

impl<'a> From<Cow<'a, str>> for Json<'a> {
    fn from(value: Cow<'a, str>) -> Self {
        Self::String(value)
    }
}

impl<'a> From<&'a Raw> for Json<'a> {
    fn from(value: &'a Raw) -> Self {
        Self::Raw(Cow::Borrowed(value))
    }
}

impl From<Raw> for Json<'_> {
    fn from(value: Raw) -> Self {
        Self::Raw(Cow::Owned(value))
    }
}

impl<'a> From<Members<'a>> for Json<'a> {
    fn from(value: Members<'a>) -> Self {
        Self::Object(value)
    }
}

impl<'a, T: Into<Json<'a>>> From<Vec<T>> for Json<'a> {
    fn from(value: Vec<T>) -> Self {
        Self::Array(value.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_raw_text_is_kept() {
        let raw = Raw::parse(r#"{"z":1.50,"a":1e400}"#).unwrap();
        let members = Members::typed("x").with("raw", &raw).maybe("no", None::<bool>).with("n", 1u64);
        assert_eq!(members.to_bytes(), br#"{"type":"x","raw":{"z":1.50,"a":1e400},"n":1}"#);
    }

    #[test]
    fn a_data_line_is_one_line_whatever_the_raw_text_holds() {
        let raw = Raw::parse("{\n\"a\"\r\n: \"x\\n\"}").unwrap();
        let mut out = Vec::new();
        Members::new().with("raw", raw).write_data_line(&mut out);
        assert_eq!(out, b"data: {\"raw\":{ \"a\"  : \"x\\n\"}}\n\n");
    }
}
