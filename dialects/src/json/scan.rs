//! The pass over an object: every byte is checked once, the outermost fields are told.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::string::{self, Text};
use super::{Field, JsonError, Kind, Layout, MAX_DEPTH, SHORT, Scanned, Span, Visitor};

/// Scans one JSON object with white space around it, telling its fields to `visitor`.
///
/// Returns where the object opens and closes; `None` if the visitor broke off.
///
/// # Errors
/// The text is not JSON, or JSON but no object, or deeper than [`MAX_DEPTH`], or over 4 GiB.
pub fn scan_object<V: Visitor>(bytes: &[u8], visitor: &mut V) -> Scanned {
    if u32::try_from(bytes.len()).is_err() {
        return Err(error(0, "document over 4 GiB"));
    }
    let open = space(bytes, 0);
    match bytes.get(open) {
        Some(b'{') => {}
        None => return Err(error(open, "empty document")),
        Some(_) if bytes.starts_with(b"\xef\xbb\xbf") => return Err(error(0, "byte order mark")),
        Some(_) => return Err(error(open, "not an object")),
    }
    let Some(layout) = object(bytes, open, 0, visitor)? else { return Ok(None) };
    let at = space(bytes, layout.close as usize + 1);
    if at < bytes.len() {
        return Err(error(at, "trailing bytes after the object"));
    }
    Ok(Some(layout))
}

/// Scans the object that opens at `open`, within `outer` objects and arrays, telling its fields to `visitor`; spans are
/// of `bytes`, which are at most 4 GiB.
///
/// Returns where it opens and closes; `None` if the visitor broke off.
///
/// # Errors
/// There is no object, or it is deeper than [`MAX_DEPTH`].
pub fn object<V: Visitor>(bytes: &[u8], open: usize, outer: u32, visitor: &mut V) -> Scanned {
    if bytes.get(open) != Some(&b'{') {
        return Err(error(open, "not an object"));
    }
    if outer >= MAX_DEPTH {
        return Err(error(open, "nested too deeply"));
    }
    let depth = outer + 1;
    let mut fields = 0;
    let mut at = space(bytes, open + 1);
    if bytes.get(at) != Some(&b'}') {
        loop {
            let start = at;
            let text = key(bytes, at)?;
            let name = &bytes[start + 1..text.end];
            if name.len() <= SHORT {
                visitor.short(name, depth, true);
            }
            if text.veiled {
                visitor.veiled();
            }
            at = colon(bytes, text.end + 1)?;
            let name = resolve(name, text);
            let value_start = at;
            let inside = if bytes.get(at) == Some(&b'{') { visitor.inside(&name, bytes, at, depth) } else { None };
            let kind;
            (at, kind) = match inside {
                Some(inside) => match inside? {
                    Some(layout) => (layout.close as usize + 1, Kind::Object),
                    None => return Ok(None),
                },
                None => value(bytes, at, depth, visitor)?,
            };
            fields += 1;
            let field = Field { start: start as u32, value: Span::at(value_start, at), kind };
            if visitor.field(&name, field).is_break() {
                return Ok(None);
            }
            at = space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = space(bytes, at + 1),
                Some(b'}') => break,
                _ => return Err(error(at, "expected `,` or `}`")),
            }
        }
    }
    Ok(Some(Layout { open: open as u32, close: at as u32, fields }))
}

/// Checks one JSON value of any kind with white space around it.
///
/// # Errors
/// The text is not JSON, or deeper than [`MAX_DEPTH`], or over 4 GiB.
pub fn validate(bytes: &[u8]) -> Result<Kind, JsonError> {
    if u32::try_from(bytes.len()).is_err() {
        return Err(error(0, "document over 4 GiB"));
    }
    let mut nobody = |_: &[u8], _: Field| ControlFlow::Continue(());
    let (at, kind) = value(bytes, space(bytes, 0), 0, &mut nobody)?;
    let at = space(bytes, at);
    if at < bytes.len() { Err(error(at, "trailing bytes after the value")) } else { Ok(kind) }
}

#[cold]
pub(super) fn error(offset: usize, reason: &'static str) -> JsonError {
    JsonError { offset: u32::try_from(offset).unwrap_or(u32::MAX), reason }
}

/// The offset of the first byte from `at` that is not white space.
#[inline(always)]
pub(super) fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// A key with the escapes it may have resolved; one that names no text stays as it is written.
#[inline(always)]
fn resolve(name: &[u8], text: Text) -> Cow<'_, [u8]> {
    if text.plain { Cow::Borrowed(name) } else { resolve_escapes(name) }
}

#[inline(never)]
fn resolve_escapes(name: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', name).is_none() {
        return Cow::Borrowed(name);
    }
    match string::decode(name) {
        Some(Cow::Owned(name)) => Cow::Owned(name.into_bytes()),
        Some(Cow::Borrowed(_)) | None => Cow::Borrowed(name),
    }
}

#[inline(always)]
fn key(bytes: &[u8], at: usize) -> Result<Text, JsonError> {
    match bytes.get(at) {
        Some(b'"') => string::end(bytes, at + 1).ok_or_else(|| string::fault(bytes, at + 1)),
        _ => Err(error(at, "expected a key in quotes")),
    }
}

/// The offset of the value after a key that ends before `at`.
#[inline(always)]
fn colon(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let at = space(bytes, at);
    match bytes.get(at) {
        Some(b':') => Ok(space(bytes, at + 1)),
        _ => Err(error(at, "expected `:`")),
    }
}

/// Passes the value at `at`, within `outer` objects and arrays. Returns the offset after it.
///
/// Nesting is a bit per level (set: an object), so depth costs neither stack nor heap.
#[inline(always)]
pub(super) fn value<V: Visitor>(
    bytes: &[u8],
    mut at: usize,
    outer: u32,
    visitor: &mut V,
) -> Result<(usize, Kind), JsonError> {
    let mut objects: u128 = 0;
    let mut depth = outer;
    let mut outermost = None;
    loop {
        let kind = match bytes.get(at) {
            Some(b'"') => {
                let Some(text) = string::end(bytes, at + 1) else { return Err(string::fault(bytes, at + 1)) };
                if text.end - at - 1 <= SHORT {
                    visitor.short(&bytes[at + 1..text.end], depth, false);
                }
                if text.veiled {
                    visitor.veiled();
                }
                at = text.end + 1;
                Kind::String
            }
            Some(b'{') => {
                if depth == MAX_DEPTH {
                    return Err(error(at, "nested too deeply"));
                }
                outermost.get_or_insert(Kind::Object);
                depth += 1;
                objects = objects << 1 | 1;
                at = space(bytes, at + 1);
                if bytes.get(at) == Some(&b'}') {
                    depth -= 1;
                    objects >>= 1;
                    at += 1;
                    Kind::Object
                } else {
                    at = nested_key(bytes, at, depth, visitor)?;
                    continue;
                }
            }
            Some(b'[') => {
                if depth == MAX_DEPTH {
                    return Err(error(at, "nested too deeply"));
                }
                outermost.get_or_insert(Kind::Array);
                depth += 1;
                objects <<= 1;
                at = space(bytes, at + 1);
                if bytes.get(at) == Some(&b']') {
                    depth -= 1;
                    objects >>= 1;
                    at += 1;
                    Kind::Array
                } else {
                    continue;
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                at = number(bytes, at)?;
                Kind::Number
            }
            Some(b't') => {
                at = literal(bytes, at, b"true")?;
                Kind::True
            }
            Some(b'f') => {
                at = literal(bytes, at, b"false")?;
                Kind::False
            }
            Some(b'n') => {
                at = literal(bytes, at, b"null")?;
                Kind::Null
            }
            Some(_) => return Err(error(at, "expected a value")),
            None => return Err(error(at, "unexpected end")),
        };
        loop {
            if depth == outer {
                return Ok((at, outermost.unwrap_or(kind)));
            }
            at = space(bytes, at);
            match (bytes.get(at), objects & 1 == 1) {
                (Some(b','), true) => {
                    at = nested_key(bytes, space(bytes, at + 1), depth, visitor)?;
                    break;
                }
                (Some(b','), false) => {
                    at = space(bytes, at + 1);
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    depth -= 1;
                    objects >>= 1;
                    at += 1;
                }
                (None, _) => return Err(error(at, "unexpected end")),
                (Some(_), true) => return Err(error(at, "expected `,` or `}`")),
                (Some(_), false) => return Err(error(at, "expected `,` or `]`")),
            }
        }
    }
}

/// Passes a key and its colon; returns the offset of the value.
#[inline(always)]
fn nested_key<V: Visitor>(bytes: &[u8], at: usize, depth: u32, visitor: &mut V) -> Result<usize, JsonError> {
    let text = key(bytes, at)?;
    if text.end - at - 1 <= SHORT {
        visitor.short(&bytes[at + 1..text.end], depth, true);
    }
    if text.veiled {
        visitor.veiled();
    }
    colon(bytes, text.end + 1)
}

#[inline(always)]
fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, JsonError> {
    let end = at + word.len();
    if bytes.get(at..end) == Some(word) { Ok(end) } else { Err(error(at, "expected a value")) }
}

#[inline(always)]
fn number(bytes: &[u8], start: usize) -> Result<usize, JsonError> {
    let mut at = start + usize::from(bytes[start] == b'-');
    match bytes.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at = digits(bytes, at),
        _ => return Err(error(at, "expected a digit")),
    }
    if bytes.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = digits(bytes, fraction);
        if at == fraction {
            return Err(error(at, "expected a digit"));
        }
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let exponent = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(bytes, exponent);
        if at == exponent {
            return Err(error(at, "expected a digit"));
        }
    }
    Ok(at)
}

#[inline(always)]
fn digits(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    type Fields = Vec<(Vec<u8>, Value)>;

    fn scanned(text: &[u8]) -> Result<(Fields, Layout), JsonError> {
        let mut fields = Vec::new();
        let layout = scan_object(text, &mut |key: &[u8], field: Field| {
            fields.push((key.to_vec(), serde_json::from_slice(field.of(text)).expect("a value")));
            ControlFlow::Continue(())
        })?;
        Ok((fields, layout.expect("not broken off")))
    }

    /// What another parser says: it is UTF-8 and JSON. Pairs of surrogates are not grammar.
    fn is_json(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
    }

    fn begins_an_object(text: &[u8]) -> bool {
        text.get(space(text, 0)) == Some(&b'{')
    }

    #[test]
    fn what_is_not_an_object_says_where_and_why() {
        let cases: [(&[u8], u32, &str); 30] = [
            (b"", 0, "empty document"),
            (b"  \n", 3, "empty document"),
            (b"[]", 0, "not an object"),
            (b" null", 1, "not an object"),
            (b"\xef\xbb\xbf{}", 0, "byte order mark"),
            (b"{", 1, "expected a key in quotes"),
            (b"{,}", 1, "expected a key in quotes"),
            (b"{a:1}", 1, "expected a key in quotes"),
            (b"{'a':1}", 1, "expected a key in quotes"),
            (b"{\"a\"}", 4, "expected `:`"),
            (b"{\"a\":}", 5, "expected a value"),
            (b"{\"a\":", 5, "unexpected end"),
            (b"{\"a\":1", 6, "expected `,` or `}`"),
            (b"{\"a\":1 2}", 7, "expected `,` or `}`"),
            (b"{\"a\":1,}", 7, "expected a key in quotes"),
            (b"{\"a\":[1,]}", 8, "expected a value"),
            (b"{\"a\":[1}", 7, "expected `,` or `]`"),
            (b"{\"a\":{\"b\":1]}", 11, "expected `,` or `}`"),
            (b"{\"a\":[1", 7, "unexpected end"),
            (b"{\"a\":01}", 6, "expected `,` or `}`"),
            (b"{\"a\":-}", 6, "expected a digit"),
            (b"{\"a\":1.}", 7, "expected a digit"),
            (b"{\"a\":1e+}", 8, "expected a digit"),
            (b"{\"a\":+1}", 5, "expected a value"),
            (b"{\"a\":NaN}", 5, "expected a value"),
            (b"{\"a\":nul}", 5, "expected a value"),
            (b"{\"a\":tru", 5, "expected a value"),
            (b"{}x", 2, "trailing bytes after the object"),
            (b"{} {}", 3, "trailing bytes after the object"),
            (b"{\"a\":1}\0", 7, "trailing bytes after the object"),
        ];
        for (text, offset, reason) in cases {
            assert_eq!(scanned(text), Err(JsonError { offset, reason }), "{}", text.escape_ascii());
            assert!(!is_json(text) || !begins_an_object(text));
        }
    }

    #[test]
    fn fields_are_told_in_order_with_their_keys_resolved() {
        let text = br#" {"mod\u0065l" : "x", "a":[1,{"b":null}] ,"":{}, "longer than sixteen bytes": -1.5e3} "#;
        let (fields, layout) = scanned(text).expect("an object");
        let keys: Vec<_> = fields.iter().map(|(key, _)| key.as_slice()).collect();
        assert_eq!(keys, [&b"model"[..], b"a", b"", b"longer than sixteen bytes"]);
        assert_eq!(layout, Layout { open: 1, close: text.len() as u32 - 2, fields: 4 });
        let empty = scanned(b"{ }").expect("an object");
        assert_eq!(empty, (vec![], Layout { open: 0, close: 2, fields: 0 }));
    }

    #[test]
    fn a_value_is_of_the_kind_of_its_outside() {
        let text = br#"{"a":[{}],"b":{"c":[]},"d":"","e":0,"f":true,"g":false,"h":null,"i":[],"j":{}}"#;
        let mut kinds = Vec::new();
        let mut collect = |_: &[u8], field: Field| {
            kinds.push(field.kind);
            ControlFlow::Continue(())
        };
        scan_object(text, &mut collect).expect("an object");
        use Kind::{Array, False, Null, Number, Object, String, True};
        assert_eq!(kinds, [Array, Object, String, Number, True, False, Null, Array, Object]);
    }

    #[test]
    fn depth_is_limited_exactly() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(scanned(nested(MAX_DEPTH as usize).as_bytes()).is_ok());
        let error = scanned(nested(MAX_DEPTH as usize + 1).as_bytes()).expect_err("too deep");
        assert_eq!(error.reason, "nested too deeply");
        let objects = "{\"a\":".repeat(1_000_000);
        assert_eq!(scanned(objects.as_bytes()).expect_err("too deep").reason, "nested too deeply");
        let value = format!("{}{}", "[".repeat(MAX_DEPTH as usize), "]".repeat(MAX_DEPTH as usize));
        assert_eq!(validate(value.as_bytes()), Ok(Kind::Array));
    }

    #[test]
    fn short_strings_are_told_with_their_depth() {
        struct Words(Vec<(String, u32, bool)>);
        impl Visitor for Words {
            fn field(&mut self, _: &[u8], _: Field) -> ControlFlow<()> {
                ControlFlow::Continue(())
            }
            fn short(&mut self, text: &[u8], depth: u32, is_key: bool) {
                self.0.push((String::from_utf8_lossy(text).into_owned(), depth, is_key));
            }
        }
        let exactly = "x".repeat(SHORT);
        let longer = "y".repeat(SHORT + 1);
        let text = format!(r#"{{"a":"b","{longer}":["c",{{"d":"{exactly}","e":"{longer}"}}]}}"#);
        let mut words = Words(Vec::new());
        scan_object(text.as_bytes(), &mut words).expect("an object");
        let seen: Vec<_> = words.0.iter().map(|(text, depth, is_key)| (text.as_str(), *depth, *is_key)).collect();
        let expected =
            [("a", 1, true), ("b", 1, false), ("c", 2, false), ("d", 3, true), (&exactly, 3, false), ("e", 3, true)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_visitor_may_break_off() {
        let mut first = |key: &[u8], _: Field| {
            assert_eq!(key, b"a");
            ControlFlow::Break(())
        };
        assert_eq!(scan_object(b"{\"a\":1, broken", &mut first), Ok(None));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            ".{0,80}".prop_map(Value::from),
            Just(Value::from("a \"quoted\" \\ line\n\u{1f600}")),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                vec((".{0,20}", inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// Writes `value` with white space and escapes that depend on `noise` alone.
    fn written(value: &Value, noise: &mut impl FnMut() -> u8, out: &mut String) {
        let gap = |out: &mut String, noise: &mut dyn FnMut() -> u8| {
            out.push_str(["", "", " ", "\n", "\r\n\t"][usize::from(noise()) % 5]);
        };
        let string = |text: &str, out: &mut String, noise: &mut dyn FnMut() -> u8| {
            out.push('"');
            for character in text.chars() {
                if noise().is_multiple_of(8) || character == '"' || character == '\\' || character < ' ' {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04X}"));
                    }
                } else {
                    out.push(character);
                }
            }
            out.push('"');
        };
        gap(out, noise);
        match value {
            Value::Object(fields) => {
                out.push('{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    gap(out, noise);
                    string(key, out, noise);
                    gap(out, noise);
                    out.push(':');
                    written(value, noise, out);
                }
                gap(out, noise);
                out.push('}');
            }
            Value::Array(values) => {
                out.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    written(value, noise, out);
                }
                gap(out, noise);
                out.push(']');
            }
            Value::String(text) => string(text, out, noise),
            Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        }
        gap(out, noise);
    }

    fn text_of(value: &Value, seed: u64) -> String {
        let mut state = seed | 1;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        let mut out = String::new();
        written(value, &mut noise, &mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]

        #[test]
        fn every_document_is_read_as_another_parser_reads_it(
            fields in vec((".{0,24}", json()), 0..6),
            seed in any::<u64>(),
        ) {
            let document = Value::Object(fields.into_iter().collect());
            let text = text_of(&document, seed);
            let (fields, layout) = scanned(text.as_bytes()).expect("valid");
            prop_assert_eq!(layout.fields as usize, fields.len());
            let fields = fields.into_iter().map(|(key, value)| (String::from_utf8(key).expect("text"), value));
            prop_assert_eq!(Value::Object(fields.collect()), serde_json::from_str::<Value>(&text).expect("valid"));
        }

        #[test]
        fn a_damaged_document_is_judged_as_another_parser_judges_it(
            value in json(),
            seed in any::<u64>(),
            damages in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..40),
        ) {
            const TELLING: &[u8] = b"{}[]\":,\\ \n0123.eE+-tfnu\x00\x1f\x7f\xc3\xa9\xed\xa0\x80\xff";
            let whole = text_of(&Value::Object([("a".to_owned(), value)].into_iter().collect()), seed).into_bytes();
            for (place, byte, how) in damages {
                let mut text = whole.clone();
                let at = place.index(text.len());
                let byte = TELLING[usize::from(byte) % TELLING.len()];
                match how {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    _ => { text.remove(at); }
                }
                prop_assert_eq!(validate(&text).is_ok(), is_json(&text), "{}", text.escape_ascii());
                let object = is_json(&text) && begins_an_object(&text);
                prop_assert_eq!(scan_object(&text, &mut |_: &[u8], _: Field| ControlFlow::Continue(())).is_ok(), object);
                let cut = &whole[..at];
                prop_assert_eq!(validate(cut).is_ok(), is_json(cut), "{}", cut.escape_ascii());
            }
        }
    }
}
