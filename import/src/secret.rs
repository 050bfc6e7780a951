//! Secrets that the resources refer to: one for each key, however many deployments use it.

use std::collections::BTreeSet;

use tollgate_crds::{SecretKeyRef, SecretSource};

use crate::environment::Resolved;
use crate::name::Names;

/// A Secret with one entry.
#[derive(Debug)]
pub struct SecretDraft {
    pub name: String,
    pub key: &'static str,
    pub value: Resolved,
    /// Hosts beside the provider's own that the value is sent to.
    pub hosts: BTreeSet<String>,
    /// What makes it the same as another: the variable it comes from, or the value itself.
    origin: String,
}

/// All of a file, in the order of first use.
#[derive(Debug, Default)]
pub struct Secrets {
    drafts: Vec<SecretDraft>,
    names: Names,
}

impl Secrets {
    /// A reference to the Secret that holds `value`. `variable`: where it comes from, which then names the Secret;
    /// else `purpose` does. `host`: where else than at its provider it is sent.
    pub fn refer(
        &mut self,
        variable: Option<&str>,
        purpose: &str,
        key: &'static str,
        value: Resolved,
        host: Option<String>,
    ) -> SecretSource {
        let origin = match (&value, variable) {
            (_, Some(variable)) => format!("{key} of variable {variable}"),
            (Resolved::Text(text) | Resolved::Variable(text) | Resolved::Missing(text), None) => {
                format!("{key} {text}")
            }
        };
        let at = match self.drafts.iter().position(|draft| draft.origin == origin) {
            Some(at) => at,
            None => {
                let name = self.names.unique(variable.unwrap_or(purpose));
                self.drafts.push(SecretDraft { name, key, value, hosts: BTreeSet::new(), origin });
                self.drafts.len() - 1
            }
        };
        let draft = &mut self.drafts[at];
        draft.hosts.extend(host);
        SecretSource { secret_ref: SecretKeyRef { name: draft.name.clone(), key: draft.key.to_owned() } }
    }

    pub fn into_vec(self) -> Vec<SecretDraft> {
        self.drafts
    }
}
