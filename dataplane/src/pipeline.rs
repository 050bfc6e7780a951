//! The page to read first: how a request becomes an answer. Each stage takes what the stage before returns, so that the
//! order cannot be wrong:
//!
//! ```text
//! listener → recognise (path → handler) → identify (key → Caller) → decode (body → Call) → admit (model access, rates
//! → Admitted) → attempt (plan → hold → upstream → relay, the only retry loop) → settle (usage → ledger, metrics)
//! ```
//!
//! One snapshot serves the whole request. What goes wrong is a [`GatewayError`], rendered once, here.

use std::rc::Rc;
use std::time::Instant;

use http::HeaderMap;
use http::request::Parts;
use tollgate_dialects::Dialect;
use tollgate_dialects::head::Operation;

use crate::admit::Refused;
use crate::attempt::{self, Failed};
use crate::call::decode;
use crate::caller::identify;
use crate::core::{Core, Entry};
use crate::detach::{Client, FinishAnyway};
use crate::error::{GatewayError, Result};
use crate::recognise::{Handler, Recognised, recognise};
use crate::record::Record;
use crate::reply::{self, Reply};
use crate::server::RequestBody;
use crate::{admit, answer};

/// Answers one request. Never fails: what goes wrong is an answer too. `refused`: what [`crate::head_guard`] found wrong
/// with its head.
pub async fn serve(core: Rc<Core>, parts: Parts, body: RequestBody, refused: Option<&'static str>) -> Reply {
    let arrived = Instant::now();
    let mut record = Record::new("other", arrived, core.unix_ms(arrived));
    let recognised = recognise(&parts.method, parts.uri.path());
    if let Some(reason) = refused.or_else(|| other_host(&parts)) {
        let dialect = match recognised {
            Recognised::Route { handler: Handler::Forward(operation), .. } => client_dialect(operation),
            Recognised::Route { .. } | Recognised::WrongMethod | Recognised::NotFound => Dialect::OpenAi,
        };
        let error = GatewayError::HeadRefused { reason };
        count_failure(&core, &error, &record);
        return reply::error(&error, dialect, &record.call_id).into();
    }
    let (handler, path_model) = match recognised {
        Recognised::Route { handler, model } => (handler, model.map(|model| model.into_owned())),
        Recognised::WrongMethod => {
            return reply::error(&GatewayError::MethodNotAllowed, Dialect::OpenAi, &record.call_id).into();
        }
        Recognised::NotFound => {
            return reply::error(&GatewayError::RouteNotFound, Dialect::OpenAi, &record.call_id).into();
        }
    };
    let Handler::Forward(operation) = handler else {
        let query = parts.uri.query().unwrap_or_default();
        let mut response = answer::answer(&core, handler, path_model, query, &parts.headers, &record);
        reply::add_common(response.headers_mut(), &record.call_id);
        return response.into();
    };
    record.operation = operation_name(operation);
    match forward(&core, operation, path_model, parts.headers, body, record).await {
        Ok(reply) => reply,
        Err(failed) => {
            let Failed { error, record } = *failed;
            count_failure(&core, &error, &record);
            reply::error(&error, client_dialect(operation), &record.call_id).into()
        }
    }
}

/// The stages in their order.
async fn forward(
    core: &Rc<Core>,
    operation: Operation,
    path_model: Option<String>,
    headers: HeaderMap,
    body: RequestBody,
    mut record: Record,
) -> std::result::Result<Reply, Box<Failed>> {
    let stages = async {
        let entry = Entry::new(core).ok_or(GatewayError::Overloaded { reason: "calls at once" })?;
        let caller = identify(&core.tables(), &headers, core.unix_ms(record.arrived) / 1000)?;
        if let Some(team) = caller.team_entry() {
            record.team = team.label;
        }
        let call = decode(core, operation, path_model, headers, body).await?;
        if let Some(id) = &call.options.call_id {
            record.call_id = id.clone();
        }
        let admitted = match admit::admit(core, caller, call, record.arrived) {
            Ok(admitted) => admitted,
            // Boxed: nearly no call waits.
            Err(Refused { waiting: Some(waiting), .. }) => Box::pin(admit::wait_for_share(core, waiting)).await?,
            Err(Refused { error, waiting: None }) => return Err(error),
        };
        record.model = admitted.caller.tables.routes[admitted.route as usize].label;
        Result::Ok((entry, admitted))
    };
    let (entry, admitted) = match stages.await {
        Ok(staged) => staged,
        Err(error) => return Err(Box::new(Failed { error, record })),
    };
    // The provider works, and bills, whether or not the client waits: the attempt goes on when this future is dropped.
    let client = Rc::new(Client::default());
    let attempts = attempt::run(core.clone(), entry, admitted, record, client.clone());
    FinishAnyway::new(core, client, Box::pin(attempts)).await
}

/// A target that names another host than `host` does: whoever stands before us may have looked at the other one.
fn other_host(parts: &Parts) -> Option<&'static str> {
    let target = parts.uri.authority()?;
    let host = parts.headers.get(http::header::HOST)?;
    let same = host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes());
    (!same).then_some("its target names another host than `host`")
}

/// The dialect in which an operation's client reads errors.
pub fn client_dialect(operation: Operation) -> Dialect {
    match operation {
        Operation::Messages | Operation::CountTokens => Dialect::Anthropic,
        Operation::Chat | Operation::Completions | Operation::Embeddings => Dialect::OpenAi,
    }
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Chat => "/chat/completions",
        Operation::Completions => "/completions",
        Operation::Embeddings => "/embeddings",
        Operation::Messages => "/v1/messages",
        Operation::CountTokens => "/v1/messages/count_tokens",
    }
}

fn count_failure(core: &Core, error: &GatewayError, record: &Record) {
    let own = &core.bank.own;
    match error {
        GatewayError::Overloaded { .. } | GatewayError::Draining => own.shed.add(1),
        GatewayError::KeyMissing
        | GatewayError::KeyUnknown
        | GatewayError::KeyDisabled
        | GatewayError::KeyExpired { .. } => {
            own.unauthenticated.add(1);
        }
        GatewayError::BadRequest { .. } | GatewayError::HeadRefused { .. } => own.bad_requests.add(1),
        _ => {}
    }
    record.count(&core.bank, Instant::now(), error.facts().status, None);
}
