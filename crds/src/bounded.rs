//! Schemas of maps, which attributes cannot bound: how many entries, how long their values. An unbounded map or string
//! makes an API server refuse the CEL rules around it for their estimated cost.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Labels and label selectors: values up to 63 characters.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    text_map(64, 63)
}

/// Annotations and metadata.
pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    text_map(64, 1024)
}

/// Model names by model name.
pub(crate) fn model_aliases(_: &mut SchemaGenerator) -> Schema {
    text_map(64, 253)
}

/// A JSON object that we pass on without knowing its fields: the one place where anything goes.
pub(crate) fn free_form_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 64, "x-kubernetes-preserve-unknown-fields": true })
}

fn text_map(max_properties: u32, max_length: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": max_properties,
        "additionalProperties": { "type": "string", "maxLength": max_length },
    })
}
