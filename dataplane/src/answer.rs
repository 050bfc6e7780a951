//! Answers that need no provider: lists of models, health, readiness, metrics.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use tollgate_dialects::Dialect;
use tollgate_snapshot::Severity;
use tollgate_snapshot::model::{Deployment, ModelSet};

use crate::caller::{Caller, identify};
use crate::core::Core;
use crate::error::{GatewayError, Result};
use crate::recognise::Handler;
use crate::record::Record;
use crate::reply::{self, ReplyBody};

/// `created` of every model, the same constant that LiteLLM shows.
const CREATED: i64 = 1_677_610_602;

/// Answers one of our own paths.
pub fn answer(
    core: &Rc<Core>,
    handler: Handler,
    model: Option<String>,
    query: &str,
    headers: &HeaderMap,
    record: &Record,
) -> Response<ReplyBody> {
    let anthropic = headers.contains_key("anthropic-version");
    let dialect = if anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
    let answered = match handler {
        Handler::Forward(_) => {
            Err(Box::new(GatewayError::Internal { reason: "a forwarded path was answered locally" }))
        }
        Handler::Liveness => Ok(liveness(core)),
        Handler::Readiness => Ok(readiness(core)),
        Handler::Home => Ok(home()),
        Handler::Health => health(core, headers, query),
        Handler::Metrics => metrics(core, headers),
        Handler::SnapshotInfo => Ok(snapshot_info(core)),
        Handler::Models => identify_now(core, headers).map(|caller| models(&caller, anthropic)),
        Handler::Model => {
            identify_now(core, headers).and_then(|caller| one_model(&caller, &model.unwrap_or_default(), anthropic))
        }
    };
    match answered {
        Ok(response) => response,
        Err(error) => reply::error(&error, dialect, &record.call_id),
    }
}

fn identify_now(core: &Core, headers: &HeaderMap) -> Result<Caller> {
    identify(&core.tables(), headers, core.unix_ms(Instant::now()) / 1000)
}

pub fn json_reply(status: StatusCode, body: &Value) -> Response<ReplyBody> {
    reply::full(status, "application/json", body.to_string())
}

fn home() -> Response<ReplyBody> {
    json_reply(
        StatusCode::OK,
        &json!({"name": "tollgate", "version": env!("CARGO_PKG_VERSION"), "models": "/v1/models", "health": "/health/readiness"}),
    )
}

fn liveness(core: &Core) -> Response<ReplyBody> {
    if core.shared.draining.load(Relaxed) {
        return json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "shutting down"}));
    }
    json_reply(StatusCode::OK, &json!("I'm alive!"))
}

pub fn readiness(core: &Core) -> Response<ReplyBody> {
    if core.shared.draining.load(Relaxed) {
        return json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "shutting down"}));
    }
    let generation = core.tables().generation;
    if generation == 0 {
        return json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "no configuration yet"}));
    }
    if !core.shared.listening.load(Relaxed) {
        return json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not listening yet"}));
    }
    // `db` is where LiteLLM's probes look. Without one rows wait, and calls are served.
    let is_connected = core.shared.builder.ledger.postgres().is_some_and(|postgres| postgres.is_connected);
    let db = if is_connected { "connected" } else { "Not connected" };
    json_reply(
        StatusCode::OK,
        &json!({"status": "healthy", "db": db, "generation": generation, "version": env!("CARGO_PKG_VERSION")}),
    )
}

fn snapshot_info(core: &Core) -> Response<ReplyBody> {
    let tables = core.tables();
    let snapshot = &tables.snapshot;
    json_reply(
        StatusCode::OK,
        &json!({
            "generation": tables.generation,
            "deployments": snapshot.deployments.len(),
            "routes": snapshot.routes.len(),
            "keys": snapshot.keys.len(),
            "budgets": snapshot.budgets.len(),
        }),
    )
}

/// Every deployment and what is known of it, and every finding about the configuration. Needs a key, as LiteLLM's does.
fn health(core: &Core, headers: &HeaderMap, query: &str) -> Result<Response<ReplyBody>> {
    let caller = identify_now(core, headers)?;
    let tables = &caller.tables;
    let wanted = query.split('&').find_map(|pair| pair.strip_prefix("model=").or(pair.strip_prefix("model_id=")));
    let now = core.uptime_ms(Instant::now());
    let (mut healthy, mut unhealthy) = (Vec::new(), Vec::new());
    for (index, deployment) in tables.snapshot.deployments.iter().enumerate() {
        let entry = &tables.deployments[index];
        if !caller.is_master() && Some(&*deployment.namespace) != namespace_name(&caller) {
            continue;
        }
        if wanted
            .is_some_and(|wanted| wanted != &*deployment.name && wanted != &*deployment.model && wanted != &*entry.id)
        {
            continue;
        }
        let mut row = json!({
            "model": format!("{}/{}", deployment.provider, deployment.model),
            "model_id": &*entry.id,
            "api_base": entry.headers.api_base.to_str().unwrap_or_default(),
            "in_flight": entry.state.in_flight.load(Relaxed),
        });
        match entry.state.health.benched_for(now) {
            None => healthy.push(row),
            Some(left) => {
                row["error"] = json!(format!("benched for {:.1} s more after repeated failures", left as f64 / 1000.0));
                unhealthy.push(row);
            }
        }
    }
    let loaded = core.shared.status.read();
    let findings: Vec<Value> = loaded
        .findings
        .iter()
        .filter(|finding| caller.is_master() || Some(&*finding.object.namespace) == namespace_name(&caller))
        .map(|finding| {
            json!({
                "object": finding.object.to_string(),
                "severity": finding.severity,
                "reason": finding.reason,
                "field": finding.field,
                "message": finding.message,
                "hint": finding.hint,
            })
        })
        .collect();
    // What a database says is the operator's business.
    let postgres = core.shared.builder.ledger.postgres().filter(|_| caller.is_master()).map(|view| {
        json!({
            "connected": view.is_connected,
            "waiting_rows": view.waiting,
            "dropped_rows": view.dropped + view.expired + view.refused,
            "lag_seconds": view.lag_ms as f64 / 1000.0,
            "error": view.error,
        })
    });
    let none_healthy = wanted.is_some() && healthy.is_empty();
    let status = if none_healthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(json_reply(
        status,
        &json!({
            "status": if unhealthy.is_empty() { "healthy" } else { "degraded" },
            "healthy_count": healthy.len(),
            "unhealthy_count": unhealthy.len(),
            "healthy_endpoints": healthy,
            "unhealthy_endpoints": unhealthy,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime": core.shared.started.elapsed().as_secs(),
            "postgres": postgres,
            "config": {
                "source": if caller.is_master() { loaded.source } else { String::new() },
                "generation": tables.generation,
                "healthy": loaded.healthy,
                "applied_at": loaded.applied_at,
                "reloads": loaded.reloads,
                "reload_failures": loaded.failures,
                "errors": loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).count(),
                "findings": findings,
            },
        }),
    ))
}

fn namespace_name(caller: &Caller) -> Option<&str> {
    let index = caller.namespace()?;
    Some(&caller.tables.snapshot.namespaces[index as usize].name)
}

pub fn metrics(core: &Core, headers: &HeaderMap) -> Result<Response<ReplyBody>> {
    if core.tables().snapshot.gateway.metrics_require_auth {
        identify_now(core, headers)?;
    }
    let text = crate::exposition::render(core);
    Ok(reply::full(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}

/// Names that a caller may ask for, with a deployment that serves each.
fn visible(caller: &Caller) -> Vec<(&str, &Deployment)> {
    let Some(namespace) = caller.namespace() else { return Vec::new() };
    let snapshot = &caller.tables.snapshot;
    let policy = caller.policy();
    let key_models = policy.and_then(|policy| policy.models.as_ref());
    let team_models = caller.team().and_then(|team| team.models.as_ref());
    let may = |name: &str| {
        let allows = |set: Option<&ModelSet>| set.is_none_or(|set| set.contains(name));
        caller.is_master()
            || ((key_models.is_some() || team_models.is_some()) && allows(key_models) && allows(team_models))
    };
    let mut names: Vec<(&str, &Deployment)> = Vec::new();
    for (name, route) in &snapshot.namespaces[namespace as usize].exact {
        let route = &snapshot.routes[*route as usize];
        let Some(target) = route.targets.first() else { continue };
        if !route.hidden && may(name) {
            names.push((name, &snapshot.deployments[target.deployment as usize]));
        }
    }
    // An alias is a name too, for the key that has it.
    for (alias, target) in policy.iter().flat_map(|policy| &policy.aliases) {
        if let Some((_, deployment)) = names.iter().find(|(name, _)| **name == **target) {
            names.push((alias, deployment));
        }
    }
    names.sort_by_key(|(name, _)| *name);
    names.dedup_by_key(|(name, _)| *name);
    names
}

fn model_json(name: &str, deployment: &Deployment, anthropic: bool) -> Value {
    if anthropic {
        let created = jiff::Timestamp::from_second(CREATED).map(|at| at.to_string()).unwrap_or_default();
        return json!({"type": "model", "id": name, "display_name": name, "created_at": created});
    }
    let mut row = json!({"id": name, "object": "model", "created": CREATED, "owned_by": "openai"});
    if let Some(tokens) = deployment.max_input_tokens {
        row["max_input_tokens"] = json!(tokens);
    }
    if let Some(tokens) = deployment.max_output_tokens {
        row["max_output_tokens"] = json!(tokens);
    }
    row
}

fn models(caller: &Caller, anthropic: bool) -> Response<ReplyBody> {
    let rows: Vec<Value> =
        visible(caller).into_iter().map(|(name, deployment)| model_json(name, deployment, anthropic)).collect();
    let body = if anthropic {
        let id = |row: Option<&Value>| row.map_or(Value::Null, |row| row["id"].clone());
        json!({"first_id": id(rows.first()), "last_id": id(rows.last()), "has_more": false, "data": rows})
    } else {
        json!({"object": "list", "data": rows})
    };
    json_reply(StatusCode::OK, &body)
}

fn one_model(caller: &Caller, name: &str, anthropic: bool) -> Result<Response<ReplyBody>> {
    match visible(caller).into_iter().find(|(visible, _)| *visible == name) {
        Some((name, deployment)) => Ok(json_reply(StatusCode::OK, &model_json(name, deployment, anthropic))),
        None => Err(GatewayError::ModelNotListed {
            model: name.chars().filter(|one| !one.is_control()).take(128).collect(),
        }
        .into()),
    }
}
