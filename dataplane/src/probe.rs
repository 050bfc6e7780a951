//! One cheap real call to a deployment, with its own credential and over the ordinary way out: does it work? Asked by
//! the operator, which decides how often. Lists the provider's models, or makes a completion of one token that is held,
//! priced and booked like any attempt. Probes never bench a deployment.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use tollgate_dialects::Dialect;
use tollgate_dialects::head::Operation;
use tollgate_snapshot::model::{self, AuthStyle, Probe};

use crate::admit::{Admitted, RequestPermits};
use crate::attempt::{self, Attempting, Clock};
use crate::call::scan;
use crate::caller::{Caller, Who};
use crate::core::{BodyShare, Core, Entry};
use crate::error::GatewayError;
use crate::limits::Permits;
use crate::outgoing::{ANTHROPIC_VERSION, Mode, output_field};
use crate::plan::Picked;
use crate::record::Record;
use crate::tables::{DeploymentEntry, PreparedCredential, Tables};
use crate::upstream::{Message, SendError};

/// What a probe may take: the operator has more of them to make.
const TOTAL: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);

/// Longest list of models that is read, so that its connection can serve again.
const MAX_LIST_BYTES: usize = 1 << 20;

/// What came out of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub ok: bool,
    /// Of the provider; 0 when none came.
    pub status: u16,
    pub latency_ms: u64,
    pub reason: Reason,
    /// For people. Without any text of the provider, which may repeat a credential.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reason {
    Reachable,
    Unauthorized,
    ModelNotFound,
    Unreachable,
    Timeout,
    Failed,
}

impl Verdict {
    fn new(reason: Reason, status: u16, message: impl Into<String>) -> Verdict {
        Verdict { ok: reason == Reason::Reachable, status, latency_ms: 0, reason, message: message.into() }
    }
}

/// Probes a deployment, by `namespace/name`. `None`: there is no such deployment. Cancelling closes the connection; a
/// completion that was sent is charged what it held.
pub async fn probe(core: &Rc<Core>, id: &str) -> Option<Verdict> {
    let tables = core.tables();
    let index = tables.deployments.iter().position(|entry| *entry.id == *id)?;
    let deployment = &tables.snapshot.deployments[index];
    let entry = &tables.deployments[index];
    let begun = Instant::now();
    let verdict =
        if deployment.auth != AuthStyle::None && entry.credentials.is_empty() && !deployment.credentials.is_empty() {
            Verdict::new(Reason::Unauthorized, 0, "its credential is not there or makes no header")
        } else {
            let completion = match deployment.probe {
                Probe::Completion => completion(core, &tables, index as u32).await,
                Probe::Models | Probe::None => None,
            };
            match completion {
                Some(verdict) => verdict,
                None => models(core, deployment, entry).await,
            }
        };
    Some(Verdict { latency_ms: begun.elapsed().as_millis() as u64, ..verdict })
}

/// Asks for the list of models with every credential until one is accepted.
async fn models(core: &Rc<Core>, deployment: &model::Deployment, entry: &DeploymentEntry) -> Verdict {
    let Some(uri) = &entry.paths.models else {
        return Verdict::new(Reason::Failed, 0, "its address makes no request target");
    };
    if entry.credentials.is_empty() {
        return list(core, deployment, entry, uri, None).await;
    }
    let mut refused = None;
    for (number, credential) in entry.credentials.iter().enumerate() {
        let verdict = list(core, deployment, entry, uri, Some(credential)).await;
        if verdict.reason != Reason::Unauthorized {
            let before = if number > 0 {
                format!("; {number} of {} credentials are refused", entry.credentials.len())
            } else {
                String::new()
            };
            return Verdict { message: format!("{}{before}", verdict.message), ..verdict };
        }
        refused = Some(verdict);
    }
    refused.unwrap_or_else(|| Verdict::new(Reason::Unauthorized, 0, "it has no credential"))
}

async fn list(
    core: &Rc<Core>,
    deployment: &model::Deployment,
    entry: &DeploymentEntry,
    uri: &http::Uri,
    credential: Option<&PreparedCredential>,
) -> Verdict {
    let mut head = Vec::new();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [b"GET ", path.as_bytes(), b" HTTP/1.1\r\nhost: ", entry.authority.as_bytes()] {
        head.extend_from_slice(part);
    }
    head.extend_from_slice(b"\r\naccept: application/json\r\n");
    let mut field = |name: &HeaderName, value: &HeaderValue| {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    if let Some(credential) = credential {
        field(&credential.header, &credential.value);
    }
    entry.extra_headers.iter().for_each(|(name, value)| field(name, value));
    let version = HeaderName::from_static("anthropic-version");
    if deployment.dialect == Dialect::Anthropic && entry.extra_headers.iter().all(|(name, _)| *name != version) {
        field(&version, &ANTHROPIC_VERSION);
    }
    head.extend_from_slice(b"\r\n");
    let message = Message::new(head, &[]);
    let until = Instant::now() + TOTAL;
    let exchange = async {
        let sent = core.pool.send(&entry.target, &message, CONNECT, until).await?;
        // Read, so that its connection can serve again; one that is too long is closed.
        let _ = sent.body.whole(MAX_LIST_BYTES).await;
        Ok::<u16, SendError>(sent.head.status.as_u16())
    };
    match tokio::time::timeout(TOTAL, exchange).await {
        Ok(Ok(status)) => judge_list(status),
        Ok(Err(SendError::Connect(error))) => Verdict::new(Reason::Unreachable, 0, error.to_string()),
        Ok(Err(SendError::Broken(_))) => {
            Verdict::new(Reason::Unreachable, 0, "the connection was closed before an answer came")
        }
        Ok(Err(SendError::TimedOut)) | Err(_) => {
            Verdict::new(Reason::Timeout, 0, format!("no answer within {} s", TOTAL.as_secs()))
        }
    }
}

/// What the status of a list of models says. That a model is not in the list says nothing: providers leave out aliases,
/// deployments and fine-tuned models.
fn judge_list(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::new(Reason::Reachable, status, "the list of models was answered"),
        401 | 403 => Verdict::new(Reason::Unauthorized, status, format!("the credential was refused ({status})")),
        404 | 405 | 501 => Verdict::new(
            Reason::Reachable,
            status,
            format!(
                "the provider answers, but has no list of models ({status}); set probe.mode: Completion to know more"
            ),
        ),
        429 => Verdict::new(Reason::Reachable, status, "the provider answers, and limits this account's rate (429)"),
        _ => Verdict::new(Reason::Failed, status, format!("the list of models was answered with {status}")),
    }
}

/// Makes a completion of one token. `None`: there is none that could be made, because no route leads to the deployment by
/// a whole name.
async fn completion(core: &Rc<Core>, tables: &std::sync::Arc<Tables>, index: u32) -> Option<Verdict> {
    let snapshot = &tables.snapshot;
    let deployment = &snapshot.deployments[index as usize];
    if deployment.model.contains('*') {
        return None;
    }
    let leads_here = |route: &model::Route| {
        !route.name.contains('*') && route.targets.iter().any(|target| target.deployment == index)
    };
    let route_index = snapshot.routes.iter().position(leads_here)?;
    let route = &snapshot.routes[route_index];
    let operation = [Operation::Chat, Operation::Completions, Operation::Embeddings]
        .into_iter()
        .find(|operation| Mode::of(*operation, deployment).is_some())?;
    let name = serde_json::to_string(&*route.name).expect("a string is JSON");
    let (body, asked_output) = match operation {
        Operation::Embeddings => (format!(r#"{{"model":{name},"input":"1"}}"#), None),
        Operation::Completions => (format!(r#"{{"model":{name},"prompt":"1","max_tokens":1}}"#), Some(1)),
        Operation::Chat | Operation::Messages | Operation::CountTokens => {
            let cap = output_field(operation, deployment);
            (format!(r#"{{"model":{name},"messages":[{{"role":"user","content":"1"}}],"{cap}":1}}"#), Some(1))
        }
    };
    let overloaded = || Verdict::new(Reason::Failed, 0, "this proxy has no room for a probe");
    let (Some(memory), Some(entry)) = (BodyShare::take(&core.shared, body.len()), Entry::new(core)) else {
        return Some(overloaded());
    };
    let call = scan(operation, None, HeaderMap::new(), Bytes::from(body), memory).ok()?;
    let admitted = Admitted {
        caller: Caller { tables: tables.clone(), who: Who::Probe(index) },
        call,
        route: route_index as u32,
        model: (&*route.name).into(),
        asked_output,
        fallbacks: Vec::new(),
        permits: RequestPermits::default(),
        small_output: None,
    };
    let now = Instant::now();
    let mut record = Record::new("/operator/probe", now, core.unix_ms(now));
    record.model = tables.routes[route_index].label;
    record.deployment = tables.deployments[index as usize].label;
    record.attempts = 1;
    let clock = Clock { connect: CONNECT, first_byte: None, idle: TOTAL, deadline: now + TOTAL, total: TOTAL };
    let attempting = Attempting {
        core,
        admitted: &admitted,
        route,
        begins: now,
        clock,
        alone: true,
        fell_back: false,
        max_retries: 0,
    };
    let picked = Picked { deployment: index, permits: Permits::new() };
    let nobody_left = crate::detach::Client::default();
    Some(match Box::pin(attempt::one(&attempting, picked, &mut record, &nobody_left)).await {
        Ok(judged) => {
            // Counts the call; the answer itself is nobody's.
            drop(judged.answer(&attempting, RequestPermits::default(), record, entry));
            Verdict::new(Reason::Reachable, 200, "a completion of one token was answered")
        }
        Err(failure) => {
            record.count(&core.bank, Instant::now(), failure.error.facts().status, None);
            judge_failure(&failure.error)
        }
    })
}

fn judge_failure(error: &GatewayError) -> Verdict {
    match error {
        GatewayError::Upstream(failure) => {
            let (status, deployment) = (failure.status, &failure.deployment);
            match status {
                401 | 403 => {
                    Verdict::new(Reason::Unauthorized, status, format!("the credential was refused ({status})"))
                }
                404 => Verdict::new(Reason::ModelNotFound, status, "the provider does not know the model (404)"),
                429 => Verdict::new(
                    Reason::Reachable,
                    status,
                    "the provider answers, and limits this account's rate (429)",
                ),
                _ => {
                    Verdict::new(Reason::Failed, status, format!("`{deployment}` answered a completion with {status}"))
                }
            }
        }
        GatewayError::UpstreamConnect { .. } => Verdict::new(Reason::Unreachable, 0, "no connection"),
        GatewayError::UpstreamTimeout { .. } => {
            Verdict::new(Reason::Timeout, 0, format!("no answer within {} s", TOTAL.as_secs()))
        }
        GatewayError::UpstreamBroken { reason, .. } => {
            Verdict::new(Reason::Failed, 0, format!("the provider {reason}"))
        }
        other => Verdict::new(Reason::Failed, 0, other.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_without_a_list_is_reachable_and_a_refused_credential_is_not() {
        for (status, reason) in [
            (200, Reason::Reachable),
            (401, Reason::Unauthorized),
            (403, Reason::Unauthorized),
            (404, Reason::Reachable),
            (429, Reason::Reachable),
            (302, Reason::Failed),
            (500, Reason::Failed),
        ] {
            let verdict = judge_list(status);
            assert_eq!((verdict.reason, verdict.ok, verdict.status), (reason, reason == Reason::Reachable, status));
        }
    }
}
