//! Selection by labels, as Kubernetes writes it, with bounds on every list.

use crate::bounded;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Selects objects by their labels; all parts must match, and an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with exactly these values. Example: `{env: dev}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::labels")]
    pub match_labels: BTreeMap<String, String>,

    /// Conditions on labels beyond equality. Example: `[{key: env, operator: In, values: [dev, test]}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelExpression>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)")
    .message("values belong beside the operators In and NotIn, and only there"))]
#[serde(rename_all = "camelCase")]
pub struct LabelExpression {
    /// Name of the label. Example: `env`.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,

    /// How the label is compared. Example: `In`.
    pub operator: LabelOperator,

    /// Values to compare with, for `In` and `NotIn`. Example: `[dev, test]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is missing.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let LabelSelector { match_labels, match_expressions } = self;
        match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|value| self.values.contains(value)),
            LabelOperator::NotIn => !value.is_some_and(|value| self.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn expression(operator: LabelOperator, values: &[&str]) -> LabelSelector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        LabelSelector {
            match_expressions: vec![LabelExpression { key: "env".to_owned(), operator, values }],
            ..LabelSelector::default()
        }
    }

    #[test]
    fn an_empty_selector_matches_everything() {
        assert!(LabelSelector::default().matches(&labels(&[])));
        assert!(LabelSelector::default().matches(&labels(&[("env", "dev")])));
    }

    #[test]
    fn match_labels_must_all_be_there() {
        let selector =
            LabelSelector { match_labels: labels(&[("env", "dev"), ("llm", "allowed")]), ..Default::default() };
        assert!(selector.matches(&labels(&[("env", "dev"), ("llm", "allowed"), ("more", "x")])));
        assert!(!selector.matches(&labels(&[("env", "dev")])));
        assert!(!selector.matches(&labels(&[("env", "prod"), ("llm", "allowed")])));
    }

    #[test]
    fn expressions_compare_as_kubernetes_does() {
        use LabelOperator::*;
        for (operator, values, dev, prod, missing) in [
            (In, &["dev", "test"][..], true, false, false),
            (NotIn, &["dev"][..], false, true, true),
            (Exists, &[][..], true, true, false),
            (DoesNotExist, &[][..], false, false, true),
        ] {
            let selector = expression(operator, values);
            assert_eq!(selector.matches(&labels(&[("env", "dev")])), dev, "{operator:?}");
            assert_eq!(selector.matches(&labels(&[("env", "prod")])), prod, "{operator:?}");
            assert_eq!(selector.matches(&labels(&[])), missing, "{operator:?}");
        }
    }
}
