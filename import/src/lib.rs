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
mod print;
mod provider;
mod retry;
mod secret;
mod settings;
mod share;

pub use detect::is_litellm;
pub use note::Note;

use environment::Process;
use tollgate_snapshot::compile::{Document, Secret};

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
pub fn import(text: &str, namespace: &str, variables: &(dyn Fn(&str) -> Option<String> + Sync)) -> Imported {
    let (draft, notes) = draft::draft(text, Process::Known(variables));
    let (documents, secrets) = draft.map(|draft| documents::documents(draft, namespace)).unwrap_or_default();
    Imported { documents, secrets, notes }
}

/// Prints what a LiteLLM file stands for. Variables stay variables: `os.environ/NAME` becomes `${NAME}` in a Secret.
pub fn to_yaml(text: &str, namespace: &str) -> Printed {
    let (draft, notes) = draft::draft(text, Process::Later);
    let yaml = draft.map(|draft| print::print(&draft, namespace)).unwrap_or_default();
    Printed { yaml, notes }
}
