//! An error answer of any shape becomes an error with a text of bounded length, which each dialect can tell and which
//! is the same when it is read again.

use tollgate_dialects::Dialect;
use tollgate_dialects::error::{ErrorBody, decode_error, encode_error};

use crate::document;

/// The longest message taken over from a provider, in bytes.
const LONGEST_MESSAGE: usize = 2 << 10;

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    for status in [400, 404, 429, 500] {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let error = decode_error(dialect, status, input);
            assert_eq!(error.status, status);
            assert!(!error.message.trim().is_empty() && error.message.len() <= LONGEST_MESSAGE, "{error:?}");
            let told = encode_error(dialect, &ErrorBody::from(&error), "req_1");
            assert!(document::is_object(&told), "{}", String::from_utf8_lossy(&told));
            let again = decode_error(dialect, status, &told);
            assert_eq!(again.message, error.message.trim(), "{}", String::from_utf8_lossy(&told));
        }
    }
}
