//! From the text of a file to all resources it stands for. Both ways out, into memory and as YAML, begin here.

use tollgate_crds::{BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, RouteGroupSpec};

use crate::block::{Block, Item};
use crate::context::Context;
use crate::credential::NamedCredentials;
use crate::deployment::{self, Entry, Shelf};
use crate::environment::{Environment, Process};
use crate::group::{self, Routing};
use crate::name::Names;
use crate::node::Node;
use crate::note::{Note, Notes};
use crate::secret::{SecretDraft, Secrets};
use crate::settings::Settings;
use crate::{budget, gateway, leftover};

/// The name of the gateway of a file.
pub const GATEWAY: &str = "default";
/// The name of the budget of a file.
pub const BUDGET: &str = "litellm-max-budget";

/// Everything that a file stands for, in the order in which it is printed.
#[derive(Debug)]
pub struct Draft {
    pub secrets: Vec<SecretDraft>,
    pub gateway: LLMGatewaySpec,
    pub deployments: Vec<(String, ModelDeploymentSpec)>,
    pub groups: Vec<(String, RouteGroupSpec)>,
    pub budget: Option<BudgetSpec>,
}

/// The draft, unless the text is no YAML, and all notes.
pub fn draft(text: &str, process: Process<'_>) -> (Option<Draft>, Vec<Note>) {
    let mut context =
        Context { notes: Notes::default(), environment: Environment::new(process), said_that_streams_end: false };
    let draft = match Node::parse(text) {
        Ok(node) => read(Item { path: String::new(), node }, &mut context),
        Err(message) => {
            context.notes.error("", format!("the file is no YAML: {message}"), "");
            None
        }
    };
    (draft, context.notes.into_vec())
}

fn read(file: Item, context: &mut Context<'_>) -> Option<Draft> {
    let Node::Map(_) = file.node else {
        context.unexpected(&file, "a map with `model_list`");
        return None;
    };
    let mut root = Block::open(file, context);
    // Variables first: everything else may refer to them.
    let variables = root.take_block("environment_variables", context);
    let variables = set_variables(variables, context);
    let mut credentials = NamedCredentials::read(root.take("credential_list"), context);
    let model_list = root.take("model_list");
    let mut settings = Settings::take_from(root, context);
    let mut secrets = Secrets::default();

    let mut gateway = gateway::gateway(&mut settings, &mut secrets, context);
    let mut names = Names::default();
    let mut shelf = Shelf { names: &mut names, secrets: &mut secrets, credentials: &mut credentials };
    let mut entries: Vec<Entry> = Vec::new();
    for item in model_list.map(Item::each).unwrap_or_default() {
        entries.extend(deployment::read(item, &mut shelf, context));
    }
    for entry in &entries {
        check_drop_params(entry, gateway.defaults.drop_unsupported_params, context);
    }
    let routing = Routing { retries: gateway.defaults.retries.clone(), cooldown: gateway.defaults.cooldown.clone() };
    let routes = group::route(&mut entries, &mut settings, &routing, context);
    gateway::allow_attempts(&mut gateway, routes.most_attempts);
    let budget = budget::budget(&mut settings, context);

    credentials.finish(context);
    leftover::note(settings, context);
    for (name, path) in variables {
        if !context.environment.is_used(&name) {
            context.notes.warn(path, format!("nothing that is supported reads the variable `{name}`"), "");
        }
    }
    Some(Draft {
        secrets: secrets.into_vec(),
        gateway,
        deployments: entries.into_iter().map(|entry| (entry.name, entry.spec)).collect(),
        groups: routes.groups,
        budget,
    })
}

/// Names of the file's own variables, and where they stand.
fn set_variables(block: Block, context: &mut Context<'_>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (name, item) in block.rest() {
        match &item.node {
            Node::Text(text) | Node::Number(text) => context.environment.set(&name, text),
            Node::Boolean(value) => context.environment.set(&name, &value.to_string()),
            _ => {
                context.unexpected(&item, "text");
                continue;
            }
        }
        variables.push((name, item.path));
    }
    variables
}

/// The gateway has one setting for all.
fn check_drop_params(entry: &Entry, all: bool, context: &mut Context<'_>) {
    if let Some((path, own)) = &entry.drop_params
        && *own != all
    {
        let message = format!(
            "parameters that an upstream does not take are {} for all deployments",
            if all { "dropped" } else { "kept" }
        );
        context.notes.warn(path, message, "set drop_params under litellm_settings");
    }
}
