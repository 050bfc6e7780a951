//! The scanner takes exactly what another parser takes, and tells the same fields, elements and texts.

use std::ops::ControlFlow;

use serde_json::value::RawValue;
use tollgate_dialects::json;

use crate::document::{self, Fields};

/// # Panics
/// When it does not.
pub fn check(input: &[u8]) {
    assert_eq!(json::validate(input).is_ok(), document::is_json(input), "validate: {:?}", json::validate(input));
    check_fields(input);
    check_elements(input);
    check_text(input);
}

fn check_fields(input: &[u8]) {
    let mut told = Vec::new();
    let scanned = json::fields(input, |key, field| told.push((key.to_vec(), field)));
    assert_eq!(scanned.is_ok(), document::is_object(input), "fields: {scanned:?}");
    let Ok(layout) = scanned else { return };
    assert_eq!(layout.fields as usize, told.len());
    assert_eq!((input[layout.open as usize], input[layout.close as usize]), (b'{', b'}'));
    let Some(Fields(expected)) = Fields::of(input) else { return };
    assert_eq!(told.len(), expected.len());
    for ((key, field), (name, value)) in told.iter().zip(&expected) {
        assert_eq!((key.as_slice(), field.of(input)), (name.as_bytes(), value.get().as_bytes()));
        assert_eq!(input[field.start as usize], b'"');
        assert_eq!(field.text(input).map(|text| text.into_owned()), document::string(value));
        let [found] = json::find(input, [name]).expect("scanned before");
        assert_eq!(found.map(|field| field.of(input)), expected_last(&expected, name));
    }
}

fn expected_last<'t>(fields: &[(String, &'t RawValue)], name: &str) -> Option<&'t [u8]> {
    fields.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.get().as_bytes())
}

fn check_elements(input: &[u8]) {
    let mut told = Vec::new();
    let scanned = json::elements(input, |span, _| {
        told.push(span.of(input));
        ControlFlow::Continue(())
    });
    // What follows the array is not looked at, so only a whole text is compared.
    if !document::is_json(input) {
        return;
    }
    let expected: Option<Vec<&RawValue>> = serde_json::from_slice(input).ok();
    assert_eq!(scanned.is_ok(), expected.is_some(), "elements: {scanned:?}");
    if let Some(expected) = expected {
        assert_eq!(told, expected.iter().map(|value| value.get().as_bytes()).collect::<Vec<_>>());
        assert_eq!(json::is_empty_array(input), expected.is_empty());
        let texts: Vec<_> = expected.iter().filter_map(|value| document::string(value)).collect();
        assert_eq!(json::strings(input), texts);
    }
}

fn check_text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let quoted = json::quoted(text);
    assert_eq!(serde_json::from_slice::<String>(quoted.as_ref()).expect("a string"), text);
    assert_eq!(json::decode_quoted(quoted.as_ref()).expect("a string"), text);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    assert_eq!(json::unsigned(input), if digits { text.parse().ok() } else { None });
}
