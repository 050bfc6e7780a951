//! A LiteLLM `config.yaml` as Tollgate resources: in memory for `serve`, as YAML for `import`. Pure: no files, no
//! environment but what the caller hands in. Nothing of the file is dropped in silence: what has no equivalent becomes a
//! [`Note`].
#![forbid(unsafe_code)]

mod decimal;
mod detect;
mod name;
mod node;
mod note;

pub use detect::is_litellm;
pub use note::Note;
