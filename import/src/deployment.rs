//! One entry of `model_list` as one ModelDeployment, together with what only its group can decide.

use tollgate_crds::{Cooldown, DurationText, JsonFields, Limits, ModelDeploymentSpec, Parameters, Timeouts};
use tollgate_snapshot::price::PriceTable;

use crate::block::{Block, Item};
use crate::context::Context;
use crate::credential::{Access, NamedCredentials};
use crate::decimal::Decimal;
use crate::name::Names;
use crate::node::Node;
use crate::price;
use crate::provider::{self, Upstream};
use crate::secret::Secrets;

/// An entry of `model_list`.
#[derive(Debug)]
pub struct Entry {
    pub path: String,
    /// `model_name`: deployments with the same one are a group.
    pub group: String,
    /// Of the object.
    pub name: String,
    pub spec: ModelDeploymentSpec,
    pub share: Share,
    pub retries: Option<i32>,
    pub cooldown: Option<Cooldown>,
    /// `drop_params`, and where it stands.
    pub drop_params: Option<(String, bool)>,
}

/// What decides the share of an entry among those of its group.
#[derive(Debug, Default)]
pub struct Share {
    pub weight: Option<(String, Decimal)>,
    pub order: Option<i32>,
}

/// Fields of a request body that `litellm_params` may set for calls that do not.
const CALL_PARAMETERS: [&str; 49] = [
    "audio",
    "chat_template_kwargs",
    "dimensions",
    "encoding_format",
    "frequency_penalty",
    "function_call",
    "functions",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "min_tokens",
    "modalities",
    "n",
    "num_ctx",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "provider_options",
    "reasoning",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "stop_sequences",
    "store",
    "stream_options",
    "suffix",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

/// Modes of `model_info` that calls are served for.
const MODES: [&str; 3] = ["chat", "completion", "embedding"];

const MOST: i64 = 1_000_000_000_000;

/// What reading entries adds to.
pub struct Shelf<'s> {
    pub names: &'s mut Names,
    pub secrets: &'s mut Secrets,
    pub credentials: &'s mut NamedCredentials,
}

/// Reads an entry; `None`, and a note, where it can be no deployment.
pub fn read(item: Item, shelf: &mut Shelf<'_>, context: &mut Context<'_>) -> Option<Entry> {
    let path = item.path.clone();
    let Node::Map(_) = item.node else {
        context.unexpected(&item, "an entry with model_name and litellm_params");
        return None;
    };
    let mut block = Block::open(item, context);
    let group = block.take("model_name").and_then(|item| context.text(&item));
    let mut params = block.take_block("litellm_params", context);
    let mut info = block.take_block("model_info", context);
    for (_, item) in block.rest() {
        context.unsupported(&item.path, "is not known in an entry of model_list", "");
    }
    let model = params.take("model").and_then(|item| context.text(&item)).filter(|model| !model.is_empty());
    let Some(model) = model else {
        context.notes.error(path, "the entry has no litellm_params.model and is left out", "write provider/name");
        return None;
    };
    let group = group.unwrap_or_else(|| model.clone());
    check_pattern(&group, &model, &path, context)?;
    if let Some(item) = info.take("blocked")
        && context.boolean(&item) == Some(true)
    {
        context.notes.warn(path, "the deployment is blocked and left out", "");
        return None;
    }

    let custom = params.take("custom_llm_provider").and_then(|item| context.text(&item));
    let access = Access::take(&mut params, shelf.credentials, context);
    let upstream = provider::upstream(&model, custom.as_deref(), access.api_base.is_some());
    check_provider(&upstream, &group, &model, &path, context);
    let base_model = info.take("base_model").or_else(|| params.take("base_model"));
    let base_model = base_model.and_then(|item| context.text(&item));
    let mut like = base_model.map(|base| provider::like(&base, &upstream.provider));

    let mut spec = ModelDeploymentSpec {
        provider: Some(upstream.provider.clone()),
        model: upstream.model.clone(),
        model_names: vec![group.clone()],
        weight: 1,
        ..ModelDeploymentSpec::default()
    };
    let params_path = params.path().to_owned();
    if let Some(item) = params.take("mock_response") {
        spec.provider = Some("mock".to_owned());
        if context.environment.is_filled() {
            let message = "the mock runs in `tollgate serve` only; in a cluster the deployment has no address";
            context.notes.warn(&item.path, message, "run `tollgate mock` there and name it in spec.endpoint");
        }
        mock(&item, &mut spec.parameters.forced, context);
        access.ignore(context);
        // What the mock answers costs what the model would, where that is known.
        let original = format!("{}/{}", upstream.provider, upstream.model);
        like = like.or_else(|| PriceTable::embedded().find_like(&original).map(|_| original));
    } else {
        (spec.endpoint, spec.credential) = access.resolve(&upstream, &params_path, shelf.secrets, context);
    }
    spec.pricing = price::take([&mut params, &mut info], like, context);
    spec.limits = limits(&mut params, context);
    timeouts(
        params.take_any(&["timeout", "request_timeout"]),
        params.take("stream_timeout"),
        &mut spec.timeouts,
        context,
    );
    spec.region = params.take("region_name").and_then(|item| context.text(&item));
    spec.tags = params.take("tags").map(|item| context.texts(item)).unwrap_or_default();
    let drop_params = params.take("drop_params").and_then(|item| Some((item.path.clone(), context.boolean(&item)?)));
    parameters(&mut params, &mut spec.parameters, context);
    let share = Share {
        weight: params.take("weight").and_then(|item| Some((item.path.clone(), context.decimal(&item)?))),
        order: params.take("order").and_then(|item| context.small(&item, 0, 999)),
    };
    let retries = params.take_any(&["num_retries", "max_retries"]).and_then(|item| context.small(&item, 0, 10));
    let cooldown = params.take("cooldown_time").or_else(|| info.take("cooldown_time"));
    let cooldown = cooldown
        .and_then(|item| context.seconds(&item))
        .map(|duration| Cooldown { duration: Some(duration), ..Cooldown::default() });
    for (key, item) in params.rest() {
        let (what, hint) = unsupported_parameter(&key);
        context.unsupported(&item.path, what, hint);
    }

    let id = info.take("id").and_then(|item| context.text(&item));
    information(info, &upstream, &mut spec, context);
    let name = shelf.names.unique(id.as_deref().unwrap_or(&group));
    Some(Entry { path, group, name, spec, share, retries, cooldown, drop_params })
}

/// Patterns end in `*`; anything else cannot be matched. What is noted holds for the whole entry.
fn check_pattern(group: &str, model: &str, path: &str, context: &mut Context<'_>) -> Option<()> {
    let star = group.find('*');
    if star.is_some_and(|at| at + 1 != group.len()) {
        let message = format!("the pattern `{group}` has its `*` elsewhere than at the end; the entry is left out");
        context.notes.error(path, message, "write one entry for each model");
        return None;
    }
    if star.is_none() && model.contains('*') {
        let message = format!("`{model}` needs a model_name that ends in `*`; the entry is left out");
        context.notes.error(path, message, "");
        return None;
    }
    Some(())
}

fn check_provider(upstream: &Upstream, group: &str, model: &str, path: &str, context: &mut Context<'_>) {
    let provider = &upstream.provider;
    if upstream.row.is_none() {
        let message = format!("provider `{provider}` is not supported yet; the deployment cannot be called");
        let hint = "an OpenAI-compatible server of any sort is openai/NAME with api_base";
        context.notes.error(format!("{path}.litellm_params.model"), message, hint);
    }
    let place = format!("{path}.model_name");
    if group == "*" && model == "*" {
        let message =
            format!("every name goes to `{provider}` as it is; LiteLLM would look for the provider in the name");
        context.notes.warn(place, message, "add an entry for each provider: model_name and model `anthropic/*`");
    } else if group.ends_with("/*") {
        let message =
            format!("clients must write the name as `{group}` has it; LiteLLM would add the prefix to a bare name");
        context.notes.warn(place, message, "add entries for the bare names that clients use");
    }
}

fn mock(item: &Item, forced: &mut JsonFields, context: &mut Context<'_>) {
    let Node::Text(_) = &item.node else {
        context.unexpected(item, "the text to answer");
        return;
    };
    let Some(text) = context.text(item) else { return };
    if text.starts_with("litellm.") {
        context.notes.warn(&item.path, "the mock answers with this text; LiteLLM would raise the error it names", "");
    }
    forced.insert("mock_response".to_owned(), text.into());
}

fn limits(params: &mut Block, context: &mut Context<'_>) -> Limits {
    let mut limit = |key| params.take(key).and_then(|item| context.integer(&item, 1, MOST));
    Limits {
        requests_per_minute: limit("rpm"),
        tokens_per_minute: limit("tpm"),
        input_tokens_per_minute: limit("itpm"),
        output_tokens_per_minute: limit("otpm"),
        parallel_requests: limit("max_parallel_requests"),
    }
}

/// `timeout` and `stream_timeout`, of a deployment or of all.
pub fn timeouts(whole: Option<Item>, stream: Option<Item>, timeouts: &mut Timeouts, context: &mut Context<'_>) {
    if let Some(item) = whole
        && let Some(total) = context.seconds(&item)
    {
        context.say_once_that_streams_end(&item, &total);
        timeouts.total = Some(total);
    }
    // LiteLLM bounds each wait for a piece of the stream, the first among them.
    if let Some(wait) = stream.and_then(|item| context.seconds(&item)) {
        timeouts.first_byte = Some(wait.clone());
        timeouts.idle = Some(wait);
    }
}

fn parameters(params: &mut Block, parameters: &mut Parameters, context: &mut Context<'_>) {
    for (key, item) in params.take_where(|key| CALL_PARAMETERS.contains(&key)) {
        let value = context.json(&item);
        parameters.defaults.insert(key, value);
    }
    if let Some(item) = params.take("extra_body") {
        for (key, item) in Block::open(item, context).rest() {
            let value = context.json(&item);
            parameters.defaults.insert(key, value);
        }
    }
    let dropped = params.take("additional_drop_params").map(Item::each).unwrap_or_default();
    for item in dropped {
        let Some(field) = context.text(&item) else { continue };
        if field.contains(['.', '[', '*']) {
            let message = format!("`{field}` is inside a field; only whole fields can be dropped");
            context.notes.warn(item.path, message, "name the top-level field");
        } else {
            parameters.drop.push(field);
        }
    }
}

/// `model_info`: what the model can do and how much it takes.
fn information(mut info: Block, upstream: &Upstream, spec: &mut ModelDeploymentSpec, context: &mut Context<'_>) {
    if let Some(item) = info.take("mode")
        && let Some(mode) = context.text(&item)
        && !MODES.contains(&mode.as_str())
    {
        context.notes.warn(
            item.path,
            format!("mode `{mode}` is not served yet"),
            format!("served: {}", MODES.join(", ")),
        );
    }
    let output = info.take_any(&["max_output_tokens", "max_tokens"]);
    spec.max_output_tokens = output.and_then(|item| context.integer(&item, 1, 1_000_000_000));
    let stated = info.take_where(|key| key.starts_with("supports_"));
    if !stated.is_empty() {
        let listed = PriceTable::embedded().find(&upstream.provider, &upstream.model, None);
        let listed = listed.map(|model| model.capabilities).unwrap_or_default();
        let mut capabilities: Vec<String> = listed.names().map(str::to_owned).collect();
        for (key, item) in stated {
            let name = key.trim_start_matches("supports_");
            match context.boolean(&item) {
                Some(true) if capabilities.iter().all(|present| present != name) => capabilities.push(name.to_owned()),
                Some(false) => capabilities.retain(|present| present != name),
                Some(true) | None => {}
            }
        }
        spec.capabilities = capabilities;
    }
    for (key, item) in info.rest() {
        let what = match key.as_str() {
            "max_input_tokens" => "is taken from the price table only",
            "access_groups" | "team_id" | "team_public_model_name" => {
                "says who may use it, which keys and teams say here"
            }
            "created_at" | "updated_at" | "created_by" | "updated_by" | "db_model" => "is LiteLLM's own bookkeeping",
            _ => "has no equivalent and is left out",
        };
        context.unsupported(&item.path, what, "");
    }
}

/// Why a key of `litellm_params` does nothing, and what to do instead.
fn unsupported_parameter(key: &str) -> (&'static str, &'static str) {
    match key {
        "allowed_openai_params" => ("is not needed: parameters that are not known pass", ""),
        "merge_reasoning_content_in_choices" => ("is not supported yet", ""),
        "rpd" | "tpd" => ("is not supported yet", "rpm, tpm, itpm and otpm are"),
        "max_budget" | "budget_duration" => ("is not supported for a deployment yet", "write a Budget"),
        "tag_regex" | "silent_model" | "use_in_pass_through" | "configurable_clientside_auth_params" => {
            ("is not supported yet", "")
        }
        _ if key.starts_with("aws_") || key.starts_with("vertex_") || key.starts_with("watsonx_") => {
            ("belongs to a provider that is not supported yet", "")
        }
        "azure_ad_token" | "tenant_id" | "client_id" | "client_secret" | "azure_username" | "azure_password" => {
            ("is not supported yet: Azure is called with an API key", "write api_key")
        }
        _ => (
            "is not known and is not sent to the provider",
            "fields of the request body can be written under extra_body",
        ),
    }
}

/// Total time below which ordinary streams would notice.
const LONG_STREAM_SECONDS: u64 = 600;

impl Context<'_> {
    /// LiteLLM's timeout ends a stream only when it falls silent.
    fn say_once_that_streams_end(&mut self, item: &Item, total: &DurationText) {
        let is_short = total.get().is_ok_and(|total| total.as_secs() < LONG_STREAM_SECONDS);
        if is_short && !std::mem::replace(&mut self.said_that_streams_end, true) {
            let message = "it bounds the whole call here, streams too; LiteLLM bounds only the silence of a stream";
            self.notes.warn(&item.path, message, "raise it if streams may take longer");
        }
    }
}
