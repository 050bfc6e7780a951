//! The LLMGateway: master key, defaults for all calls, logs.

use tollgate_crds::{
    Attribution, CREDENTIAL_HEADERS, GatewayDefaults, LLMGatewaySpec, LogFormat, LogLevel, SecretSource,
};

use crate::block::{Block, Item};
use crate::context::Context;
use crate::environment::{Resolved, variable_name};
use crate::node::Node;
use crate::rate;
use crate::retry;
use crate::secret::Secrets;
use crate::settings::{Home, Settings};

/// Attempts of a call that a gateway allows by itself, and at most.
const USUAL_ATTEMPTS: i32 = 6;
const MOST_ATTEMPTS: i32 = 32;

/// The gateway, but for the number of attempts, which the groups decide.
pub fn gateway(settings: &mut Settings, secrets: &mut Secrets, context: &mut Context<'_>) -> LLMGatewaySpec {
    let drop_params = settings.take("drop_params", &[Home::Litellm], context);
    let drop_params = drop_params.and_then(|item| context.boolean(&item));
    let usual = GatewayDefaults::default();
    let defaults = GatewayDefaults {
        drop_unsupported_params: drop_params.unwrap_or(usual.drop_unsupported_params),
        retries: retry::retries(settings, context),
        timeouts: retry::timeouts(settings, context),
        cooldown: retry::cooldown(settings, context),
        budget_exceeded_status: exceeded_status(settings, context).unwrap_or(usual.budget_exceeded_status),
        ..usual
    };
    let mut gateway = LLMGatewaySpec {
        default: true,
        master_key: master_key(settings, secrets, context),
        defaults,
        attribution: attribution(settings, context),
        rate_limits: rate::rules(settings, context),
        priorities: rate::priorities(settings, context),
        ..LLMGatewaySpec::default()
    };
    let verbose = settings.take("set_verbose", &[Home::Litellm, Home::Router], context);
    if verbose.and_then(|item| context.boolean(&item)) == Some(true) {
        gateway.telemetry.logs.level = LogLevel::Debug;
    }
    let json = settings.take("json_logs", &[Home::Litellm], context);
    if json.and_then(|item| context.boolean(&item)) == Some(false) {
        gateway.telemetry.logs.format = LogFormat::Human;
    }
    let metrics = settings.take("require_auth_for_metrics_endpoint", &[Home::Litellm], context);
    gateway.telemetry.metrics.require_auth = metrics.and_then(|item| context.boolean(&item)).unwrap_or(false);
    gateway
}

/// The status of a spent budget: LiteLLM takes any.
fn exceeded_status(settings: &mut Settings, context: &mut Context<'_>) -> Option<i32> {
    let item = settings.take("budget_exceeded_status_code", &[Home::Litellm], context)?;
    let status = context.small(&item, 400, 599)?;
    if matches!(status, 422 | 429) {
        return Some(status);
    }
    let message = format!("a spent budget answers 429 or 422, not {status}: it is 429 now");
    context.notes.warn(item.path, message, "");
    None
}

/// Most headers of a kind that a gateway may name.
const MOST_HEADERS: usize = 8;

/// Which headers name the end user, and which are tags.
fn attribution(settings: &mut Settings, context: &mut Context<'_>) -> Attribution {
    let mut end_user_headers = Vec::new();
    let mappings = settings.take("user_header_mappings", &[Home::General], context);
    for item in mappings.into_iter().flat_map(Item::each) {
        let path = item.path.clone();
        let mut mapping = Block::open(item, context);
        let mut text = |key: &str| mapping.take(key).and_then(|item| context.text(&item));
        let (name, role) = (text("header_name"), text("litellm_user_role"));
        match (name, role.as_deref()) {
            (Some(name), Some("customer") | None) => end_user_headers.extend(header(name, &path, context)),
            (Some(name), Some(role)) => {
                let message = format!("`{name}` does not name a `{role}`: the user of a key is the key's own `user`");
                let hint = "give each user a key, or write the header into spec.attribution.endUserHeaders";
                context.notes.warn(path, message, hint);
            }
            (None, role) => {
                let message = format!("there is no header_name for `{}`; it is left out", role.unwrap_or_default());
                context.notes.warn(path, message, "");
            }
        }
        for (_, item) in mapping.rest() {
            context.unsupported(&item.path, "is not known", "");
        }
    }
    if let Some(item) = settings.take("user_header_name", &[Home::General], context) {
        let name = context.text(&item);
        end_user_headers.extend(name.and_then(|name| header(name, &item.path, context)));
    }
    let mut tag_headers = Vec::new();
    if let Some(item) = settings.take("extra_spend_tag_headers", &[Home::Litellm], context) {
        for item in item.each() {
            let name = context.text(&item);
            tag_headers.extend(name.and_then(|name| header(name, &item.path, context)));
        }
    }
    let own = settings.take("disable_add_user_agent_to_request_tags", &[Home::Litellm], context);
    // What LiteLLM does by itself is wanted where somebody says so.
    if own.and_then(|item| context.boolean(&item)) == Some(false) {
        tag_headers.push("User-Agent".to_owned());
    }
    for (headers, what) in [(&mut end_user_headers, "end users"), (&mut tag_headers, "tags")] {
        let mut known: Vec<String> = Vec::new();
        headers.retain(|name: &String| {
            let name = name.to_ascii_lowercase();
            let is_new = !known.contains(&name);
            known.push(name);
            is_new
        });
        if headers.len() > MOST_HEADERS {
            let message = format!("{MOST_HEADERS} headers can name {what}; the others are left out");
            context.notes.warn("general_settings", message, "");
            headers.truncate(MOST_HEADERS);
        }
    }
    Attribution { end_user_headers, tag_headers }
}

/// The name of a header that a gateway may read.
fn header(name: String, path: &str, context: &mut Context<'_>) -> Option<String> {
    if CREDENTIAL_HEADERS.iter().any(|credential| credential.eq_ignore_ascii_case(&name)) {
        let message = format!("`{name}` holds a credential, which must not become a name in rows; it is left out");
        context.notes.warn(path, message, "");
        return None;
    }
    Some(name)
}

/// Raises the number of attempts to what retries and fallbacks of the groups may need.
pub fn allow_attempts(gateway: &mut LLMGatewaySpec, needed: i32) {
    gateway.defaults.max_attempts = needed.clamp(USUAL_ATTEMPTS, MOST_ATTEMPTS);
}

fn master_key(settings: &mut Settings, secrets: &mut Secrets, context: &mut Context<'_>) -> Option<SecretSource> {
    const PURPOSE: &str = "tollgate-master";
    let Some(item) = settings.take("master_key", &[Home::General], context) else {
        let own = context.environment.first_of(&["LITELLM_MASTER_KEY"]);
        if let Some((variable, value @ Resolved::Text(_))) = own {
            return Some(secrets.refer(Some(&variable), PURPOSE, "key", value, None));
        }
        let hint = "set LITELLM_MASTER_KEY when you serve, or write VirtualKeys";
        context.notes.warn("general_settings.master_key", "there is no master key, so that nobody can call yet", hint);
        return None;
    };
    let Item { path, node } = &item;
    let value = context.secret(&item).filter(|value| *value != Resolved::Text(String::new()))?;
    let variable = match node {
        Node::Text(text) => variable_name(text),
        _ => None,
    };
    if variable.is_none() && context.environment.is_known_later() {
        let message = "the master key stands in the file, and now in a Secret of the output";
        context.notes.warn(path, message, "keep the output out of version control, or write os.environ/NAME first");
    }
    Some(secrets.refer(variable, PURPOSE, "key", value, None))
}
