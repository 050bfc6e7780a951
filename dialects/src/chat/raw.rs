//! JSON kept as the text it came in.
//!
//! Schemas, cache marks and unknown fields cross Tollgate with their key order and number text
//! untouched, because providers cache prompts by their bytes. Never interpreted here.

use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

/// One valid JSON value, as text. Equal when the text is equal.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Raw(Box<RawValue>);

impl Raw {
    /// Takes `text` as one JSON value; white space around it is left out.
    ///
    /// # Errors
    /// When `text` is not one valid JSON value.
    pub fn parse(text: impl Into<String>) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text.into()).map(Self)
    }

    pub(crate) fn of(value: &RawValue) -> Self {
        Self(value.to_owned())
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Raw {}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}
