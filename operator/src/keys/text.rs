//! The text of a key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How much of a key may be shown: the fixed beginning and four characters.
const PREFIX: usize = 7;

/// `sk-` and 256 random bits.
///
/// # Errors
/// The system gives no randomness.
pub fn new_key() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("sk-{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The public beginning of a key, by which people tell keys apart.
pub fn prefix(key: &str) -> String {
    key.chars().take(PREFIX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_differ_and_show_little() {
        let (one, other) = (new_key().unwrap(), new_key().unwrap());
        assert!(one.starts_with("sk-") && one.len() == 46, "{}", one.len());
        assert_ne!(one, other);
        assert_eq!(prefix("sk-abcdefgh"), "sk-abcd");
    }
}
