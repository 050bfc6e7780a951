//! The names of what a rate counts. The schema lists them; a name that it does not list is kept, so that it becomes a
//! finding about one rate.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The name of a unit. Example: `InputToken`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceUnit(String);

/// Every unit that the schema accepts.
pub const PRICE_UNITS: [&str; 36] = [
    "InputToken",
    "OutputToken",
    "ReasoningToken",
    "CacheReadToken",
    "ExplicitCacheReadToken",
    "CacheReadAudioToken",
    "CacheReadImageToken",
    "CacheWriteToken",
    "CacheWrite1hToken",
    "CacheWrite12hToken",
    "CacheWriteAudioToken",
    "InputAudioToken",
    "OutputAudioToken",
    "InputImageToken",
    "OutputImageToken",
    "InputVideoToken",
    "OutputVideoToken",
    "CitationToken",
    "InputCharacter",
    "OutputCharacter",
    "InputSecond",
    "OutputSecond",
    "InputAudioSecond",
    "InputVideoSecond",
    "OutputVideoSecond",
    "InputImage",
    "OutputImage",
    "InputPixel",
    "OutputPixel",
    "Request",
    "Query",
    "WebSearch",
    "MapsGroundingQuery",
    "CodeInterpreterSession",
    "OcrPage",
    "AnnotationPage",
];

impl PriceUnit {
    pub fn new(name: impl Into<String>) -> PriceUnit {
        PriceUnit(name.into())
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the schema knows it.
    pub fn is_known(&self) -> bool {
        PRICE_UNITS.contains(&self.as_str())
    }
}

impl JsonSchema for PriceUnit {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PriceUnit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": PRICE_UNITS.as_slice() })
    }
}
