//! What still counts of a text that cannot be read as a whole. The last good state stays in use, but where fields are
//! bounds, each of them that can still be read applies as it is now written: a broken edit keeps a key working, but no
//! authority that was taken from it.

use serde_json::{Map, Value};

/// `kept`, the last good object, with the bounds of `written`, its text now. `is_readable`: whether an object of the
/// kind has such a shape.
pub fn with_bounds(kind: &str, kept: &Value, written: &Value, is_readable: &dyn Fn(&Value) -> bool) -> Value {
    let mut merged = kept.clone();
    if !matches!(kind, "VirtualKey" | "Team" | "Budget") {
        return merged;
    }
    let Some(fields) = written.get("spec").and_then(Value::as_object) else { return merged };
    for (field, value) in fields {
        if set(&mut merged, field, None, value, is_readable) {
            continue;
        }
        // What is meant to end authority ends it, also where it cannot be read.
        match field.as_str() {
            "disabled" | "blocked" => {
                set(&mut merged, field, None, &Value::Bool(true), is_readable);
            }
            "expiresAt" => {
                set(&mut merged, field, None, &Value::String(value.to_string()), is_readable);
            }
            _ => {
                for (part, value) in value.as_object().into_iter().flatten() {
                    set(&mut merged, field, Some(part), value, is_readable);
                }
            }
        }
    }
    merged
}

/// Sets a field of the spec, or a part of it. False, and nothing is changed, where the result could not be read.
fn set(
    object: &mut Value,
    field: &str,
    part: Option<&str>,
    value: &Value,
    is_readable: &dyn Fn(&Value) -> bool,
) -> bool {
    let mut changed = object.clone();
    let Some(spec) = changed.get_mut("spec").and_then(Value::as_object_mut) else { return false };
    match part {
        None => {
            // Each is the key, and a key has one.
            match field {
                "keyHash" => spec.remove("secret"),
                "secret" => spec.remove("keyHash"),
                _ => None,
            };
            spec.insert(field.to_owned(), value.clone());
        }
        Some(part) => {
            let whole = spec.entry(field).or_insert_with(|| Value::Object(Map::new()));
            let Some(whole) = whole.as_object_mut() else { return false };
            whole.insert(part.to_owned(), value.clone());
        }
    }
    let readable = is_readable(&changed);
    if readable {
        *object = changed;
    }
    readable
}
