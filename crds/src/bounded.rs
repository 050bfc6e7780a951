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

/// How Kubernetes writes quantities: a number, and a suffix or an exponent.
const QUANTITY: &str = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

/// Quantities by resource.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": QUANTITY },
    })
}

fn text_map(max_properties: u32, max_length: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": max_properties,
        "additionalProperties": { "type": "string", "maxLength": max_length },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_what_kubernetes_reads_as_such() {
        let pattern = regex::Regex::new(QUANTITY).expect("the pattern is a regular expression");
        let accepted = [
            "0", "1", "500m", "0.5", ".5", "1.", "+1", "-1", "64Mi", "1.5Gi", "2Ki", "1Ti", "1Pi", "1Ei", "1k", "1M",
            "1G", "1T", "1P", "1E", "100n", "100u", "1e3", "1E3", "1e-3", "1E+3", "12e6", "00012",
        ];
        for text in accepted {
            assert!(pattern.is_match(text), "`{text}`");
        }
        let refused = [
            "", "foo", "m", ".", "+", "1.2.3", "1 Gi", " 1", "1 ", "1gi", "1K", "1mi", "1KiB", "1Mib", "1e", "1e1.5",
            "0x10", "1,5", "1_000", "Mi", "1MM", "--1", "\u{661}",
        ];
        for text in refused {
            assert!(!pattern.is_match(text), "`{text}`");
        }
    }
}
