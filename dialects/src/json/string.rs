//! JSON strings: finding their end, decoding their escapes, and writing them.

use std::borrow::Cow;

use super::JsonError;
use super::lanes::{any_stop, first_mark, stops};

/// How many times sixteen bytes are looked at before going on by 64.
const NEAR_LOOKS: usize = 3;

/// What a string may have: bytes that are not ASCII, and `\uXXXX`.
const WIDE: u32 = 1;
const NUMBERED: u32 = 2;

/// A string whose end was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    /// Offset of the closing quote.
    pub end: usize,
    /// Known to have no escapes. `false` says nothing.
    pub plain: bool,
    /// Some escape stands for a character of words ([`spelled_out`]).
    pub veiled: bool,
}

/// Finds the end of the string whose content begins at `start`; `None` if it has none or is not
/// valid (see [`fault`]).
#[inline(always)]
pub(super) fn end(bytes: &[u8], start: usize) -> Option<Text> {
    // Most keys and many values are short: one look finds their end.
    let mut at = start;
    if let Some(chunk) = bytes.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
        let first = first_mark(chunk);
        match chunk.get(first) {
            Some(b'"') => return Some(Text { end: start + first, plain: true, veiled: false }),
            Some(_) => {}
            None => at += 16,
        }
    }
    let (end, numbered) = end_beyond(bytes, start, at)?;
    Some(Text { end, plain: false, veiled: numbered && is_veiled(&bytes[start..end]) })
}

/// The end of a string that is plain ASCII from `start` to `at`, and whether it has a `\uXXXX`.
#[inline(never)]
fn end_beyond(bytes: &[u8], start: usize, mut at: usize) -> Option<(usize, bool)> {
    for _ in 0..NEAR_LOOKS {
        let rest = bytes.get(at..)?;
        let first = match rest.first_chunk::<16>() {
            Some(chunk) => first_mark(chunk),
            None => first_mark(&filled_up(rest)),
        };
        if first < 16 {
            if rest.get(first) == Some(&b'"') {
                return Some((at + first, false));
            }
            break;
        }
        at += 16;
    }
    // In one word: this loop is short of registers.
    let mut seen = 0;
    loop {
        let rest = bytes.get(at..)?;
        let filled;
        let chunk = match rest.first_chunk::<64>() {
            Some(chunk) => chunk,
            None => {
                filled = filled_up(rest);
                &filled
            }
        };
        let (any, not_ascii) = any_stop(chunk);
        seen |= u32::from(not_ascii) * WIDE;
        if !any {
            at += 64;
            continue;
        }
        let mut marks = stops(chunk);
        let chunk_end = at + 64;
        at = loop {
            if marks == 0 {
                break chunk_end;
            }
            let mark = at + marks.trailing_zeros() as usize;
            match bytes.get(mark)? {
                b'"' => {
                    let valid = seen & WIDE == 0 || simdutf8::basic::from_utf8(&bytes[start..mark]).is_ok();
                    return valid.then_some((mark, seen & NUMBERED != 0));
                }
                b'\\' => {
                    let next = after_escape(bytes, mark, &mut seen)?;
                    if next >= chunk_end {
                        break next;
                    }
                    marks &= u64::MAX << (next - at);
                }
                _ => return None,
            }
        };
    }
}

/// The last bytes of a text, filled up with zeros, which stop like the control characters they are.
#[inline(always)]
fn filled_up<const N: usize>(rest: &[u8]) -> [u8; N] {
    let mut chunk = [0; N];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// The offset after the escape whose backslash is at `at`. [`NUMBERED`] is `seen` where it is a `\uXXXX`.
#[inline(always)]
fn after_escape(bytes: &[u8], at: usize, seen: &mut u32) -> Option<usize> {
    match bytes.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => {
            *seen |= NUMBERED;
            bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 6)
        }
        _ => None,
    }
}

/// The character of a `\uXXXX`, if words are made of such: letters, digits and what joins them. No encoder escapes these.
fn of_words(escape: &[u8]) -> Option<u8> {
    let [high, low] = *escape.strip_prefix(b"\\u00")? else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = (digit(high)? << 4 | digit(low)?) as u8;
    (byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte)).then_some(byte)
}

/// Whether some escape of a string's content stands for a character of words.
#[inline(never)]
fn is_veiled(content: &[u8]) -> bool {
    let escapes = memchr::memchr_iter(b'\\', content);
    let mut after = 0;
    for at in escapes {
        if at < after {
            continue;
        }
        if content.get(at..at + 6).is_some_and(|escape| of_words(escape).is_some()) {
            return true;
        }
        // What is escaped may be a backslash.
        after = at + 2;
    }
    false
}

/// The same JSON with no escape in the place of a character of words, so that words are found as they are. `json` has
/// backslashes only in strings, and is valid.
pub fn spelled_out(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let used = match rest.get(..6).and_then(of_words) {
            Some(byte) => {
                out.push(byte);
                6
            }
            // What is escaped may be a backslash.
            None => {
                let escape = &rest[..rest.len().min(2)];
                out.extend_from_slice(escape);
                escape.len()
            }
        };
        rest = &rest[used..];
    }
    out.extend_from_slice(rest);
    out
}

/// What is wrong with the string whose content begins at `start`, of which [`end`] found no end.
#[cold]
pub(super) fn fault(bytes: &[u8], start: usize) -> JsonError {
    let mut at = start;
    let error = |offset: usize, reason| JsonError { offset: offset as u32, reason };
    loop {
        match bytes.get(at) {
            None => return error(at, "unterminated string"),
            Some(b'"') => break,
            Some(b'\\') => match after_escape(bytes, at, &mut 0) {
                Some(next) => at = next,
                None if at + 1 >= bytes.len() => return error(at, "unterminated string"),
                None => return error(at, "invalid escape in a string"),
            },
            Some(0..0x20) => return error(at, "control character in a string"),
            Some(_) => at += 1,
        }
    }
    let valid = std::str::from_utf8(&bytes[start..at]).map_or_else(|error| error.valid_up_to(), str::len);
    error(start + valid, "invalid UTF-8")
}

/// The text of a string's content (between the quotes), borrowed if it has no escapes. `None` if
/// an escape names half a surrogate pair, or the content is not valid.
pub fn decode(content: &[u8]) -> Option<Cow<'_, str>> {
    match memchr::memchr(b'\\', content) {
        None => std::str::from_utf8(content).ok().map(Cow::Borrowed),
        Some(_) => decode_escapes(content).map(Cow::Owned),
    }
}

/// [`decode`], for a string with its quotes; `None` also if it has none.
pub fn decode_quoted(string: &[u8]) -> Option<Cow<'_, str>> {
    decode(string.strip_prefix(b"\"")?.strip_suffix(b"\"")?)
}

#[cold]
fn decode_escapes(content: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.push_str(std::str::from_utf8(&rest[..at]).ok()?);
        let (character, used) = match rest.get(at + 1)? {
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'u' => decode_code_point(&rest[at..])?,
            b @ (b'"' | b'\\' | b'/') => (char::from(*b), 2),
            _ => return None,
        };
        text.push(character);
        rest = &rest[at + used..];
    }
    text.push_str(std::str::from_utf8(rest).ok()?);
    Some(text)
}

/// The character of a `\uXXXX`, or of a pair of them, and how many bytes it takes.
fn decode_code_point(escape: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
    };
    match unit(0)? {
        high @ 0xd800..0xdc00 => match unit(6)? {
            low @ 0xdc00..0xe000 => Some((char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?, 12)),
            _ => None,
        },
        single => Some((char::from_u32(single)?, 6)),
    }
}

/// `text` as a JSON string, with quotes.
pub fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// Appends `text` as a JSON string, with quotes.
pub fn push_quoted(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    // Names, mostly.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end_of(text: &[u8]) -> Option<usize> {
        end(text, 1).map(|text| text.end)
    }

    #[test]
    fn a_string_ends_at_its_quote_wherever_that_stands() {
        for length in 0..200 {
            for escape in [&b""[..], b"\\\"", b"\\\\", b"\\u00e9", "é".as_bytes()] {
                for after in 0..70 {
                    let mut text = vec![b'"'];
                    text.resize(1 + length, b'a');
                    text.extend_from_slice(escape);
                    let quote = text.len();
                    text.push(b'"');
                    text.resize(quote + 1 + after, b'"');
                    assert_eq!(end_of(&text), Some(quote), "{length} {escape:?} {after}");
                }
            }
        }
    }

    #[test]
    fn a_broken_string_says_where_and_why() {
        let cases: [(&[u8], u32, &str); 9] = [
            (b"\"", 1, "unterminated string"),
            (b"\"abc", 4, "unterminated string"),
            (b"\"abc\\", 4, "unterminated string"),
            (b"\"a\\\"", 4, "unterminated string"),
            (b"\"a\nb\"", 2, "control character in a string"),
            (b"\"a\\x\"", 2, "invalid escape in a string"),
            (b"\"a\\u12g4\"", 2, "invalid escape in a string"),
            (b"\"a\xff\"", 2, "invalid UTF-8"),
            (b"\"a\xed\xa0\x80\"", 2, "invalid UTF-8"),
        ];
        for (text, offset, reason) in cases {
            assert_eq!(end_of(text), None, "{text:?}");
            assert_eq!(fault(text, 1), JsonError { offset, reason }, "{text:?}");
        }
    }

    #[test]
    fn only_escapes_of_words_are_a_veil_and_are_taken_away() {
        for (text, plain) in [
            (r#""im\u0061ge\u005Furl""#, r#""image_url""#),
            (r#""a long text that ends so: \u0077eb_search""#, r#""a long text that ends so: web_search""#),
            (r#""\u003cb\u003e \u0026 \u0022 \u0027 \u00e9 \ud83d\ude00 \u0000 \n \/""#, ""),
            (r#""a Windows path: C:\\u0061 and \\\\u0062""#, ""),
            (r#""\\\u0061""#, r#""\\a""#),
            (r#""""#, ""),
        ] {
            let expected = if plain.is_empty() { text } else { plain };
            let found = end(text.as_bytes(), 1).expect("a string");
            assert_eq!(found.veiled, !plain.is_empty(), "{text}");
            let spelled = spelled_out(text.as_bytes());
            assert_eq!(String::from_utf8_lossy(&spelled), expected);
            let value = |text: &[u8]| serde_json::from_slice::<String>(text).expect("valid");
            assert_eq!(value(&spelled), value(text.as_bytes()));
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        for content in [&b"\\ud800"[..], b"\\ud800x", b"\\ud800\\u0041", b"\\udc00", b"\\ud800\\ud800"] {
            assert_eq!(decode(content), None, "{content:?}");
        }
        assert_eq!(decode(b"\\ud83d\\ude00").as_deref(), Some("\u{1f600}"));
    }

    proptest! {
        #[test]
        fn what_is_spelled_out_is_the_same_text(pieces in proptest::collection::vec("\\PC|\\\\u00[0-9a-fA-F]{2}|\\\\[\\\\nt]", 0..20)) {
            let pieces: Vec<String> = pieces.into_iter().map(|piece| match piece.as_str() {
                "\"" | "\\" => "x".to_owned(),
                _ => piece,
            }).collect();
            let text = format!("\"{}\"", pieces.concat());
            let spelled = spelled_out(text.as_bytes());
            let value = |text: &[u8]| serde_json::from_slice::<String>(text).expect("valid");
            prop_assert_eq!(value(&spelled), value(text.as_bytes()), "{}", text);
            let veiled = end(text.as_bytes(), 1).expect("a string").veiled;
            prop_assert_eq!(veiled, spelled.len() < text.len());
            prop_assert!(!end(&spelled, 1).expect("a string").veiled);
        }

        #[test]
        fn what_is_quoted_is_read_back(text in ".*", control in 0u8..0x20) {
            let text = format!("{text}{}", char::from(control));
            let quoted = quoted(&text);
            prop_assert_eq!(serde_json::from_slice::<String>(&quoted).expect("valid"), text.as_str());
            let decoded = decode_quoted(&quoted);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
            prop_assert_eq!(end_of(&quoted), Some(quoted.len() - 1));
        }
    }
}
