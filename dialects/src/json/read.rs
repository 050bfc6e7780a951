//! Small readers on top of the scan, for the parts of a body that are looked into.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::scan::{error, scan_object, space, value};
use super::{Field, JsonError, Kind, Layout, Span, string};

/// Tells every field of `object` to `each`, keys resolved. Spans are of `object`.
///
/// # Errors
/// As [`scan_object`].
#[inline]
pub fn fields(object: &[u8], mut each: impl FnMut(&[u8], Field)) -> Result<Layout, JsonError> {
    let layout = scan_object(object, &mut |key: &[u8], field: Field| {
        each(key, field);
        ControlFlow::Continue(())
    })?;
    Ok(layout.expect("nothing breaks it off"))
}

/// The first field of that name, looking no further than it.
///
/// # Errors
/// As [`scan_object`], for what was looked at.
#[inline]
pub fn field_named(object: &[u8], name: &str) -> Result<Option<Field>, JsonError> {
    let mut found = None;
    scan_object(object, &mut |key: &[u8], field: Field| {
        if key == name.as_bytes() {
            found = Some(field);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The fields of those names, in that order; of a repeated one the last.
///
/// # Errors
/// As [`scan_object`].
pub fn find<const N: usize>(object: &[u8], names: [&str; N]) -> Result<[Option<Field>; N], JsonError> {
    let mut found = [None; N];
    fields(object, |key, field| {
        if let Some(index) = names.iter().position(|name| name.as_bytes() == key) {
            found[index] = Some(field);
        }
    })?;
    Ok(found)
}

/// Tells every element of `array` to `each`. Spans are of `array`.
///
/// # Errors
/// The text is no JSON array.
pub fn elements(array: &[u8], mut each: impl FnMut(Span, Kind) -> ControlFlow<()>) -> Result<(), JsonError> {
    if u32::try_from(array.len()).is_err() {
        return Err(error(0, "document over 4 GiB"));
    }
    let mut at = space(array, 0);
    if array.get(at) != Some(&b'[') {
        return Err(error(at, "not an array"));
    }
    let mut nobody = |_: &[u8], _: Field| ControlFlow::Continue(());
    at = space(array, at + 1);
    if array.get(at) == Some(&b']') {
        return Ok(());
    }
    loop {
        let start = at;
        let kind;
        (at, kind) = value(array, at, 1, &mut nobody)?;
        if each(Span::at(start, at), kind).is_break() {
            return Ok(());
        }
        at = space(array, at);
        match array.get(at) {
            Some(b',') => at = space(array, at + 1),
            Some(b']') => return Ok(()),
            _ => return Err(error(at, "expected `,` or `]`")),
        }
    }
}

/// Whether `array` is an array without elements.
pub fn is_empty_array(array: &[u8]) -> bool {
    let open = space(array, 0);
    array.get(open) == Some(&b'[') && array.get(space(array, open + 1)) == Some(&b']')
}

/// The strings among the elements of `array`, decoded; of anything else none.
pub fn strings(array: &[u8]) -> Vec<Cow<'_, str>> {
    let mut texts = Vec::new();
    // What follows a fault is left out; the array was checked with the body it is of.
    let _ = elements(array, |span, _| {
        texts.extend(string::decode_quoted(span.of(array)));
        ControlFlow::Continue(())
    });
    texts
}

/// The number that `text` writes in plain digits; `None` for a sign, a fraction, an exponent, or over 2^64.
#[inline]
pub fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_in_the_order_asked() {
        let object = br#"{"b":2,"a":{"b":3},"b":4}"#;
        let [a, b, c] = find(object, ["a", "b", "c"]).expect("an object");
        assert_eq!(a.map(|field| field.of(object)), Some(&br#"{"b":3}"#[..]));
        assert_eq!(b.map(|field| field.of(object)), Some(&b"4"[..]), "the last of two");
        assert_eq!(c, None);
        let first = field_named(b"{\"a\":1,\"b\":2, broken", "b").expect("well-formed so far");
        assert_eq!(first.map(|field| field.value), Some(Span { start: 11, end: 12 }));
    }

    #[test]
    fn elements_are_told_one_by_one() {
        let array = br#" [ 1, "a\n" ,[2,3], {"x":[]}] "#;
        let mut seen = Vec::new();
        elements(array, |span, kind| {
            seen.push((span.of(array), kind));
            ControlFlow::Continue(())
        })
        .expect("an array");
        let expected: [(&[u8], Kind); 4] = [
            (b"1", Kind::Number),
            (br#""a\n""#, Kind::String),
            (b"[2,3]", Kind::Array),
            (br#"{"x":[]}"#, Kind::Object),
        ];
        assert_eq!(seen, expected);
        assert_eq!(strings(array), ["a\n"]);
        assert_eq!(strings(b"{}"), [""; 0]);
        assert!(elements(b"[1,]", |_, _| ControlFlow::Continue(())).is_err());
        assert!(is_empty_array(b" [ ] ") && !is_empty_array(b"[1]") && !is_empty_array(b"{}"));
    }

    #[test]
    fn only_plain_digits_are_a_count() {
        for (text, number) in [("0", Some(0)), ("18446744073709551615", Some(u64::MAX)), ("007", Some(7))] {
            assert_eq!(unsigned(text.as_bytes()), number, "{text}");
        }
        for text in ["", "-1", "1.0", "1e3", "18446744073709551616", " 1", "+1", "\"1\"", "null"] {
            assert_eq!(unsigned(text.as_bytes()), None, "{text}");
        }
    }
}
