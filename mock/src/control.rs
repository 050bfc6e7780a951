//! The mock's control over HTTP, under `/_mock/`, for tests that are not in Rust. Thin: JSON to the shared state.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::ScriptedBody;
use crate::link::Link;
use crate::script::Step;
use crate::serve::plain;
use crate::state::State;

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
pub(crate) fn serve(
    state: &State,
    link: Arc<Link>,
    method: &Method,
    path: &str,
    body: &Bytes,
) -> Response<ScriptedBody> {
    let (status, answer) = match (method.as_str(), path) {
        ("GET", "invoice") => (StatusCode::OK, json!({"rows": state.read().invoice})),
        ("GET", "requests") => (StatusCode::OK, json!({"requests": state.read().seen})),
        ("GET", "status") => {
            let books = state.read();
            let scripted: usize = books.scripts.values().flatten().map(|step| step.repeat as usize).sum();
            let status = json!({
                "in_flight": books.in_flight, "requests": books.seen_total, "rows": books.invoice_total,
                "scripted": scripted,
            });
            (StatusCode::OK, status)
        }
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
        _ => (StatusCode::NOT_FOUND, json!({"error": "the mock has no such control"})),
    };
    plain(status, &answer, link)
}

fn done(change: impl FnOnce()) -> (StatusCode, Value) {
    change();
    (StatusCode::OK, json!({"ok": true}))
}
