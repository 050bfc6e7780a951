//! How the mock counts tokens. The rules are fixed and simple so that a test can compute them by hand; no count is ever
//! above the UTF-8 bytes it counts, like those of real tokenizers. Pure functions only.

use serde::{Deserialize, Serialize};

/// Tokens of one call. `input` is the TOTAL input, cache reads and writes included; `reasoning` is part of `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    pub reasoning: u64,
}

impl Tokens {
    /// Plain input and output, nothing cached.
    pub fn new(input: u64, output: u64) -> Tokens {
        Tokens { input, output, ..Tokens::default() }
    }

    /// Input that is neither read from nor written to the prompt cache.
    pub fn uncached_input(&self) -> u64 {
        self.input.saturating_sub(self.cache_read).saturating_sub(self.cache_write_5m + self.cache_write_1h)
    }
}

/// What each message costs beside its text: role and separators.
const PER_MESSAGE: u64 = 3;

/// What an image part costs, unless its own bytes are fewer.
const PER_IMAGE: u64 = 85;

/// A "word" longer than this is several tokens. Characters.
const LONGEST_TOKEN: usize = 16;

/// Input tokens of texts of `text_bytes` bytes together, in `messages` messages with `images` image parts: a quarter of
/// the bytes rounded up, three per message, 85 per image, and never more than `body_bytes`.
pub(crate) fn input_tokens(text_bytes: u64, messages: u64, images: u64, body_bytes: u64) -> u64 {
    (text_bytes.div_ceil(4) + PER_MESSAGE * messages + PER_IMAGE * images).min(body_bytes)
}

/// Output tokens of data that is not prose (tool arguments): a quarter of the bytes, rounded up.
pub(crate) fn data_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}

/// The output tokens of a text, in order: a word and the white space before it, words cut at 16 characters. Together
/// they are the text again.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let (mut start, mut in_word, mut word_chars) = (0, false, 0);
    for (at, character) in text.char_indices() {
        let space = character.is_whitespace();
        if in_word && (space || word_chars == LONGEST_TOKEN) {
            tokens.push(&text[start..at]);
            start = at;
            in_word = false;
            word_chars = 0;
        }
        if !space {
            in_word = true;
            word_chars += 1;
        }
    }
    if start < text.len() {
        tokens.push(&text[start..]);
    }
    tokens
}

/// Output tokens of a text.
pub(crate) fn text_tokens(text: &str) -> u64 {
    split(text).len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_keep_the_space_before_them() {
        assert_eq!(split("Hello there  you "), ["Hello", " there", "  you", " "]);
        assert_eq!(split(""), Vec::<&str>::new());
        assert_eq!(split("12345678901234567"), ["1234567890123456", "7"]);
    }

    #[test]
    fn uncached_input_is_what_remains() {
        let tokens = Tokens { input: 100, cache_read: 60, cache_write_5m: 10, cache_write_1h: 5, ..Tokens::default() };
        assert_eq!(tokens.uncached_input(), 25);
    }

    proptest! {
        #[test]
        fn tokens_join_to_the_text_and_never_outnumber_its_bytes(text in "\\PC{0,80}") {
            prop_assert_eq!(split(&text).concat(), text.clone());
            prop_assert!(split(&text).len() <= text.len());
            prop_assert!(data_tokens(&text) <= text.len() as u64);
        }

        #[test]
        fn input_never_exceeds_the_body(text in 0u64..1000, messages in 0u64..50, images in 0u64..5, body in 0u64..2000) {
            prop_assert!(input_tokens(text, messages, images, body) <= body);
        }
    }
}
