//! One request: read it, note it, take its scripted step or the default, and hand the answer to the HTTP server. Sits
//! between the connection and the pure modules.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::answer::{self, Answer, Question};
use crate::body::{Act, Broken, ScriptedBody};
use crate::invoice::{End, InvoiceRow, OpenCall};
use crate::link::Link;
use crate::openai::Invalid;
use crate::route::{self, Route, Surface};
use crate::script::{Action, Failure, Reply, Step};
use crate::state::{SeenRequest, State};
use crate::{anthropic, control, openai};

/// Longest request body read; a longer one breaks the connection. Bytes.
const LONGEST_REQUEST: usize = 256 << 20;

/// Serves one request.
///
/// # Errors
/// [`Broken`]: the connection must close without an answer.
pub(crate) async fn serve(
    state: Arc<State>,
    link: Arc<Link>,
    request: Request<Incoming>,
) -> Result<Response<ScriptedBody>, Broken> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LONGEST_REQUEST).collect().await.map_err(|_| Broken)?.to_bytes();
    link.set_pace(0, 0);
    let path = head.uri.path();
    let query = head.uri.query().unwrap_or_default();
    if let Some(path) = path.strip_prefix("/_mock/") {
        return Ok(control::serve(&state, link, &head.method, path, query, &body).await);
    }
    let seen = SeenRequest {
        method: head.method.to_string(),
        path: path.to_string(),
        query: query.to_string(),
        headers: lossy(&head.headers),
        body: body.clone(),
    };
    let json = serde_json::from_slice::<Value>(&body);
    let found = route::find(&head.method, path);
    let surface = found.as_ref().map_or(Surface::Unknown, |route| route.surface);
    let deployment = found.as_ref().and_then(|route| route.deployment.clone());
    let model = deployment.or_else(|| json.as_ref().ok().and_then(|json| json["model"].as_str().map(str::to_string)));
    let request_id = seen.header("x-request-id").map(str::to_string);
    let seq = state.open_call(seen);
    let mut call = OpenCall::new(state.clone(), row(seq, request_id, surface, model.clone().unwrap_or_default()));
    call.row.stream = json.as_ref().is_ok_and(|json| json["stream"] == true);

    let model = model.unwrap_or_default();
    let step = match head.method {
        Method::POST => state.next_step(&model, path),
        _ => state.next_step_of_path(path),
    };
    if let Some(Step { gate: Some(gate), .. }) = &step
        && !state.pass_gate(gate).await
    {
        return Err(broken(call));
    }
    let delay_ms = step.as_ref().map_or(0, |step| step.delay_ms);
    let action = step.map_or_else(|| Action::Reply(Box::default()), |step| step.action);
    let mut pace = (0, 0);
    let answer = match action {
        Action::Reply(reply) => {
            pace = (reply.write_bytes.unwrap_or(0), reply.write_delay_ms);
            match refusal(&state, found.as_ref(), &head.headers, query, &reply) {
                Some(failure) => answer::fail(surface, seq, &failure),
                None => {
                    let (headers, route) = (&head.headers, found.as_ref());
                    let arrived = Arrived { headers, path, route, model: &model, json, body_bytes: body.len(), seq };
                    reply_to(&state, arrived, &reply)
                }
            }
        }
        Action::Error(failure) => answer::fail(surface, seq, &failure),
        Action::Redirect(redirect) => answer::redirect(surface, seq, &redirect),
        Action::Hang => {
            state.stopped().await;
            return Err(broken(call));
        }
        Action::Close => return Err(broken(call)),
        Action::Reset => {
            link.reset_on_close();
            return Err(broken(call));
        }
        Action::Raw(raw) => {
            call.full = raw.bill;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            if link.write_raw(&raw.bytes.0).await.is_ok() {
                call.row.bytes_sent = raw.bytes.0.len() as u64;
                return Err(broken(call));
            }
            return Err(Broken);
        }
    };
    call.full = answer.bill;
    call.row.stream = answer.stream;
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    link.set_pace(pace.0, pace.1);
    Ok(respond(answer, link, call))
}

fn row(seq: u64, request_id: Option<String>, surface: Surface, model: String) -> InvoiceRow {
    InvoiceRow {
        seq,
        request_id,
        surface,
        model,
        input_tokens: 0,
        output_tokens: 0,
        cache_read: 0,
        cache_write_5m: 0,
        cache_write_1h: 0,
        reasoning: 0,
        billed: false,
        completed: false,
        client_gone: false,
        stream: false,
        status: None,
        usage_sent: false,
        bytes_sent: 0,
    }
}

fn broken(mut call: OpenCall) -> Broken {
    call.settle(End::Cut);
    Broken
}

fn lossy(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_string(), text(value))).collect()
}

/// What the provider refuses before it looks at the body. A scripted status or body is never refused.
fn refusal(state: &State, route: Option<&Route>, headers: &HeaderMap, query: &str, reply: &Reply) -> Option<Failure> {
    let fail = |status: u16, message: &str, code: Option<&str>| {
        Some(Failure {
            status: Some(status),
            message: Some(message.to_string()),
            code: code.map(str::to_string),
            ..Failure::default()
        })
    };
    if reply.status.is_some() || reply.body.is_some() {
        return None;
    }
    let Some(route) = route else { return fail(404, "Invalid URL", Some("unknown_url")) };
    if !route.method_allowed {
        return fail(405, "Not allowed to call this path with this method", Some("method_not_supported"));
    }
    let key = key(headers);
    if route.azure && key.is_none() {
        return fail(401, "Access denied due to missing subscription key.", Some("401"));
    }
    if let Some(wanted) = &state.key
        && key != Some(wanted.as_str())
    {
        return fail(401, "Incorrect API key provided.", None);
    }
    if route.versioned && !query.split('&').any(|pair| pair.strip_prefix("api-version=").is_some_and(|v| !v.is_empty()))
    {
        return fail(404, "Resource not found", Some("404"));
    }
    if route.surface.is_anthropic() && !headers.contains_key("anthropic-version") {
        return fail(400, "anthropic-version: header is required", None);
    }
    None
}

/// The key a request carries, in any of the headers providers read.
fn key(headers: &HeaderMap) -> Option<&str> {
    let named = ["api-key", "x-api-key"].into_iter().find_map(|name| headers.get(name)?.to_str().ok());
    named.or_else(|| headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")).filter(|key| !key.is_empty())
}

/// A request, read and noted.
struct Arrived<'a> {
    headers: &'a HeaderMap,
    path: &'a str,
    route: Option<&'a Route>,
    model: &'a str,
    json: serde_json::Result<Value>,
    body_bytes: usize,
    seq: u64,
}

fn reply_to(state: &State, arrived: Arrived<'_>, reply: &Reply) -> Answer {
    let Arrived { headers, path, route, model, json, body_bytes, seq } = arrived;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let surface = route.map_or(Surface::Unknown, |route| route.surface);
    let azure = route.is_some_and(|route| route.azure);
    let body = match (surface, json) {
        (Surface::Models, _) => match models(state, headers, path, now) {
            Ok(body) => body,
            Err(failure) => return answer::fail(surface, seq, &failure),
        },
        (Surface::Unknown, _) => Value::Null,
        (_, Err(error)) => {
            let message = format!("We could not parse the JSON body of your request: {error}");
            return answer::refuse(surface, seq, &Invalid { message, param: None });
        }
        (_, Ok(_)) if model.is_empty() => {
            return answer::refuse(surface, seq, &Invalid::new("you must provide a model parameter", "model"));
        }
        (_, Ok(body)) => body,
    };
    let question = Question { surface, azure, model, body: &body, body_bytes, seq, now };
    let computed = state.change(|books| answer::compute(&question, reply, &mut books.cached_prefixes));
    computed.unwrap_or_else(|invalid| answer::refuse(surface, seq, &invalid))
}

/// `/models` and `/models/{id}`, in the shape the client reads.
fn models(state: &State, headers: &HeaderMap, path: &str, now: u64) -> Result<Value, Box<Failure>> {
    let anthropic = headers.contains_key("anthropic-version");
    match path.split_once("/models/") {
        None if anthropic => Ok(anthropic::models(&state.models)),
        None => Ok(openai::models(&state.models, now)),
        Some((_, id)) => match state.models.iter().find(|known| **known == route::percent_decode(id)) {
            Some(id) if anthropic => Ok(anthropic::model(id)),
            Some(id) => Ok(openai::model(id, now)),
            None => Err(Box::new(Failure {
                status: Some(404),
                message: Some(format!("The model '{id}' does not exist")),
                ..Failure::default()
            })),
        },
    }
}

fn respond(answer: Answer, link: Arc<Link>, mut call: OpenCall) -> Response<ScriptedBody> {
    let Answer { status, headers, mut acts, end, stream, bill: _, claimed_length } = answer;
    call.row.status = Some(status.as_u16());
    let bodyless = status.is_informational() || status == 204 || status == 304;
    if bodyless || acts.iter().all(|act| matches!(act, Act::Write(write) if write.bytes.is_empty())) {
        // The HTTP server never asks for such a body, so the call is settled with the headers.
        acts.clear();
    }
    let mut end = end;
    let mut length = match (stream, &acts[..]) {
        (false, [Act::Write(write)]) => Some(write.bytes.len() as u64),
        (false, []) if !bodyless => Some(0),
        _ => None,
    };
    if let (Some(claimed), Some(real)) = (claimed_length, length)
        && claimed != real
    {
        // The HTTP server refuses to end a body early: break the connection once the bytes are out.
        length = Some(claimed);
        if claimed > real {
            acts.push(Act::Close);
        }
        end = End::Cut;
    }
    let body = ScriptedBody::new(acts, link, Some(call), end);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    response
}

/// A plain JSON answer of the control surface.
pub(crate) fn plain(status: http::StatusCode, body: &Value, link: Arc<Link>) -> Response<ScriptedBody> {
    let bytes = Bytes::from(body.to_string());
    let length = bytes.len();
    let acts = [Act::Write(crate::body::Write { bytes, ..Default::default() })];
    let mut response = Response::new(ScriptedBody::new(acts, link, None, End::Completed));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}
