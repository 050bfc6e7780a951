//! A LiteLLM `config.yaml` as Tollgate resources: in memory for `serve`, as YAML for `import`. Pure: no files, no
//! environment but what the caller hands in. Nothing of the file is dropped in silence: what has no equivalent becomes a
//! [`Note`].
#![forbid(unsafe_code)]

mod block;
mod budget;
mod context;
mod credential;
mod decimal;
mod deployment;
mod detect;
mod documents;
mod draft;
mod environment;
mod fallback;
mod gateway;
mod group;
mod leftover;
mod name;
mod node;
mod note;
mod price;
mod price_map;
mod print;
mod provider;
mod rate;
mod retry;
mod secret;
mod settings;
mod share;

pub use detect::is_litellm;
pub use note::Note;
pub use price_map::{PriceMap, is_price_map, read_price_map};

use environment::Process;
use tollgate_snapshot::compile::{Document, Secret};

/// Where environment variables come from.
pub type Variables<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// The resources of a file, ready to be compiled.
#[derive(Debug)]
pub struct Imported {
    /// The gateway, deployments, route groups, the budget.
    pub documents: Vec<Document>,
    pub secrets: Vec<Secret>,
    /// In the order of the file's blocks; at most one for a place.
    pub notes: Vec<Note>,
}

/// The resources of a file as text.
#[derive(Debug)]
pub struct Printed {
    /// Documents with `---` between them; empty when the file cannot be read.
    pub yaml: String,
    pub notes: Vec<Note>,
}

/// Reads a LiteLLM file in order to serve it. `variables`: the environment, where `os.environ/NAME` and keys of
/// providers are looked up, after the file's own `environment_variables`.
pub fn import(text: &str, namespace: &str, variables: Variables<'_>) -> Imported {
    let (draft, notes) = draft::draft(text, Process::Known(variables));
    let (documents, secrets) = draft.map(|draft| documents::documents(draft, namespace)).unwrap_or_default();
    Imported { documents, secrets, notes }
}

/// How a file is printed.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Of all resources.
    pub namespace: &'a str,
    /// Where values of variables come from that are written into the output, as a cluster wants them. A Secret whose
    /// variable is not set is left out, with a note. `None`: `os.environ/NAME` becomes `${NAME}` in a Secret, for
    /// `tollgate serve`.
    pub fill: Option<Variables<'a>>,
    /// Whether the LLMGateway and its master key are part of it.
    pub gateway: bool,
}

impl Output<'_> {
    /// Everything, variables as variables.
    pub fn new(namespace: &str) -> Output<'_> {
        Output { namespace, fill: None, gateway: true }
    }
}

/// Prints what a LiteLLM file stands for.
pub fn to_yaml(text: &str, output: Output<'_>) -> Printed {
    let process = output.fill.map_or(Process::Later, Process::Filled);
    let (draft, mut notes) = draft::draft(text, process);
    let Some(draft) = draft else { return Printed { yaml: String::new(), notes } };
    if !output.gateway {
        let message = "the LLMGateway is left out: the master key, and retries, timeouts and cooldowns that the file sets \
                       for all models, are those of the gateway that is there";
        notes.push(Note { path: String::new(), message: message.to_owned(), hint: String::new(), is_error: false });
    }
    Printed { yaml: print::print(&draft, output), notes }
}
