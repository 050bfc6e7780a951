//! The request as a deployment gets it. Same dialect: the client's bytes with only what must change cut in (model, usage
//! of streams, an output cap, the deployment's parameters). Other dialect: decoded and encoded anew.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tollgate_dialects::chat::{self, EncodeOptions, MaxTokensField, Surface as ChatSurface};
use tollgate_dialects::error::ErrorBody;
use tollgate_dialects::head::Operation;
use tollgate_dialects::json::{Field, Kind, Span};
use tollgate_dialects::splice::{Pieces, Splice, ask_for_usage, json_string};
use tollgate_dialects::{Dialect, json};
use tollgate_snapshot::model::{Deployment, Name, Parameters, Route};

use crate::admit::Admitted;
use crate::call::Call;
use crate::error::{GatewayError, Result};
use crate::hold::Along;
use crate::price_cap;
use crate::tables::{DeploymentEntry, request_target};
use crate::upstream::Message;

/// How a deployment serves an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass through.
    Pass,
    /// Through the canonical form, from this surface.
    Translate(ChatSurface),
}

impl Mode {
    /// `None`: the deployment cannot serve it.
    pub fn of(operation: Operation, deployment: &Deployment) -> Option<Mode> {
        let native = &deployment.native;
        match (operation, deployment.dialect) {
            (Operation::Chat, Dialect::OpenAi) => native.chat.then_some(Mode::Pass),
            (Operation::Chat, Dialect::Anthropic) => {
                native.messages.then_some(Mode::Translate(ChatSurface::OpenAiChat))
            }
            (Operation::Completions, Dialect::OpenAi) if native.completions => Some(Mode::Pass),
            (Operation::Completions, _) => {
                (native.chat || native.messages).then_some(Mode::Translate(ChatSurface::OpenAiCompletions))
            }
            (Operation::Embeddings, Dialect::OpenAi) => native.embeddings.then_some(Mode::Pass),
            (Operation::Embeddings, Dialect::Anthropic) => None,
            (Operation::Messages, Dialect::Anthropic) => native.messages.then_some(Mode::Pass),
            (Operation::Messages, Dialect::OpenAi) => {
                native.chat.then_some(Mode::Translate(ChatSurface::AnthropicMessages))
            }
            // Whoever cannot count is answered here, before a deployment is chosen.
            (Operation::CountTokens, _) => native.count_tokens.then_some(Mode::Pass),
        }
    }
}

/// A request that can be sent as often as connections turn out to be dead.
pub struct Outgoing {
    pub mode: Mode,
    pub stream: bool,
    /// We asked for the usage of the stream; the client did not.
    pub injected_usage: bool,
    pub message: Message,
}

/// Builds the request for one deployment.
///
/// # Errors
/// 400 when the call holds what the deployment's dialect has no words for.
pub fn build(
    admitted: &Admitted,
    route: &Route,
    deployment: &Deployment,
    entry: &DeploymentEntry,
    along: Along,
) -> Result<Box<Outgoing>> {
    let Along { inject_output, most_paid } = along;
    let call = &admitted.call;
    let mode = Mode::of(call.operation, deployment)
        .ok_or(GatewayError::Internal { reason: "a deployment was asked for what it cannot do" })?;
    let model = upstream_model(route, deployment, &admitted.model);
    let stream = call.stream;
    let usage_by_option = deployment.dialect == Dialect::OpenAi && !deployment.quirks.no_stream_usage;
    let asks_for_usage =
        stream && usage_by_option && matches!(call.operation, Operation::Chat | Operation::Completions);
    let mut injected_usage = false;
    let pieces = match mode {
        Mode::Pass => {
            let mut splice = Splice::default();
            match call.head.model {
                // What the body says, which is not what was asked for where the path names the model.
                Some(field) if field.text(&call.body).as_deref() != Some(&*model) => {
                    splice.replace(field.value, json_string(&model));
                }
                Some(_) => {}
                // Named by the path alone: providers want it in the body.
                None => splice.insert("model", json_string(&model)),
            }
            if asks_for_usage {
                injected_usage = ask_for_usage(&mut splice, &call.head, &call.body);
            }
            put_cap(&mut splice, call, deployment, inject_output);
            take_out_ours(&mut splice, call, deployment);
            let pieces = splice.apply(&call.body, call.head.layout);
            with_parameters(pieces, &deployment.parameters)?
        }
        Mode::Translate(surface) => {
            let body = to_decode(call, &model);
            let mut request =
                chat::decode_request(surface, &body).map_err(|error| refused(&ErrorBody::from(&error)))?;
            request.max_tokens = request.max_tokens.or(inject_output);
            // The usage is for us; the encoder of the answer knows whether the client asked for it.
            request.include_usage |= stream;
            let options = EncodeOptions {
                model: &model,
                default_max_tokens: deployment
                    .max_output_tokens
                    .unwrap_or(admitted.caller.tables.snapshot.gateway.max_output_tokens),
                drop_unsupported: admitted.caller.tables.snapshot.gateway.drop_unsupported_parameters,
                quirks: &deployment.quirks,
            };
            let body = chat::encode_request(deployment.dialect, &request, &options)
                .map_err(|error| refused(&ErrorBody::from(&error)))?;
            with_parameters(Bytes::from(body).into(), &deployment.parameters)?
        }
    };
    let pieces = match (entry.price_cap, most_paid) {
        (Some(cap), Some(most)) => price_cap::write(pieces, cap, &most)?,
        _ => pieces,
    };
    let uri = target(call.operation, mode, deployment, entry, &model)
        .ok_or(GatewayError::Internal { reason: "the deployment's address does not make a request target" })?;
    let mut head = Vec::with_capacity(HEAD_BYTES + pieces.len().min(HEAD_BYTES));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [b"POST ", path.as_bytes(), b" HTTP/1.1\r\nhost: ", entry.authority.as_bytes()] {
        head.extend_from_slice(part);
    }
    head.extend_from_slice(b"\r\ncontent-type: application/json\r\n");
    if stream {
        head.extend_from_slice(b"accept: text/event-stream\r\n");
    }
    write_headers(&mut head, admitted, deployment, entry, mode);
    head.extend_from_slice(b"content-length: ");
    head.extend_from_slice(itoa::Buffer::new().format(pieces.len()).as_bytes());
    head.extend_from_slice(b"\r\n\r\n");
    Ok(Box::new(Outgoing { mode, stream, injected_usage, message: Message::new(head, pieces.parts()) }))
}

/// Room for the head of a request, and for a small body behind it.
const HEAD_BYTES: usize = 2 << 10;

/// The client's body as it is decoded: with a model where only the path names one, and without what has no meaning in any
/// dialect.
fn to_decode(call: &Call, model: &str) -> Bytes {
    let mut splice = Splice::default();
    let own = call.head.litellm_metadata;
    if let Some(field) = own {
        splice.remove(field);
    }
    match call.head.model {
        Some(field) if field.kind == Kind::Null => splice.replace(field.value, json_string(model)),
        Some(_) if own.is_none() => return call.body.clone(),
        Some(_) => {}
        None => splice.insert("model", json_string(model)),
    }
    splice.apply(&call.body, call.head.layout).into_bytes()
}

/// A request that cannot be told in the deployment's dialect.
pub fn refused(error: &ErrorBody) -> Box<GatewayError> {
    let param = error.param.clone().unwrap_or_else(|| "request_body".to_owned());
    Box::new(GatewayError::BadRequest { param, message: error.message.clone() })
}

/// The provider's name of the model; what a wildcard matched takes the place of the `*`.
pub fn upstream_model<'a>(route: &Route, deployment: &'a Deployment, asked: &str) -> std::borrow::Cow<'a, str> {
    if !deployment.model.contains('*') {
        return std::borrow::Cow::Borrowed(&deployment.model);
    }
    let matched = route.name.strip_suffix('*').and_then(|prefix| asked.strip_prefix(prefix)).unwrap_or(asked);
    std::borrow::Cow::Owned(deployment.model.replacen('*', matched, 1))
}

/// The field that caps the output.
pub fn output_field(operation: Operation, deployment: &Deployment) -> &'static str {
    match operation {
        Operation::Chat if deployment.quirks.max_tokens_field == MaxTokensField::MaxCompletionTokens => {
            "max_completion_tokens"
        }
        _ => "max_tokens",
    }
}

/// Puts a cap where the provider reads it: one of ours, or the client's of which only the newer name is there that most
/// servers do not know.
fn put_cap(splice: &mut Splice, call: &Call, deployment: &Deployment, inject_output: Option<u64>) {
    let head = &call.head;
    let name = output_field(call.operation, deployment);
    let is_older = name == MaxTokensField::MaxTokens.as_str();
    let newer = head.max_completion_tokens.filter(|_| {
        is_older && call.operation == Operation::Chat && head.max_tokens_value.is_none() && inject_output.is_none()
    });
    let cap = match (inject_output, newer.zip(head.max_completion_tokens_value)) {
        (Some(cap), _) => cap,
        (None, Some((field, cap))) => {
            splice.remove(field);
            cap
        }
        (None, None) => return,
    };
    let cap = Bytes::from(cap.to_string());
    // What is there says `null`, as the client named no cap.
    match if is_older { head.max_tokens } else { head.max_completion_tokens } {
        Some(field) => splice.replace(field.value, cap),
        None => splice.insert(name, cap),
    }
}

fn target(
    operation: Operation,
    mode: Mode,
    deployment: &Deployment,
    entry: &DeploymentEntry,
    model: &str,
) -> Option<http::Uri> {
    let (prepared, path) = match (mode, deployment.dialect) {
        (Mode::Translate(_), Dialect::OpenAi) => (&entry.paths.chat, "/chat/completions"),
        (Mode::Translate(_), Dialect::Anthropic) => (&entry.paths.messages, "/messages"),
        (Mode::Pass, _) => match operation {
            Operation::Chat => (&entry.paths.chat, "/chat/completions"),
            Operation::Completions => (&entry.paths.completions, "/completions"),
            Operation::Embeddings => (&entry.paths.embeddings, "/embeddings"),
            Operation::Messages => (&entry.paths.messages, "/messages"),
            Operation::CountTokens => (&entry.paths.count_tokens, "/messages/count_tokens"),
        },
    };
    prepared.clone().or_else(|| request_target(deployment, path, model))
}

/// Version that Anthropic's API is asked in where the client names none.
pub const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Writes the headers that depend on the deployment.
fn write_headers(
    head: &mut Vec<u8>,
    admitted: &Admitted,
    deployment: &Deployment,
    entry: &DeploymentEntry,
    mode: Mode,
) {
    static VERSION: HeaderName = HeaderName::from_static("anthropic-version");
    let mut versioned = false;
    let mut write = |name: &HeaderName, value: &HeaderValue| {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    if let Some(credential) = choose_credential(entry) {
        write(&credential.header, &credential.value);
    }
    for (name, value) in &entry.extra_headers {
        versioned |= *name == VERSION;
        write(name, value);
    }
    if deployment.dialect == Dialect::Anthropic {
        for (name, value) in admitted.call.forwarded.iter().filter(|_| mode == Mode::Pass) {
            versioned |= *name == VERSION;
            write(name, value);
        }
        if !versioned {
            write(&VERSION, &ANTHROPIC_VERSION);
        }
    }
}

/// Several credentials share the calls by weight.
fn choose_credential(entry: &DeploymentEntry) -> Option<&crate::tables::PreparedCredential> {
    let credentials = &entry.credentials;
    if credentials.len() <= 1 {
        return credentials.first();
    }
    let sum: u64 = credentials.iter().map(|one| u64::from(one.weight)).sum();
    let mut left = fastrand::u64(..sum.max(1));
    credentials
        .iter()
        .find(|one| {
            let weight = u64::from(one.weight);
            let chosen = left < weight;
            left = left.saturating_sub(weight);
            chosen
        })
        .or(credentials.first())
}

/// Fields that are meant for a gateway, not for a provider (LiteLLM's extensions of the body).
fn take_out_ours(splice: &mut Splice, call: &Call, deployment: &Deployment) {
    let head = &call.head;
    let tagged = head.metadata.filter(|metadata| {
        metadata.kind == Kind::Object && matches!(json::field_named(metadata.of(&call.body), "tags"), Ok(Some(_)))
    });
    let mock_response = head.mock_response.filter(|_| &*deployment.provider != "mock");
    let ours = [head.fallbacks, head.num_retries, head.timeout, head.tags, head.litellm_metadata];
    for field in ours.into_iter().chain([mock_response, tagged]).flatten() {
        splice.remove(field);
    }
}

/// The deployment's own parameters, on the body as it leaves.
fn with_parameters(pieces: Pieces, parameters: &Parameters) -> Result<Pieces> {
    if parameters.is_empty() {
        return Ok(pieces);
    }
    let body = pieces.into_bytes();
    let mut present: Vec<(Vec<u8>, Field)> = Vec::new();
    let layout = json::fields(&body, |key, field| present.push((key.to_vec(), field)))
        .map_err(|_| GatewayError::Internal { reason: "a body of ours is not an object" })?;
    let find = |name: &str| present.iter().find(|(key, _)| key == name.as_bytes()).map(|(_, field)| *field);
    let forced = |name: &str| parameters.forced.iter().any(|(other, _)| **other == *name);
    let mut splice = Splice::default();
    let mut left = layout.fields;
    for name in &parameters.drop {
        if let Some(field) = find(name).filter(|_| !forced(name)) {
            splice.remove(field);
            left -= 1;
        }
    }
    let mut added: Vec<u8> = Vec::new();
    let mut add = |name: &str, value: &str| {
        if left > 0 || !added.is_empty() {
            added.push(b',');
        }
        json::push_quoted(&mut added, name);
        added.push(b':');
        added.extend_from_slice(value.as_bytes());
    };
    for (name, value) in &parameters.forced {
        match find(name) {
            Some(field) => splice.replace(field.value, Bytes::copy_from_slice(value.as_bytes())),
            None => add(name, value),
        }
    }
    let dropped = |name: &Name| parameters.drop.contains(name);
    for (name, value) in &parameters.defaults {
        if !forced(name) && (find(name).is_none() || dropped(name)) {
            add(name, value);
        }
    }
    if !added.is_empty() {
        splice.replace(Span { start: layout.close, end: layout.close }, added.into());
    }
    Ok(splice.apply(&body, layout))
}
