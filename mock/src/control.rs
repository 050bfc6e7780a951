//! The mock's control over HTTP, under `/_mock/`, for tests that are not in Rust. Thin: JSON to the shared state.
//!
//! | request | does |
//! | --- | --- |
//! | `GET invoice` | `{"rows": [...]}`, in the order requests ended |
//! | `GET requests` | `{"requests": [{method, path, query, headers, body}]}`, in order of arrival |
//! | `GET status` | `{in_flight, requests, rows, scripted}`: counts since the last clear |
//! | `GET wait?requests=N&rows=N&in_flight=N` | the status, as soon as each named count is reached (in flight: exactly) |
//! | `POST script` | `{"model": "...", "steps": [...]}` appends steps; `model` may be a path or `*` (default) |
//! | `POST gate/NAME`, `DELETE gate/NAME` | opens, closes a gate |
//! | `DELETE script`, `DELETE invoice`, `DELETE requests` | forgets |

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::ScriptedBody;
use crate::link::Link;
use crate::script::Step;
use crate::serve::plain;
use crate::state::{Books, State};

/// `POST /_mock/script`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// A model, a path that starts with `/`, or `*`.
    #[serde(default = "any")]
    model: String,
    steps: Vec<Step>,
}

fn any() -> String {
    "*".to_string()
}

/// Serves `/_mock/{path}`.
pub(crate) async fn serve(
    state: &State,
    link: Arc<Link>,
    method: &Method,
    path: &str,
    query: &str,
    body: &Bytes,
) -> Response<ScriptedBody> {
    let (status, answer) = match (method.as_str(), path) {
        ("GET", "invoice") => (StatusCode::OK, json!({"rows": state.read().invoice})),
        ("GET", "requests") => (StatusCode::OK, json!({"requests": state.read().seen})),
        ("GET", "status") => (StatusCode::OK, status(&state.read())),
        ("GET", "wait") => match wanted(query) {
            Some(wanted) => (StatusCode::OK, wait(state, &wanted).await),
            None => (StatusCode::BAD_REQUEST, json!({"error": "wait for requests=N, rows=N or in_flight=N"})),
        },
        ("POST", "script") => match serde_json::from_slice::<Script>(body) {
            Ok(Script { model, steps }) => {
                let count = steps.len();
                state.change(|books| books.scripts.entry(model).or_default().extend(steps));
                (StatusCode::OK, json!({"steps": count}))
            }
            Err(error) => (StatusCode::BAD_REQUEST, json!({"error": format!("not a script: {error}")})),
        },
        ("DELETE", "script") => done(|| state.clear_scripts()),
        ("DELETE", "invoice") => done(|| state.clear_invoice()),
        ("DELETE", "requests") => done(|| state.clear_requests()),
        ("POST", gate) if gate.starts_with("gate/") => done(|| {
            let name = crate::route::percent_decode(&gate["gate/".len()..]);
            state.change(|books| books.open_gates.insert(name));
        }),
        ("DELETE", gate) if gate.starts_with("gate/") => done(|| {
            let name = crate::route::percent_decode(&gate["gate/".len()..]);
            state.change(|books| books.open_gates.remove(&name));
        }),
        _ => (StatusCode::NOT_FOUND, json!({"error": "the mock has no such control"})),
    };
    plain(status, &answer, link)
}

fn done(change: impl FnOnce()) -> (StatusCode, Value) {
    change();
    (StatusCode::OK, json!({"ok": true}))
}

fn status(books: &Books) -> Value {
    let scripted: usize = books.scripts.values().flatten().map(|step| step.repeat as usize).sum();
    json!({
        "in_flight": books.in_flight, "requests": books.seen_total, "rows": books.invoice_total, "scripted": scripted,
    })
}

/// The counts a `wait` names. `None`: a name or a number it does not know.
fn wanted(query: &str) -> Option<Vec<(String, usize)>> {
    let count = |pair: &str| {
        let (name, count) = pair.split_once('=')?;
        ["requests", "rows", "in_flight"].contains(&name).then_some((name.to_string(), count.parse().ok()?))
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(count).collect()
}

/// Waits until every wanted count is reached, or the mock stops.
async fn wait(state: &State, wanted: &[(String, usize)]) -> Value {
    let reached = |books: &Books| {
        wanted.iter().all(|(name, count)| match name.as_str() {
            "requests" => books.seen_total >= *count,
            "rows" => books.invoice_total >= *count,
            _ => books.in_flight == *count,
        })
    };
    tokio::select! {
        status = state.until(|books| reached(books).then(|| status(books))) => status,
        () = state.stopped() => status(&state.read()),
    }
}
