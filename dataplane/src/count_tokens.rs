//! `count_tokens` where no deployment of the model has a counter of its own: an estimate, said to be one (LiteLLM
//! API-16).

use http::{Response, StatusCode};
use tollgate_dialects::chat::{self, Surface};
use tollgate_dialects::error::ErrorBody;
use tollgate_dialects::head::Operation;

use crate::admit::Admitted;
use crate::core::Core;
use crate::error::Result;
use crate::outgoing::Mode;
use crate::record::Record;
use crate::reply::{self, ReplyBody};

/// The estimate; `None` when a deployment can count.
///
/// # Errors
/// 400 when the body is not what Anthropic's API takes.
pub fn locally(core: &Core, admitted: &Admitted, record: &Record) -> Result<Option<Response<ReplyBody>>> {
    let snapshot = &admitted.caller.tables.snapshot;
    let route = &snapshot.routes[admitted.route as usize];
    let counts =
        |deployment: u32| Mode::of(Operation::CountTokens, &snapshot.deployments[deployment as usize]).is_some();
    if route.targets.iter().any(|target| counts(target.deployment)) {
        return Ok(None);
    }
    let request = chat::decode_request(Surface::AnthropicMessages, &admitted.call.body)
        .map_err(|error| crate::outgoing::refused(&ErrorBody::from(&error)))?;
    let input_tokens = tollgate_dialects::estimate::count_tokens_estimate(&request);
    let body = serde_json::json!({"input_tokens": input_tokens, "litellm_count_source": "local_estimate"}).to_string();
    let mut response = reply::full(StatusCode::OK, "application/json", body);
    reply::add_common(response.headers_mut(), &record.call_id);
    response.headers_mut().insert(reply::names::ANTHROPIC_REQUEST_ID.clone(), record.call_id.clone());
    record.count(&core.bank, std::time::Instant::now(), 200, None);
    Ok(Some(response))
}
