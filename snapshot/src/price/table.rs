//! The price table, carried in the binary as a sorted file: a look-up is a binary search over its lines that parses
//! only the line it finds, so that neither start nor memory pays for models nobody uses.

use super::model::{ModelPrice, key_of};
use crate::catalogue;

/// Source and date of the embedded table; stored with every sheet made from it.
pub const VERSION: &str = include_str!("../../data/prices.version").trim_ascii_end();

static EMBEDDED: PriceTable<'static> = PriceTable { lines: include_str!("../../data/prices.jsonl") };

/// A price file: a line per model, sorted by the bytes of its key.
#[derive(Clone, Copy)]
pub struct PriceTable<'a> {
    lines: &'a str,
}

impl std::fmt::Debug for PriceTable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriceTable").field("bytes", &self.lines.len()).finish()
    }
}

impl PriceTable<'static> {
    /// The table that Tollgate was built with.
    pub fn embedded() -> &'static PriceTable<'static> {
        &EMBEDDED
    }
}

impl<'a> PriceTable<'a> {
    /// Over the text of a price file. Lines must be sorted; what is not is not found.
    pub fn new(lines: &'a str) -> PriceTable<'a> {
        PriceTable { lines }
    }

    /// The price of a provider's model. `base_model` says what a deployment of any name really is, and is then the only
    /// name that is looked up. Tried in this order: the provider's prefixes before the name (`azure/gpt-4o`), the name
    /// alone if the table says it is of this provider, and, for a base model, the name alone whoever's it is.
    pub fn find(&self, provider: &str, upstream_model: &str, base_model: Option<&str>) -> Option<ModelPrice> {
        let name = base_model.unwrap_or(upstream_model);
        let own_prefix = format!("{provider}/");
        let listed = catalogue::find(provider).map_or(&[][..], |row| &row.price_prefixes);
        let prefixes = if listed.is_empty() { &[&*own_prefix][..] } else { listed };
        for prefix in prefixes {
            if let Some(price) = self.get_joined(prefix, name) {
                return Some(price);
            }
        }
        let price = self.get(name)?;
        let is_own = prefixes.iter().any(|prefix| is_of(&price.provider, prefix.split('/').next().unwrap_or_default()));
        (is_own || base_model.is_some()).then_some(price)
    }

    /// The price of what `like: provider/model` names; also a key of the table as it stands.
    pub fn find_like(&self, like: &str) -> Option<ModelPrice> {
        let split = like.split_once('/').and_then(|(provider, model)| self.find(provider, model, None));
        split.or_else(|| self.get(like))
    }

    /// The model with exactly this key.
    pub fn get(&self, key: &str) -> Option<ModelPrice> {
        self.get_joined("", key)
    }

    /// All models, in the order of the file; of lines that cannot be read, the error.
    pub fn iter(&self) -> impl Iterator<Item = Result<ModelPrice, super::PriceFileError>> + 'a {
        self.lines.lines().map(ModelPrice::from_line)
    }

    fn get_joined(&self, prefix: &str, name: &str) -> Option<ModelPrice> {
        let wanted = || prefix.bytes().chain(name.bytes());
        let bytes = self.lines.as_bytes();
        let (mut low, mut high) = (0, bytes.len());
        // Between lines `low` and `high` stand at the start of a line (or at the end of the file).
        while low < high {
            let middle = low + (high - low) / 2;
            let start = bytes[low..middle].iter().rposition(|byte| *byte == b'\n').map_or(low, |at| low + at + 1);
            let end = bytes[start..high].iter().position(|byte| *byte == b'\n').map_or(high, |at| start + at);
            match key_of(&bytes[start..end]).iter().copied().cmp(wanted()) {
                std::cmp::Ordering::Equal => return ModelPrice::from_line(&self.lines[start..end]).ok(),
                std::cmp::Ordering::Less => low = (end + 1).min(high),
                std::cmp::Ordering::Greater => high = start,
            }
        }
        None
    }
}

/// Whether the table's name of a provider means this slug: itself, or a family of it such as
/// `fireworks_ai-embedding-models` and `text-completion-openai`.
fn is_of(provider: &str, slug: &str) -> bool {
    provider == slug
        || provider.strip_prefix(slug).is_some_and(|rest| rest.starts_with('-'))
        || provider.strip_prefix("text-completion-") == Some(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_all_the_forms_that_the_table_has() {
        let table = PriceTable::embedded();
        let cases = [
            ("openai", "gpt-4o", None, Some("gpt-4o")),
            ("openai", "gpt-3.5-turbo-instruct", None, Some("gpt-3.5-turbo-instruct")),
            ("azure", "gpt-4o", None, Some("azure/gpt-4o")),
            ("azure", "my-deployment", Some("azure/gpt-4o"), Some("azure/gpt-4o")),
            ("azure", "my-deployment", Some("gpt-4o"), Some("azure/gpt-4o")),
            ("azure", "my-deployment", None, None),
            ("azure", "gpt-4o", Some("no-such-model"), None),
            ("anthropic", "claude-sonnet-4-5", None, Some("claude-sonnet-4-5")),
            ("anthropic", "claude-sonnet-4-5-20250929", None, Some("claude-sonnet-4-5-20250929")),
            ("anthropic", "claude-sonnet-4-5-19990101", None, None),
            ("groq", "openai/gpt-oss-120b", None, Some("groq/openai/gpt-oss-120b")),
            ("mistral", "mistral-large-latest", None, Some("mistral/mistral-large-latest")),
            ("groq", "gpt-4o", None, None),
            ("openai-compatible", "gpt-4o", None, None),
            ("openai-compatible", "anything", Some("gpt-4o"), Some("gpt-4o")),
            ("vllm", "gpt-4o", None, None),
            ("mock", "gpt-4o", None, None),
            ("together_ai", "foo/bar-8b-chat", None, None),
            ("no-such-provider", "gpt-4o", None, None),
            (
                "fireworks_ai",
                "accounts/fireworks/models/code-llama-13b",
                None,
                Some("fireworks_ai/accounts/fireworks/models/code-llama-13b"),
            ),
            ("fireworks_ai", "code-llama-13b", None, Some("fireworks_ai/accounts/fireworks/models/code-llama-13b")),
        ];
        for (provider, model, base, expected) in cases {
            let found = table.find(provider, model, base);
            assert_eq!(found.as_ref().map(|price| &*price.key), expected, "{provider} {model} {base:?}");
        }
        assert_eq!(table.find_like("openai/gpt-4o").map(|price| price.key), Some("gpt-4o".into()));
        assert_eq!(table.find_like("gpt-4o").map(|price| price.key), Some("gpt-4o".into()));
        assert_eq!(
            table.find_like("gemini/gemini-2.5-pro").map(|price| price.key),
            Some("gemini/gemini-2.5-pro".into())
        );
        assert_eq!(table.find_like("nowhere/nothing"), None);
    }

    #[test]
    fn the_file_is_sorted_without_duplicates_and_every_line_is_found() {
        let table = PriceTable::embedded();
        let mut previous = String::new();
        let mut models = 0;
        for line in table.lines.lines() {
            let price = ModelPrice::from_line(line).unwrap();
            assert!(previous.as_bytes() < price.key.as_bytes(), "{previous} stands before {}", price.key);
            assert_eq!(price.to_line().unwrap(), line);
            assert_eq!(price.sheet().rows().len(), price.rows.len(), "{} has two rates for one condition", price.key);
            assert_eq!(table.get(&price.key).as_ref(), Some(&price));
            previous = price.key.to_string();
            models += 1;
        }
        assert!(models > 4_000, "{models} models");
        assert!(!VERSION.is_empty());
    }

    #[test]
    fn a_search_in_small_and_broken_files_ends() {
        for text in ["", "\n", "\n\n\n", "x", "{\"m\":\"", "{\"m\":\"a\"", "{\"m\":\"a\"}\n{\"m\":\"c\"}"] {
            for key in ["", "a", "b", "c", "d"] {
                assert_eq!(PriceTable::new(text).get(key), None);
            }
        }
        let one = r#"{"m":"a","p":"x","k":"chat","r":["in 1"]}"#;
        assert_eq!(PriceTable::new(one).get("a").map(|price| price.rows.len()), Some(1));
    }
}
