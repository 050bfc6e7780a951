//! Which provider a LiteLLM model name means: `groq/llama-3` says it, `claude-fable-5` needs the price table.

use tollgate_snapshot::catalogue::{self, Provider};
use tollgate_snapshot::price::PriceTable;

/// A model at a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The catalogue's id, or LiteLLM's word for a provider that the catalogue does not have.
    pub provider: String,
    /// `None`: there is no row for it yet.
    pub row: Option<&'static Provider>,
    /// As the provider knows it.
    pub model: String,
}

/// Providers of LiteLLM that the catalogue does not have, so that `bedrock/x` is not taken for a model of OpenAI. Sorted.
const NOT_YET: [&str; 57] = [
    "a2a",
    "aiml",
    "aiohttp_openai",
    "aleph_alpha",
    "anthropic_text",
    "assemblyai",
    "auto_router",
    "aws_polly",
    "azure_ai",
    "azure_speech",
    "bedrock",
    "bedrock_mantle",
    "bigmodel",
    "black_forest_labs",
    "bytez",
    "chatgpt",
    "cloudflare",
    "cohere",
    "cohere_chat",
    "cursor",
    "custom",
    "datarobot",
    "deepgram",
    "docker_model_runner",
    "elevenlabs",
    "fal_ai",
    "gemini",
    "gigachat",
    "github_copilot",
    "gradient_ai",
    "helicone",
    "huggingface",
    "infinity",
    "jina_ai",
    "langgraph",
    "manus",
    "maritalk",
    "nlp_cloud",
    "oci",
    "ollama",
    "ollama_chat",
    "palm",
    "petals",
    "predibase",
    "replicate",
    "sagemaker",
    "sagemaker_chat",
    "sap",
    "snowflake",
    "stability",
    "topaz",
    "triton",
    "vertex_ai",
    "vertex_ai_beta",
    "voyage",
    "watsonx",
    "watsonx_text",
];

/// Reads `litellm_params.model` beside `custom_llm_provider`. `has_api_base`: a name without a known provider is then a
/// model of whatever OpenAI-compatible server listens there.
pub fn upstream(model: &str, custom_provider: Option<&str>, has_api_base: bool) -> Upstream {
    if let Some(provider) = custom_provider {
        let model = model.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')).unwrap_or(model);
        return at(provider, model);
    }
    if let Some((prefix, rest)) = model.split_once('/')
        && is_provider(prefix)
        && !rest.is_empty()
    {
        return at(prefix, rest);
    }
    if !has_api_base
        && let Some(price) = PriceTable::embedded().get(model)
        && is_provider(price.provider.as_ref())
    {
        return at(price.provider.as_ref(), model);
    }
    at("openai", model)
}

/// `provider/model` for a name that may say its provider or not: what `pricing.like` takes.
pub fn like(base_model: &str, provider: &str) -> String {
    match base_model.split_once('/') {
        Some((prefix, _)) if is_provider(prefix) => base_model.to_owned(),
        _ if PriceTable::embedded().find_like(&format!("{provider}/{base_model}")).is_some() => {
            format!("{provider}/{base_model}")
        }
        _ => match PriceTable::embedded().get(base_model) {
            Some(price) if is_provider(price.provider.as_ref()) => {
                format!("{}/{base_model}", price.provider.as_ref() as &str)
            }
            _ => format!("{provider}/{base_model}"),
        },
    }
}

fn is_provider(word: &str) -> bool {
    catalogue::find(word).is_some() || NOT_YET.binary_search(&word).is_ok()
}

fn at(provider: &str, model: &str) -> Upstream {
    let row = catalogue::find(provider);
    Upstream { provider: row.map_or(provider, |row| row.id).to_owned(), row, model: model.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_name_says_its_provider_or_the_price_table_does() {
        for (model, custom, has_base, provider, upstream_model) in [
            ("gpt-4o", None, false, "openai", "gpt-4o"),
            ("openai/gpt-4o", None, false, "openai", "gpt-4o"),
            ("openai/*", None, false, "openai", "*"),
            ("*", None, false, "openai", "*"),
            ("azure/my-deployment", None, true, "azure", "my-deployment"),
            ("anthropic/claude-fable-5", None, false, "anthropic", "claude-fable-5"),
            ("claude-fable-5", None, false, "anthropic", "claude-fable-5"),
            ("hosted_vllm/meta-llama/Llama-3-70b", None, true, "vllm", "meta-llama/Llama-3-70b"),
            ("openrouter/openai/gpt-4o", None, false, "openrouter", "openai/gpt-4o"),
            ("meta-llama/Llama-3", None, true, "openai", "meta-llama/Llama-3"),
            ("bedrock/anthropic.claude-v2", None, false, "bedrock", "anthropic.claude-v2"),
            ("llama-3", Some("groq"), false, "groq", "llama-3"),
            ("groq/llama-3", Some("groq"), false, "groq", "llama-3"),
            ("x", Some("nobody"), false, "nobody", "x"),
        ] {
            let read = upstream(model, custom, has_base);
            assert_eq!((read.provider.as_str(), read.model.as_str()), (provider, upstream_model), "{model}");
        }
    }

    #[test]
    fn providers_that_the_catalogue_lacks_are_sorted_and_not_in_it() {
        assert!(NOT_YET.windows(2).all(|pair| pair[0] < pair[1]));
        for provider in NOT_YET {
            assert!(catalogue::find(provider).is_none(), "{provider}");
        }
    }

    #[test]
    fn a_base_model_is_named_with_its_provider() {
        assert_eq!(like("azure/gpt-4o", "azure"), "azure/gpt-4o");
        assert_eq!(like("gpt-4o", "azure"), "azure/gpt-4o");
        assert_eq!(like("gpt-4o", "openai"), "openai/gpt-4o");
        assert_eq!(like("claude-fable-5", "vllm"), "anthropic/claude-fable-5");
    }
}
