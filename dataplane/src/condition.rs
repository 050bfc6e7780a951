//! CEL conditions on a route's targets: `request.{model,tags,headers,endUser}` and `key.{name,namespace,team,user,labels}`.
//! Compiled when tables are built; a target without a condition costs nothing here.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Program, Value};

/// A compiled condition.
pub struct Condition {
    program: Program,
    text: Arc<str>,
}

/// What conditions can see of a call.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    pub model: &'a str,
    pub tags: Vec<String>,
    /// Lower-case names; of repeated headers the first.
    pub headers: HashMap<String, String>,
    pub end_user: Option<&'a str>,
    pub key_name: &'a str,
    pub key_namespace: &'a str,
    pub team: Option<&'a str>,
    pub user: Option<&'a str>,
    pub labels: HashMap<String, String>,
}

impl Condition {
    /// Compiles a condition.
    ///
    /// # Errors
    /// The parser's own message.
    pub fn new(text: &str) -> Result<Condition, String> {
        let program = Program::compile(text).map_err(|errors| errors.to_string())?;
        Ok(Condition { program, text: text.into() })
    }

    /// Whether the condition holds. One that fails (a missing label, say) does not hold.
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        let mut context = Context::default();
        let text = |text: &str| Value::from(text.to_owned());
        let option = |text: Option<&str>| Value::from(text.unwrap_or_default().to_owned());
        let request: HashMap<String, Value> = HashMap::from([
            ("model".to_owned(), text(facts.model)),
            ("tags".to_owned(), Value::from(facts.tags.iter().map(|tag| text(tag)).collect::<Vec<_>>())),
            ("headers".to_owned(), Value::from(facts.headers.clone())),
            ("endUser".to_owned(), option(facts.end_user)),
        ]);
        let key: HashMap<String, Value> = HashMap::from([
            ("name".to_owned(), text(facts.key_name)),
            ("namespace".to_owned(), text(facts.key_namespace)),
            ("team".to_owned(), option(facts.team)),
            ("user".to_owned(), option(facts.user)),
            ("labels".to_owned(), Value::from(facts.labels.clone())),
        ]);
        context.add_variable_from_value("request", request);
        context.add_variable_from_value("key", key);
        matches!(self.program.execute(&context), Ok(Value::Bool(true)))
    }
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_see_the_request_and_the_key() {
        let facts = Facts {
            model: "gpt-4o",
            tags: vec!["eu".into()],
            headers: HashMap::from([("x-tier".into(), "gold".into())]),
            key_name: "ci",
            labels: HashMap::from([("env".into(), "dev".into())]),
            ..Facts::default()
        };
        for (text, expected) in [
            ("'eu' in request.tags", true),
            ("'us' in request.tags", false),
            ("request.headers['x-tier'] == 'gold' && key.labels.env == 'dev'", true),
            ("key.labels.missing == 'x'", false),
            ("key.team == ''", true),
            ("request.model", false),
        ] {
            assert_eq!(Condition::new(text).unwrap().holds(&facts), expected, "{text}");
        }
        assert!(Condition::new("request.tags ==").is_err());
    }
}
