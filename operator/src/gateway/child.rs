//! The kinds of objects that a gateway has, and whether a live one is as it should be.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ApiResource;
use serde_json::{Map, Value};

/// Kinds of children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Service,
    NetworkPolicy,
    Deployment,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
}

impl Kind {
    pub const ALL: [Kind; 5] = [
        Kind::Service,
        Kind::NetworkPolicy,
        Kind::Deployment,
        Kind::PodDisruptionBudget,
        Kind::HorizontalPodAutoscaler,
    ];

    /// How the API server calls it.
    pub fn resource(self) -> ApiResource {
        match self {
            Kind::Service => ApiResource::erase::<Service>(&()),
            Kind::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Kind::Deployment => ApiResource::erase::<Deployment>(&()),
            Kind::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Kind::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        }
    }
}

/// What `live` has in the places that `wanted` names: equal to `wanted` when nothing is to do. The server fills in
/// defaults beside them and other controllers write beside them; that is theirs. Items of lists are found by their name,
/// else by their place.
pub fn project(live: &Value, wanted: &Value) -> Value {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let mut result = Map::new();
            for (name, wanted) in wanted {
                if let Some(live) = live.get(name) {
                    result.insert(name.clone(), project(live, wanted));
                }
            }
            Value::Object(result)
        }
        (Value::Array(live), Value::Array(wanted)) => {
            let mut result = Vec::with_capacity(wanted.len());
            for (at, wanted) in wanted.iter().enumerate() {
                let found = match identity(wanted) {
                    Some(identity) => live.iter().find(|live| self::identity(live) == Some(identity)),
                    None => live.get(at),
                };
                result.extend(found.map(|live| project(live, wanted)));
            }
            // An item too many of a list whose items have no names would stay for ever.
            if wanted.iter().all(|wanted| identity(wanted).is_none()) {
                result.extend(live.iter().skip(wanted.len()).cloned());
            }
            Value::Array(result)
        }
        (live, _) => live.clone(),
    }
}

/// What tells an item of a list from the others.
fn identity(item: &Value) -> Option<&Value> {
    item.get("name").or_else(|| item.get("uid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_no_difference() {
        let wanted = json!({"spec": {"replicas": 2, "containers": [{"name": "proxy", "image": "a"}], "args": ["x"]}});
        let live = json!({
            "metadata": {"uid": "1"},
            "spec": {
                "replicas": 2,
                "strategy": {},
                "containers": [{"name": "mesh"}, {"name": "proxy", "image": "a", "tty": false}],
                "args": ["x"],
            },
        });
        assert_eq!(project(&live, &wanted), wanted);
    }

    #[test]
    fn what_is_another_value_missing_or_too_many_is_a_difference() {
        let wanted = json!({"replicas": 2, "ports": [{"name": "a", "port": 1}], "args": ["x"]});
        for live in [
            json!({"replicas": 3, "ports": [{"name": "a", "port": 1}], "args": ["x"]}),
            json!({"ports": [{"name": "a", "port": 1}], "args": ["x"]}),
            json!({"replicas": 2, "ports": [{"name": "b", "port": 1}], "args": ["x"]}),
            json!({"replicas": 2, "ports": [{"name": "a", "port": 1}], "args": ["x", "y"]}),
            json!({"replicas": 2, "ports": [{"name": "a", "port": 1}], "args": []}),
        ] {
            assert_ne!(project(&live, &wanted), wanted, "{live}");
        }
    }
}
