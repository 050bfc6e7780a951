//! Where `os.environ/NAME` leads: to the file's own `environment_variables`, then to the process; or, when resources are
//! printed, into a Secret that is filled later.

use std::collections::{BTreeMap, BTreeSet};

use crate::Variables;

/// How LiteLLM writes a variable.
const PREFIX: &str = "os.environ/";

/// Where variables are looked up.
#[derive(Clone, Copy)]
pub enum Process<'a> {
    /// Now.
    Known(Variables<'a>),
    /// Now; those that are not set stay open, for whoever completes the output.
    Filled(Variables<'a>),
    /// When the printed resources are read, in Secrets and nowhere else.
    Later,
}

/// All variables of one file.
pub struct Environment<'a> {
    /// The file's own, resolved.
    own: BTreeMap<String, Resolved>,
    used: BTreeSet<String>,
    process: Process<'a>,
}

/// What a text stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    Text(String),
    /// Known later, by this name.
    Variable(String),
    /// A variable of this name is not set.
    Missing(String),
}

impl<'a> Environment<'a> {
    pub fn new(process: Process<'a>) -> Environment<'a> {
        Environment { own: BTreeMap::new(), used: BTreeSet::new(), process }
    }

    /// A variable that the file sets. A reference to another is resolved among those before it.
    pub fn set(&mut self, name: &str, value: &str) {
        let resolved = self.resolve(value);
        self.own.insert(name.to_owned(), resolved);
    }

    /// What a text of the file stands for.
    pub fn resolve(&mut self, text: &str) -> Resolved {
        match text.strip_prefix(PREFIX) {
            Some(name) => self.variable(name.trim()),
            None => Resolved::Text(text.to_owned()),
        }
    }

    /// The first of these variables that is set; of those that nobody can know yet, the first.
    pub fn first_of(&mut self, names: &[&str]) -> Option<(String, Resolved)> {
        if let Some(name) = names.iter().find(|name| self.own.contains_key(**name)) {
            return Some(((*name).to_owned(), self.variable(name)));
        }
        let open = || names.first().map(|name| ((*name).to_owned(), Resolved::Variable((*name).to_owned())));
        if self.is_known_later() {
            return open();
        }
        let set = names.iter().find_map(|name| match self.variable(name) {
            Resolved::Text(text) if !text.is_empty() => Some(((*name).to_owned(), Resolved::Text(text))),
            _ => None,
        });
        match self.process {
            Process::Filled(_) => set.or_else(open),
            Process::Known(_) | Process::Later => set,
        }
    }

    /// Whether something asked for a variable that the file sets.
    pub fn is_used(&self, name: &str) -> bool {
        self.used.contains(name)
    }

    pub fn is_known_later(&self) -> bool {
        matches!(self.process, Process::Later)
    }

    /// Whether what stays open was looked for.
    pub fn is_filled(&self) -> bool {
        matches!(self.process, Process::Filled(_))
    }

    fn variable(&mut self, name: &str) -> Resolved {
        self.used.insert(name.to_owned());
        if let Some(own) = self.own.get(name) {
            return own.clone();
        }
        match self.process {
            Process::Later => Resolved::Variable(name.to_owned()),
            Process::Known(variables) => {
                variables(name).map_or_else(|| Resolved::Missing(name.to_owned()), Resolved::Text)
            }
            Process::Filled(variables) => {
                variables(name).map_or_else(|| Resolved::Variable(name.to_owned()), Resolved::Text)
            }
        }
    }
}

/// The variable that a text names, if it names one.
pub fn variable_name(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_before_the_process() {
        let process = |name: &str| ["A", "B"].contains(&name).then(|| format!("process {name}"));
        let mut environment = Environment::new(Process::Known(&process));
        environment.set("A", "own");
        environment.set("C", "os.environ/B");
        assert_eq!(environment.resolve("os.environ/A"), Resolved::Text("own".into()));
        assert_eq!(environment.resolve("os.environ/B"), Resolved::Text("process B".into()));
        assert_eq!(environment.resolve("os.environ/C"), Resolved::Text("process B".into()));
        assert_eq!(environment.resolve("os.environ/D"), Resolved::Missing("D".into()));
        assert_eq!(environment.resolve("plain"), Resolved::Text("plain".into()));
        assert_eq!(environment.first_of(&["D", "B", "A"]).unwrap().0, "A");
        assert_eq!(environment.first_of(&["D"]), None);
        assert!(environment.is_used("A") && environment.is_used("C"));
    }

    #[test]
    fn what_cannot_be_filled_stays_open() {
        let process = |name: &str| (name == "B").then(|| "of the process".to_owned());
        let mut environment = Environment::new(Process::Filled(&process));
        assert_eq!(environment.resolve("os.environ/B"), Resolved::Text("of the process".into()));
        assert_eq!(environment.resolve("os.environ/D"), Resolved::Variable("D".into()));
        assert_eq!(environment.first_of(&["D", "B"]), Some(("B".into(), Resolved::Text("of the process".into()))));
        assert_eq!(environment.first_of(&["D", "E"]), Some(("D".into(), Resolved::Variable("D".into()))));
    }

    #[test]
    fn what_is_known_later_keeps_its_name() {
        let mut environment = Environment::new(Process::Later);
        environment.set("A", "own");
        assert_eq!(environment.resolve("os.environ/A"), Resolved::Text("own".into()));
        assert_eq!(environment.resolve("os.environ/B"), Resolved::Variable("B".into()));
        assert_eq!(environment.first_of(&["X", "Y"]), Some(("X".into(), Resolved::Variable("X".into()))));
    }
}
