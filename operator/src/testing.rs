//! An API server of the test's own process: objects by path, resourceVersions that count up, writes that are refused where
//! they come from an older one. No watches: they end at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A handle, cheap to clone.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    /// By path.
    pub objects: BTreeMap<String, Value>,
    /// Verb and path of every request, in order.
    pub asked: Vec<String>,
    /// Requests whose verb and path begin so are refused with this status.
    pub refused: Vec<(String, u16)>,
    versions: u64,
}

impl State {
    fn next_version(&mut self) -> Value {
        self.versions += 1;
        json!(self.versions.to_string())
    }

    /// What was asked since the last call, but for reads.
    pub fn take_writes(&mut self) -> Vec<String> {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().filter(|request| !request.starts_with("GET")).collect()
    }
}

impl FakeApi {
    /// A client of it; its task ends with the client.
    pub fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let api = self.clone();
        tokio::spawn(async move {
            while let Some((request, respond)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let query = parts.uri.query().unwrap_or_default();
                let (status, answer) = api.answer(parts.method.as_str(), parts.uri.path(), query, &body);
                let body = Body::from(answer.map_or_else(Vec::new, |answer| answer.to_string().into_bytes()));
                respond.send_response(Response::builder().status(status).body(body).unwrap());
            }
        });
        Client::new(service, "default")
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        object["metadata"]["resourceVersion"] = state.next_version();
        state.objects.insert(path.to_owned(), object);
    }

    fn answer(&self, verb: &str, path: &str, query: &str, body: &[u8]) -> (u16, Option<Value>) {
        let mut state = self.state();
        let request = format!("{verb} {path}");
        let refused = state.refused.iter().find(|(start, _)| request.starts_with(start)).map(|(_, code)| *code);
        state.asked.push(request);
        let failed = |code: u16| {
            let reason = match code {
                403 => "Forbidden",
                404 => "NotFound",
                409 => "Conflict",
                _ => "InternalError",
            };
            (
                code,
                Some(json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": reason})),
            )
        };
        if let Some(code) = refused {
            return failed(code);
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if verb == "POST" {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            if state.objects.contains_key(&path) {
                return failed(409);
            }
            let mut object = body;
            object["metadata"]["uid"] = json!(path);
            object["metadata"]["resourceVersion"] = state.next_version();
            state.objects.insert(path, object.clone());
            return (201, Some(object));
        }
        if verb == "GET" && query.contains("watch=true") {
            return (200, None);
        }
        let Some(before) = state.objects.get(path).cloned() else {
            // A collection, or nothing.
            let is_collection = path.rsplit('/').next().is_some_and(|last| last.ends_with('s') && !last.contains('-'));
            return if verb == "GET" && is_collection { (200, Some(list(&state, path, query))) } else { failed(404) };
        };
        let is_stale = |version: &Value| !version.is_null() && *version != before["metadata"]["resourceVersion"];
        match verb {
            "GET" => (200, Some(before)),
            "DELETE" if is_stale(&body["preconditions"]["resourceVersion"]) => failed(409),
            "DELETE" => {
                state.objects.remove(path);
                (200, Some(before))
            }
            _ if is_stale(&body["metadata"]["resourceVersion"]) => failed(409),
            "PUT" | "PATCH" => {
                let mut after = if verb == "PUT" { body } else { merged(before.clone(), &body) };
                after["metadata"]["uid"] = before["metadata"]["uid"].clone();
                after["metadata"]["resourceVersion"] = state.next_version();
                state.objects.insert(path.to_owned(), after.clone());
                (200, Some(after))
            }
            _ => failed(405),
        }
    }
}

/// The objects of a collection that have the labels which the query names, with a value or without.
fn list(state: &State, path: &str, query: &str) -> Value {
    let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap_or_default();
    let selector = selector.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
    let is_selected = |object: &Value| {
        selector.split(',').filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
            Some((label, value)) => object["metadata"]["labels"][label] == value,
            None => !object["metadata"]["labels"][part].is_null(),
        })
    };
    let start = format!("{path}/");
    let items = state.objects.iter().filter(|(path, object)| path.starts_with(&start) && is_selected(object));
    let items: Vec<&Value> = items.map(|(_, object)| object).collect();
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

fn merged(mut before: Value, patch: &Value) -> Value {
    for (field, value) in patch.as_object().into_iter().flatten() {
        before[field] = if value.is_object() { merged(before[field].take(), value) } else { value.clone() };
    }
    before
}
