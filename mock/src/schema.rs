//! An instance of a JSON schema: the smallest simple value that satisfies it. Covers what tool parameters and
//! structured outputs use; keywords it does not know are ignored. Pure and deterministic.

use serde_json::{Map, Value, json};

/// Deeper schemas are recursive; optional parts end here.
const DEEPEST: usize = 16;

/// Makes an instance of `schema`.
pub(crate) fn instance(schema: &Value) -> Value {
    Maker { root: schema }.make(schema, "value", 0)
}

struct Maker<'a> {
    root: &'a Value,
}

impl Maker<'_> {
    fn make(&self, schema: &Value, name: &str, depth: usize) -> Value {
        if depth > DEEPEST {
            return Value::Null;
        }
        if let Some(pointer) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            return match self.root.pointer(pointer) {
                Some(target) => self.make(target, name, depth + 1),
                None => Value::Null,
            };
        }
        for fixed in ["const", "default"] {
            if let Some(value) = schema.get(fixed) {
                return value.clone();
            }
        }
        if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
            return first.clone();
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(first) = schema[choice].as_array().and_then(|schemas| schemas.first()) {
                return self.make(first, name, depth + 1);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let mut whole = Map::new();
            for part in parts {
                if let Value::Object(fields) = self.make(part, name, depth + 1) {
                    whole.extend(fields);
                }
            }
            return Value::Object(whole);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => {
                let count = schema["minItems"].as_u64().unwrap_or(1).min(100);
                let count = count.min(schema["maxItems"].as_u64().unwrap_or(count));
                (0..count).map(|_| self.make(&schema["items"], name, depth + 1)).collect()
            }
            "integer" => json!(number(schema).round() as i64),
            "number" => json!(number(schema)),
            "boolean" => json!(true),
            "null" => Value::Null,
            _ => json!(string(schema, name)),
        }
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            // Optional fields stop first, so that recursive schemas end.
            if depth < DEEPEST / 4 || required.contains(&name.as_str()) {
                fields.insert(name.clone(), self.make(property, name, depth + 1));
            }
        }
        Value::Object(fields)
    }
}

/// The schema's type; of several the first that is not null, of none what its keywords imply.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn number(schema: &Value) -> f64 {
    let least = schema["minimum"].as_f64().or_else(|| schema["exclusiveMinimum"].as_f64().map(|least| least + 1.0));
    let most = schema["maximum"].as_f64().or_else(|| schema["exclusiveMaximum"].as_f64().map(|most| most - 1.0));
    let value = 1.0_f64.max(least.unwrap_or(f64::MIN)).min(most.unwrap_or(f64::MAX));
    match schema["multipleOf"].as_f64() {
        Some(step) if step > 0.0 => (value / step).ceil() * step,
        _ => value,
    }
}

fn string(schema: &Value, name: &str) -> String {
    let text = match schema["format"].as_str() {
        Some("date-time") => "2026-01-01T00:00:00Z",
        Some("date") => "2026-01-01",
        Some("time") => "00:00:00Z",
        Some("email") => "mock@example.com",
        Some("uri") => "https://example.com/",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        Some("ipv4") => "192.0.2.1",
        _ => name,
    };
    let least = schema["minLength"].as_u64().unwrap_or(0).min(10_000) as usize;
    let most = schema["maxLength"].as_u64().map_or(usize::MAX, |most| most as usize);
    text.chars().chain(std::iter::repeat_n('x', least.saturating_sub(text.chars().count()))).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_schemas_are_satisfied() {
        let schema = json!({
            "type": "object",
            "required": ["city", "days"],
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 3},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 2},
                "share": {"type": "number", "maximum": 0.5},
                "note": {"type": ["null", "string"]},
                "place": {"$ref": "#/$defs/place"},
            },
            "$defs": {"place": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}},
        });
        assert_eq!(
            instance(&schema),
            json!({
                "city": "city", "days": 3, "unit": "celsius", "tags": ["ta", "ta"], "share": 0.5, "note": "note",
                "place": true,
            })
        );
    }

    #[test]
    fn a_recursive_schema_ends() {
        let schema = json!({
            "type": "object",
            "properties": {"child": {"$ref": "#"}, "name": {"type": "string"}},
            "required": ["name"],
        });
        let made = instance(&schema);
        assert_eq!(made["name"], "name");
        assert_eq!(made["child"]["name"], "name");
    }
}
