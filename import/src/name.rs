//! Names of objects from what people call their models.

use std::collections::BTreeSet;

/// Names of one kind that are taken.
#[derive(Debug, Default)]
pub struct Names(BTreeSet<String>);

/// Short enough to serve as a label's value, with room for a number.
const LONGEST: usize = 56;

impl Names {
    /// A name from `text` that nothing else of the kind has: `GPT 4o` → `gpt-4o`, then `gpt-4o-2`.
    pub fn unique(&mut self, text: &str) -> String {
        let base = slug(text);
        let mut name = base.clone();
        let mut count = 1;
        while !self.0.insert(name.clone()) {
            count += 1;
            name = format!("{base}-{count}");
        }
        name
    }
}

/// Lower-case letters, digits and single dashes between them, never empty: a DNS label.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for character in text.chars() {
        match character {
            '*' => {
                if !slug.is_empty() && !slug.ends_with('-') {
                    slug.push('-');
                }
                slug.push_str("any");
            }
            _ if character.is_ascii_alphanumeric() => slug.push(character.to_ascii_lowercase()),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.truncate(LONGEST);
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "model".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_made_of_what_people_wrote() {
        for (text, name) in [
            ("gpt-4o", "gpt-4o"),
            ("GPT 4o", "gpt-4o"),
            ("gpt-3.5-turbo", "gpt-3-5-turbo"),
            ("openai/*", "openai-any"),
            ("*", "any"),
            ("meta-llama/Llama-3_70b", "meta-llama-llama-3-70b"),
            ("--", "model"),
            ("模型", "model"),
        ] {
            assert_eq!(slug(text), name, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn names_are_valid_and_unique(texts in proptest::collection::vec("\\PC{0,80}|[a-c.]{0,3}", 1..20)) {
            let mut names = Names::default();
            let mut seen = BTreeSet::new();
            for text in &texts {
                let name = names.unique(text);
                prop_assert!(name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-'));
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", name);
                prop_assert!(seen.insert(name));
            }
        }
    }
}
