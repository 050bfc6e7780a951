//! Which models something is true of, as the line of their provider in the catalogue names them. Known when tables are
//! built, but where clients choose what stands for the `*` of a deployment's model.

use std::borrow::Cow;

use tollgate_snapshot::catalogue;

/// Of the models of one deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    #[default]
    None,
    All,
    /// Those that match one of these.
    Named(&'static [&'static str]),
}

impl Which {
    /// `model`: of the deployment, with or without a `*`.
    pub fn of(patterns: &'static [&'static str], model: &str) -> Which {
        if patterns.is_empty() {
            return Which::None;
        }
        if model.contains('*') {
            return Which::Named(patterns);
        }
        if is_named(patterns, model) { Which::All } else { Which::None }
    }

    /// Whether this model is one of them. `model` is asked for only where that depends on it.
    pub fn has<'m>(self, model: impl FnOnce() -> Cow<'m, str>) -> bool {
        match self {
            Which::None => false,
            Which::All => true,
            Which::Named(patterns) => is_named(patterns, &model()),
        }
    }
}

fn is_named(patterns: &[&str], model: &str) -> bool {
    patterns.iter().any(|pattern| catalogue::matches(pattern, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_looked_at_where_the_client_chooses_the_model() {
        const ONLINE: &[&str] = &["*:online*"];
        let has = |deployment: &str, asked: &'static str| Which::of(ONLINE, deployment).has(|| asked.into());
        assert!(has("openai/gpt-4o:online", "not asked for") && has("*", "openai/gpt-4o:free:online"));
        assert!(!has("openai/gpt-4o", "not asked for") && !has("*", "openai/gpt-4o"));
        assert_eq!(Which::of(&[], "*"), Which::None);
    }
}
