//! Fallbacks in every form people write: `[{a: [b, c]}]`, `{a: [b]}`, `{"*": [d]}`, chains `[[a, b, c]]`.

use tollgate_crds::{ErrorClass, Fallback};

use crate::block::{Block, Item, join};
use crate::context::Context;
use crate::node::Node;
use crate::settings::{Home, Settings};

/// Stands for every model without an entry of its own.
const EVERY: &str = "*";
/// Most models that a fallback of a resource names.
const MOST_MODELS: usize = 16;

/// One list of fallbacks.
#[derive(Debug)]
struct Table {
    name: &'static str,
    error: ErrorClass,
    chains: Vec<Chain>,
}

/// From one model to others.
#[derive(Debug)]
struct Chain {
    path: String,
    source: String,
    models: Vec<(String, String)>,
    is_used: bool,
}

/// All fallbacks of a file.
#[derive(Debug)]
pub struct Fallbacks([Table; 3]);

impl Fallbacks {
    pub fn read(settings: &mut Settings, context: &mut Context<'_>) -> Fallbacks {
        let mut table = |key, name, error| {
            let item = settings.take(key, &[Home::Router, Home::Litellm], context);
            Table { name, error, chains: item.map(|item| chains(item, context)).unwrap_or_default() }
        };
        let mut general = table("fallbacks", "any", ErrorClass::Any);
        let context_window = table("context_window_fallbacks", "context-window", ErrorClass::ContextWindow);
        let content_policy = table("content_policy_fallbacks", "content-policy", ErrorClass::ContentPolicy);
        if let Some(item) = settings.take("default_fallbacks", &[Home::Router, Home::Litellm], context) {
            let path = item.path.clone();
            if general.chains.iter().any(|chain| chain.source == EVERY) {
                context.notes.warn(path, "it is not used: `fallbacks` has an entry for `*`", "remove one of them");
            } else {
                let chain = Chain { path, source: EVERY.to_owned(), models: models(item, context), is_used: false };
                general.chains.push(chain);
            }
        }
        Fallbacks([general, context_window, content_policy])
    }

    /// The fallbacks of a group that answers to `names`; the first is its own.
    pub fn of(&mut self, names: &[&str], context: &mut Context<'_>) -> Vec<Fallback> {
        let mut found = Vec::new();
        for Table { name, error, chains } in &mut self.0 {
            let own = chains.iter().position(|chain| names.contains(&chain.source.as_str()));
            let every = || chains.iter().position(|chain| chain.source == EVERY);
            let Some(at) = own.or_else(every) else { continue };
            let chain = &mut chains[at];
            chain.is_used = true;
            let mut models: Vec<String> = Vec::new();
            for (_, model) in &chain.models {
                if !names.contains(&model.as_str()) && !models.contains(model) {
                    models.push(model.clone());
                }
            }
            if models.len() > MOST_MODELS {
                context.notes.warn(&chain.path, format!("only the first {MOST_MODELS} models are used"), "");
                models.truncate(MOST_MODELS);
            }
            if !models.is_empty() {
                found.push(Fallback { name: (*name).to_owned(), errors: vec![*error], models });
            }
        }
        found
    }

    /// Notes entries that no group took, and models that nothing answers to.
    pub fn finish(self, is_model: impl Fn(&str) -> bool, context: &mut Context<'_>) {
        for Table { chains, .. } in self.0 {
            for Chain { path, source, models, is_used } in chains {
                if source == EVERY {
                    context.notes.warn(&path, "a model that does not exist is an error here, without a fallback", "");
                } else if !is_used {
                    let message = format!("no entry of model_list has the name `{source}`; its fallbacks are left out");
                    context.notes.error(&path, message, "add an entry with this model_name");
                    continue;
                }
                for (path, model) in models.iter().filter(|(_, model)| !is_model(model)) {
                    context.notes.error(path, format!("nothing in model_list answers to `{model}`"), "");
                }
            }
        }
    }
}

fn chains(item: Item, context: &mut Context<'_>) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for item in item.each() {
        let path = item.path.clone();
        if let Node::List(_) = item.node {
            let mut names = models(item, context).into_iter();
            match names.next() {
                Some((_, source)) => {
                    add(&mut chains, Chain { path, source, models: names.collect(), is_used: false }, context)
                }
                None => context.notes.error(path, "the chain is empty", ""),
            }
            continue;
        }
        for (source, item) in Block::open(item, context).rest() {
            let path = item.path.clone();
            let chain = Chain { path, source, models: models(item, context), is_used: false };
            add(&mut chains, chain, context);
        }
    }
    chains
}

fn add(chains: &mut Vec<Chain>, chain: Chain, context: &mut Context<'_>) {
    match chains.iter().find(|present| present.source == chain.source) {
        Some(first) => {
            context.notes.warn(
                chain.path,
                format!("it is not used: `{}` comes first", first.path),
                "remove one of them",
            );
        }
        None => chains.push(chain),
    }
}

/// Names of models, each with its place. An object names its model under `model`.
fn models(item: Item, context: &mut Context<'_>) -> Vec<(String, String)> {
    let mut models = Vec::new();
    for item in item.each() {
        let path = item.path.clone();
        if let Node::Map(_) = item.node {
            let mut block = Block::open(item, context);
            let model = block.take("model").and_then(|item| context.text(&item));
            match model {
                Some(model) => models.push((join(&path, "model"), model)),
                None => context.notes.error(&path, "the fallback names no model", ""),
            }
            for (_, item) in block.rest() {
                context.unsupported(&item.path, "cannot be changed for a fallback", "");
            }
        } else if let Some(model) = context.text(&item) {
            models.push((path, model));
        }
    }
    models
}
