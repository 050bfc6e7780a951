//! I/O: makes the children of one gateway what they should be. Writes only where something differs, never to an object
//! that is not the gateway's, and always with the resourceVersion that it was decided from.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tollgate_crds::LLMGateway;

use super::child::{Kind, project};
use super::children::{APPLIED, Children, children, selector_text};
use super::live::{Child, Listed, Live};
use super::{rollout, service};
use crate::facts::{GatewayFact, Problem};
use crate::names::{self, MANAGER};
use crate::settings::Settings;

/// Owns `spec.replicas` between us and an autoscaler: a field that its last owner leaves out is reset, and the Deployment
/// would shrink to one pod until the autoscaler looks at it.
const SCALING_MANAGER: &str = "tollgate-operator-scaling";

/// When what no watch tells is looked at again: a ServiceAccount that is missing, an object in the way.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What the API server refused is refused again, unless its rules change.
const REFUSED_AGAIN: Duration = Duration::from_secs(300);

const INVALID: &str = "Invalid";

/// What to do with a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Apply,
    Delete,
    /// It is there and not the gateway's.
    Foreign,
}

/// What was applied and what the server made of it: quantities in another spelling, and the like. By kind, namespace and
/// name.
#[derive(Debug, Default)]
pub(super) struct Settled(HashMap<(Kind, String, String), (Value, Value)>);

impl Settled {
    /// What to do to come from `live` to `wanted`, where `owner` is the uid of the gateway.
    pub fn decide(&self, kind: Kind, owner: &str, live: Option<&Child>, wanted: Option<&Value>) -> Action {
        match (live, wanted) {
            (None, None) => Action::Nothing,
            (None, Some(_)) => Action::Apply,
            (Some(live), wanted) if live.owner.as_deref() != Some(owner) => {
                if wanted.is_some() {
                    Action::Foreign
                } else {
                    Action::Nothing
                }
            }
            (Some(_), None) => Action::Delete,
            (Some(live), Some(wanted)) => {
                let is = project(&live.object, wanted);
                let is_settled =
                    self.0.get(&key(kind, wanted)).is_some_and(|(asked, made)| asked == wanted && *made == is);
                if is == *wanted || is_settled { Action::Nothing } else { Action::Apply }
            }
        }
    }

    fn remember(&mut self, kind: Kind, wanted: &Value, applied: &Child) {
        self.0.insert(key(kind, wanted), (wanted.clone(), project(&applied.object, wanted)));
    }
}

fn key(kind: Kind, object: &Value) -> (Kind, String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (kind, text("namespace"), text("name"))
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub fact: GatewayFact,
    /// When to look again though nothing happened.
    pub again: Option<Duration>,
}

pub(super) struct Reconciler<'a> {
    pub client: &'a Client,
    pub settings: &'a Settings,
    pub live: &'a mut Live,
    pub settled: &'a mut Settled,
}

impl Reconciler<'_> {
    /// `None`: what is there is not known yet; it is to be called again once it is.
    ///
    /// # Errors
    /// The API server cannot be asked, or something else wrote first: to be tried again.
    pub async fn run(&mut self, gateway: &LLMGateway) -> Result<Option<Outcome>, kube::Error> {
        let (namespace, name) = (gateway.namespace().unwrap_or_default(), gateway.name_any());
        let mut again = None;
        let is_looked_at = Kind::ALL.iter().all(|kind| self.live.listed(*kind, &namespace) == Listed::Yes);
        let problem = match children(gateway, self.settings) {
            Err(problem) => Some(problem),
            Ok(children) => match self.make(gateway, &children, &namespace).await {
                Ok(()) => None,
                Err(Stop::Problem(problem)) => {
                    again = Some(if problem.reason == INVALID { REFUSED_AGAIN } else { LOOK_AGAIN });
                    Some(problem)
                }
                Err(Stop::NotYet) => return Ok(None),
                Err(Stop::Failed(error)) => return Err(error),
            },
        };
        let deployment = self.live.get(Kind::Deployment, &namespace, &names::proxies(&name));
        let deployment = deployment.filter(|child| child.owner == gateway.metadata.uid).map(|child| &child.object);
        let fact = GatewayFact {
            uid: gateway.metadata.uid.clone().unwrap_or_default(),
            generation: gateway.metadata.generation.unwrap_or(0),
            is_looked_at,
            address: service::address(gateway),
            replicas: deployment.map_or(0, rollout::replicas),
            selector: Some(selector_text(&name)),
            problem: problem.or_else(|| deployment.and_then(|deployment| rollout::problem(deployment, self.settings))),
        };
        Ok(Some(Outcome { fact, again }))
    }

    async fn make(&mut self, gateway: &LLMGateway, children: &Children, namespace: &str) -> Result<(), Stop> {
        let owner = gateway.metadata.uid.as_deref().unwrap_or_default();
        let name = names::proxies(&gateway.name_any());
        for kind in Kind::ALL {
            match self.live.listed(kind, namespace) {
                Listed::Yes => {}
                Listed::NotYet => return Err(Stop::NotYet),
                Listed::Failed => {
                    let message = format!("the operator cannot watch {kind:?}s of namespace `{namespace}`");
                    return Err(Stop::Problem(Problem { reason: "Forbidden", message }));
                }
            }
        }
        if self.live.get(Kind::Deployment, namespace, &name).is_none_or(|child| rollout::is_refused(&child.object)) {
            self.find_service_account(namespace).await?;
        }
        for (kind, wanted) in children.objects() {
            let mut action = self.settled.decide(kind, owner, self.live.get(kind, namespace, &name), wanted.as_ref());
            if action == Action::Apply && self.live.get(kind, namespace, &name).is_none() {
                // The watch sees only what has our labels.
                let found =
                    self.api(kind, namespace).get_opt(&name).await.map_err(|error| denied(error, kind, namespace))?;
                let found = found.map(|found| Child::of(kind, found));
                action = self.settled.decide(kind, owner, found.as_ref(), wanted.as_ref());
                if action != Action::Foreign {
                    self.live.set(kind, namespace, &name, found);
                }
            }
            match (action, wanted) {
                (Action::Apply, Some(wanted)) => self.apply(kind, namespace, &name, wanted, gateway).await?,
                (Action::Delete, _) => self.delete(kind, namespace, &name).await?,
                (Action::Foreign, _) => {
                    let message = format!(
                        "{kind:?} `{name}` in namespace `{namespace}` belongs to somebody else; delete it or give the gateway another name"
                    );
                    return Err(Stop::Problem(Problem { reason: "NameTaken", message }));
                }
                (Action::Nothing | Action::Apply, _) => {}
            }
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        mut wanted: Value,
        gateway: &LLMGateway,
    ) -> Result<(), Stop> {
        let before = self.live.get(kind, namespace, name).cloned();
        let autoscaling = gateway.spec.autoscaling.as_ref().filter(|_| kind == Kind::Deployment);
        let mut resource_version = before.as_ref().map(|child| child.resource_version.clone());
        if let (Some(_), Some(before)) = (autoscaling, before.as_ref().filter(|before| before.owns_replicas)) {
            let replicas = before.object["spec"]["replicas"].clone();
            let handed = self.hand_over_replicas(namespace, name, &replicas, before).await?;
            resource_version = Some(handed.resource_version);
        }
        let clean = wanted.clone();
        if let (Some(before), Some(version)) = (&before, resource_version) {
            wanted["metadata"]["resourceVersion"] = Value::String(version);
            wanted["metadata"]["uid"] = Value::String(before.uid.clone());
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = self.api(kind, namespace).patch(name, &parameters, &Patch::Apply(&wanted)).await;
        let mut applied = Child::of(kind, applied.map_err(|error| denied(error, kind, namespace))?);
        tracing::info!(kind = ?kind, namespace, name, stamp = %clean["metadata"]["annotations"][APPLIED], "applied {kind:?} `{namespace}/{name}`");
        if let (Some(autoscaling), None) = (autoscaling, &before) {
            applied = self.hand_over_replicas(namespace, name, &json!(autoscaling.min_replicas), &applied).await?;
        }
        self.settled.remember(kind, &clean, &applied);
        self.live.set(kind, namespace, name, Some(applied));
        Ok(())
    }

    /// Sets the number of pods in the name of nobody who would insist on it.
    async fn hand_over_replicas(
        &self,
        namespace: &str,
        name: &str,
        replicas: &Value,
        before: &Child,
    ) -> Result<Child, Stop> {
        let wanted = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace, "uid": before.uid, "resourceVersion": before.resource_version},
            "spec": {"replicas": replicas},
        });
        let parameters = PatchParams::apply(SCALING_MANAGER).force();
        let applied = self.api(Kind::Deployment, namespace).patch(name, &parameters, &Patch::Apply(&wanted)).await;
        Ok(Child::of(Kind::Deployment, applied.map_err(|error| denied(error, Kind::Deployment, namespace))?))
    }

    async fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Result<(), Stop> {
        let Some(child) = self.live.get(kind, namespace, name) else { return Ok(()) };
        let preconditions =
            Preconditions { uid: Some(child.uid.clone()), resource_version: Some(child.resource_version.clone()) };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.api(kind, namespace).delete(name, &parameters).await {
            Ok(_) => tracing::info!(kind = ?kind, namespace, name, "deleted {kind:?} `{namespace}/{name}`"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(denied(error, kind, namespace)),
        }
        self.live.set(kind, namespace, name, None);
        Ok(())
    }

    async fn find_service_account(&self, namespace: &str) -> Result<(), Stop> {
        let name = &self.settings.proxy_service_account;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        match accounts.get_metadata_opt(name).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Stop::Problem(rollout::not_prepared(namespace, name))),
            // Then the Deployment tells, later.
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
            Err(error) => Err(Stop::Failed(error)),
        }
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }
}

/// Why children are not as they should be.
enum Stop {
    /// Not everything that is there was listed yet.
    NotYet,
    /// It is for somebody to change.
    Problem(Problem),
    /// It passes.
    Failed(kube::Error),
}

/// Whether trying again is of no use. What the server cannot even read it calls a failure of its own.
fn is_refused(status: &Status) -> bool {
    matches!(status.code, 400 | 422) || status.code == 500 && status.message.contains("failed to convert")
}

/// What the server refuses for good is a problem of the gateway.
fn denied(error: kube::Error, kind: Kind, namespace: &str) -> Stop {
    match &error {
        kube::Error::Api(status) if status.code == 403 => Stop::Problem(Problem {
            reason: "Forbidden",
            message: format!("the operator may not write {kind:?}s of namespace `{namespace}`: {}", status.message),
        }),
        kube::Error::Api(status) if is_refused(status) => Stop::Problem(Problem {
            reason: INVALID,
            message: format!("the API server refuses the {kind:?}: {}", status.message),
        }),
        _ => Stop::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_cannot_read_is_a_problem_of_the_gateway() {
        let unreadable = "failed to convert new object (n/tollgate; apps/v1, Kind=Deployment) to proper version: unable to \
                          convert unstructured object to apps/v1, Kind=Deployment: quantities must match";
        for (code, message, reason) in [
            (403, "no", Some("Forbidden")),
            (400, "no", Some(INVALID)),
            (422, "no", Some(INVALID)),
            (500, unreadable, Some(INVALID)),
            (500, "etcdserver: request timed out", None),
            (503, "no", None),
        ] {
            let error = kube::Error::Api(Status::failure(message, "").with_code(code).boxed());
            let found = match denied(error, Kind::Deployment, "n") {
                Stop::Problem(problem) => Some(problem.reason),
                Stop::NotYet | Stop::Failed(_) => None,
            };
            assert_eq!(found, reason, "{code} {message}");
        }
    }
}
