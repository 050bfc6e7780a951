//! The catalogue of providers: who there is, where they are, how they are spoken to. Data, not code: a provider that
//! speaks a known dialect is one line of `data/providers.csv`. What it says are defaults; a resource may say otherwise.

use std::sync::OnceLock;

use crate::model::{AuthStyle, Operations, Surface};

static FILE: &str = include_str!("../data/providers.csv");

/// Another name → the id it stands for. Sorted.
const ALIASES: [(&str, &str); 7] = [
    ("ai21_chat", "ai21"),
    ("azure_openai", "azure"),
    ("azure_text", "azure"),
    ("hosted_vllm", "vllm"),
    ("openai_compatible", "openai-compatible"),
    ("text-completion-codestral", "codestral"),
    ("text-completion-openai", "openai"),
];

/// How a provider that passes calls on is told what they may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceCap {
    /// `{"provider": {"max_price": {"prompt", "completion", "request"}}}`, USD: for a million tokens, and for a request.
    MaxPrice,
}

/// Whether a pattern with a `*` at an end, or at both, or none, stands for a name.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (inner, starts) = pattern.strip_suffix('*').map_or((pattern, false), |inner| (inner, true));
    match inner.strip_prefix('*') {
        Some(part) if starts => name.contains(part),
        Some(part) => name.ends_with(part),
        None if starts => name.starts_with(inner),
        None => name == inner,
    }
}

/// One line of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// How URLs are built, and with that the dialect: [`Surface::Anthropic`] speaks Anthropic, the others OpenAI.
    pub surface: Surface,
    /// `None`: a resource must say the endpoint.
    pub base_url: Option<&'static str>,
    /// Environment variables that hold a credential, the first that is set wins.
    pub key_env: Vec<&'static str>,
    /// Environment variables that replace the base URL, as `key_env`.
    pub base_env: Vec<&'static str>,
    pub auth: AuthStyle,
    /// May be called without a credential.
    pub credential_is_optional: bool,
    /// What the provider offers itself.
    pub native: Operations,
    /// A closed connection ends what is billed. `false` unless known.
    pub cancel_stops_billing: bool,
    /// What stands before its models in the price table, tried in this order; empty: the id and a slash.
    pub price_prefixes: Vec<&'static str>,
    quirks: &'static str,
    /// Upper bound of the tokens of one image; `None`: not known.
    pub image_token_bound: Option<u64>,
    /// Models that search the web with every call, asked or not; patterns with a `*` at an end.
    searches: Vec<&'static str>,
    /// Fields of a request by which a client has another model answer than the one it names.
    pub model_fields: Vec<&'static str>,
    /// Fields of a request that make it cost more than the price of its model says; one within another as `outer.inner`.
    pub dear_fields: Vec<&'static str>,
    /// Models that search and read as much as they like, as patterns: nothing bounds what a call of them costs.
    pub unbounded: Vec<&'static str>,
    /// Models that what a search finds is input of, as patterns.
    pub reads: Vec<&'static str>,
    /// Where a request says the most that the provider may pay for it elsewhere.
    pub price_cap: Option<PriceCap>,
    /// For people: `service discontinued`, what to write as endpoint.
    pub note: &'static str,
}

impl Provider {
    /// A deviation from the dialect: `max_tokens_field`, `no_stream_options`, `reasoning_outside_output`,
    /// `usage_cost_field`. `Some("")` for those without a value.
    pub fn quirk(&self, name: &str) -> Option<&'static str> {
        self.quirks().find(|(quirk, _)| *quirk == name).map(|(_, value)| value)
    }

    /// All deviations with their values.
    pub fn quirks(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.quirks
            .split('|')
            .filter(|quirk| !quirk.is_empty())
            .map(|quirk| quirk.split_once('=').unwrap_or((quirk, "")))
    }

    /// Whether this model searches the web with every call.
    pub fn always_searches(&self, model: &str) -> bool {
        self.searches.iter().any(|pattern| matches(pattern, model))
    }

    /// The host that a credential may be sent to without further permission; `None` without a base URL.
    pub fn host(&self) -> Option<&'static str> {
        let (_, rest) = self.base_url?.split_once("://")?;
        let authority = rest.split('/').next()?;
        Some(authority.rsplit_once(':').map_or(authority, |(host, _)| host))
    }
}

/// All providers, sorted by id. Read on first use.
pub fn all() -> &'static [Provider] {
    static ALL: OnceLock<Vec<Provider>> = OnceLock::new();
    ALL.get_or_init(|| {
        let lines = FILE.lines().skip(1);
        lines.map(|line| parse(line).expect("the file is part of this crate and a test reads every line")).collect()
    })
}

/// The provider of that id or alias.
pub fn find(id: &str) -> Option<&'static Provider> {
    let id = ALIASES.binary_search_by_key(&id, |(alias, _)| alias).map_or(id, |at| ALIASES[at].1);
    all().binary_search_by_key(&id, |provider| provider.id).ok().map(|at| &all()[at])
}

/// All ids in order, without aliases, for texts that say what would have been right.
pub fn known_ids() -> impl Iterator<Item = &'static str> {
    all().iter().map(|provider| provider.id)
}

fn parse(line: &'static str) -> Option<Provider> {
    let columns: Vec<&'static str> = line.split(',').collect();
    let [
        id,
        name,
        surface,
        base_url,
        key_env,
        base_env,
        auth,
        native,
        cancel_billing,
        price_prefixes,
        quirks,
        image_tokens,
        searches,
        model_fields,
        dear_fields,
        unbounded,
        reads,
        price_cap,
        note,
    ] = columns.as_slice().try_into().ok()?;
    let (auth, credential_is_optional) = match auth {
        "bearer" => (AuthStyle::Bearer, false),
        "bearer?" => (AuthStyle::Bearer, true),
        "api-key" => (AuthStyle::ApiKey, false),
        "x-api-key" => (AuthStyle::XApiKey, false),
        "none" => (AuthStyle::None, true),
        _ => return None,
    };
    let surface = match surface {
        "openai" => Surface::OpenAi,
        "azure" => Surface::Azure,
        "anthropic" => Surface::Anthropic,
        _ => return None,
    };
    let mut operations = Operations::default();
    for operation in list(native) {
        match operation {
            "chat" => operations.chat = true,
            "completions" => operations.completions = true,
            "embeddings" => operations.embeddings = true,
            "messages" => operations.messages = true,
            "count_tokens" => operations.count_tokens = true,
            _ => return None,
        }
    }
    let cancel_stops_billing = match cancel_billing {
        "stops" => true,
        "full" | "" => false,
        _ => return None,
    };
    let price_cap = match price_cap {
        "provider.max_price" => Some(PriceCap::MaxPrice),
        "" => None,
        _ => return None,
    };
    Some(Provider {
        id,
        name,
        surface,
        base_url: (!base_url.is_empty()).then_some(base_url),
        key_env: list(key_env).collect(),
        base_env: list(base_env).collect(),
        auth,
        credential_is_optional,
        native: operations,
        cancel_stops_billing,
        price_prefixes: list(price_prefixes).collect(),
        quirks,
        image_token_bound: if image_tokens.is_empty() { None } else { Some(image_tokens.parse().ok()?) },
        searches: list(searches).collect(),
        model_fields: list(model_fields).collect(),
        dear_fields: list(dear_fields).collect(),
        unbounded: list(unbounded).collect(),
        reads: list(reads).collect(),
        price_cap,
        note,
    })
}

fn list(column: &'static str) -> impl Iterator<Item = &'static str> {
    column.split('|').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_well_formed() {
        assert_eq!(FILE.lines().skip(1).filter(|line| parse(line).is_some()).count(), FILE.lines().count() - 1);
        for provider in all() {
            let id = provider.id;
            assert!(!id.is_empty() && !provider.name.is_empty(), "{id}");
            assert!(provider.native != Operations::default(), "{id} offers nothing");
            if let Some(url) = provider.base_url {
                let local =
                    ["127.0.0.1", "localhost", "model-runner.docker.internal"].contains(&provider.host().unwrap());
                assert!(url.starts_with("https://") || (local && url.starts_with("http://")), "{id}: {url}");
                assert!(!url.ends_with('/') && !url.contains(['{', ' ']), "{id}: {url}");
            }
            for variable in provider.key_env.iter().chain(&provider.base_env) {
                let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
                assert!(variable.bytes().all(allowed), "{id}: {variable}");
            }
            let must_pay = provider.base_url.is_some() && !provider.credential_is_optional;
            assert!(!must_pay || !provider.key_env.is_empty(), "{id} says no variable for its credential");
            for (quirk, value) in provider.quirks() {
                let known = match quirk {
                    "max_tokens_field" => value == "max_tokens" || value == "max_completion_tokens",
                    "usage_cost_field" => value == "usage.cost" || value == "usage.cost.total_cost",
                    "no_stream_options" | "reasoning_outside_output" => value.is_empty(),
                    _ => false,
                };
                assert!(known, "{id}: {quirk}={value}");
            }
            let fields = provider.model_fields.iter().chain(&provider.dear_fields);
            assert!(
                fields
                    .into_iter()
                    .all(|field| field.bytes().all(|byte| b"_.".contains(&byte) || byte.is_ascii_alphabetic()))
            );
            assert!(provider.model_fields.iter().all(|field| provider.dear_fields.contains(field)), "{id}");
            assert!(provider.price_prefixes.iter().all(|prefix| prefix.ends_with('/')), "{id}");
        }
    }

    #[test]
    fn ids_are_sorted_and_unique_and_aliases_lead_to_them() {
        assert!(all().windows(2).all(|pair| pair[0].id.as_bytes() < pair[1].id.as_bytes()));
        assert!(ALIASES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (alias, id) in ALIASES {
            assert_eq!(find(alias).map(|provider| provider.id), Some(id));
            assert!(known_ids().all(|known| known != alias));
        }
        assert_eq!(find("nobody"), None);
    }

    #[test]
    fn the_providers_people_name_are_there() {
        let wanted = "ai21 ai21_chat anthropic anyscale azure baseten cerebras clarifai codestral custom_openai databricks \
            deepinfra deepseek featherless_ai fireworks_ai friendliai galadriel github groq hosted_vllm llamafile lm_studio \
            meta_llama mistral nebius novita nscale nvidia_nim openai openai_like openrouter perplexity sambanova together_ai \
            volcengine xai xinference openai-compatible mock vllm";
        for id in wanted.split_whitespace() {
            assert!(find(id).is_some(), "{id}");
        }
    }

    #[test]
    fn models_that_search_unasked_are_known_by_their_names() {
        for (provider, model, expected) in [
            ("perplexity", "sonar", true),
            ("perplexity", "sonar-pro", true),
            ("openai", "gpt-4o-search-preview-2025-03-11", true),
            ("azure", "gpt-5-search-api", true),
            ("openai", "gpt-4o", false),
            ("openai", "o3-deep-research", false),
            ("anthropic", "claude-sonnet-4-5", false),
        ] {
            assert_eq!(find(provider).unwrap().always_searches(model), expected, "{provider} {model}");
        }
        for (pattern, expected) in
            [("ab*", true), ("*cd", true), ("*bc*", true), ("abcd", true), ("bc*", false), ("*bc", false)]
        {
            assert_eq!(matches(pattern, "abcd"), expected, "{pattern}");
        }
    }

    #[test]
    fn a_provider_says_where_and_how_it_is_called() {
        let openai = find("openai").unwrap();
        assert_eq!(openai.base_url, Some("https://api.openai.com/v1"));
        assert_eq!((openai.host(), openai.auth), (Some("api.openai.com"), AuthStyle::Bearer));
        assert_eq!(openai.quirk("max_tokens_field"), Some("max_completion_tokens"));
        let anthropic = find("anthropic").unwrap();
        assert_eq!((anthropic.surface, anthropic.auth), (Surface::Anthropic, AuthStyle::XApiKey));
        assert!(anthropic.native.messages && anthropic.native.count_tokens && !anthropic.native.chat);
        assert_eq!(find("llamafile").unwrap().host(), Some("127.0.0.1"));
        assert_eq!(find("xai").unwrap().quirk("reasoning_outside_output"), Some(""));
        assert!(find("mock").unwrap().credential_is_optional && find("vllm").unwrap().cancel_stops_billing);
    }
}
