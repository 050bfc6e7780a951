//! One request to one provider, and what its answer means: a reply to relay, or a failure with its class. Unary replies
//! are read whole, because their cost is in the head of ours; streams go on once their first bytes are here, so that a
//! failure before them is still an ordinary error.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{self, ReplyOptions, StreamDecoder, StreamEncoder, StreamOptions};
use tollgate_dialects::error::ErrorKind;
use tollgate_dialects::head::Operation;
use tollgate_dialects::sniff::{SniffOptions, StreamSniffer};
use tollgate_dialects::splice::{Splice, json_string};
use tollgate_dialects::usage;
use tollgate_snapshot::model::{ErrorClass, Name};
use tollgate_snapshot::money::NanoUsd;

use crate::admit::{Admitted, RequestPermits};
use crate::attempt::{Attempting, Failure};
use crate::booking::{Booked, Booking};
use crate::core::Entry;
use crate::error::{GatewayError, UpstreamFailure};
use crate::outgoing::{Mode, Outgoing};
use crate::pipeline::client_dialect;
use crate::record::Record;
use crate::relay::{Closing, Flow, Pace, Relay, Translation};
use crate::reply::{self, ReplyBody, names};
use crate::upstream::pool::Lease;
use crate::upstream::{ConnectError, SendError, Sent};

/// Largest part of an error answer that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A reply that can be given to the client.
pub struct Judged {
    head: HeaderMap,
    kind: Kind,
    booking: Box<Booking>,
}

enum Kind {
    Unary { body: Bytes, booked: Booked },
    Stream { upstream: Incoming, lease: Lease, flow: Flow, ready: VecDeque<Bytes>, pace: Pace },
}

/// Sends an attempt and judges the answer.
///
/// # Errors
/// The failure, its hold settled: released where the provider answered with a complete error, charged where nobody
/// knows what it did.
pub async fn send(
    attempting: &Attempting<'_>,
    outgoing: Box<Outgoing>,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Result<Judged, Failure> {
    let Attempting { core, clock, admitted, .. } = attempting;
    let deployment = booking.deployment.clone();
    let entry = attempting.entry(&booking);
    let until_head = match clock.first_byte {
        Some(first_byte) => clock.deadline.min(booking.started + first_byte),
        None => clock.deadline,
    };
    let sent = core.pool.send(&entry.target, || outgoing.request(), clock.connect);
    let sent = tokio::time::timeout_at(until_head.into(), sent).await;
    let Sent { response, lease } = match sent {
        Ok(Ok(sent)) => sent,
        Ok(Err(SendError::Connect(error))) => {
            // Nothing left this machine.
            booking.release(0);
            record.provider += booking.started.elapsed();
            log_connect(&deployment, &error);
            return Err(Failure::of_provider(
                GatewayError::UpstreamConnect { deployment: deployment.to_string(), attempts: 1 },
                ErrorClass::Connect,
            ));
        }
        Ok(Err(SendError::Broken(error))) => {
            tracing::warn!(%deployment, %error, "deployment `{deployment}` closed the connection before it answered");
            booking.settle_unknown(0, 502);
            record.provider += booking.started.elapsed();
            let reason = "closed the connection before it answered";
            return Err(Failure::of_provider(
                GatewayError::UpstreamBroken { deployment: deployment.to_string(), attempts: 1, reason },
                ErrorClass::Connect,
            ));
        }
        Err(_) => return Err(timed_out(booking, record)),
    };
    booking.first_byte = Some(booking.started.elapsed());
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Box::pin(failed(attempting, head, body, lease, booking, record)).await);
    }
    if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        tracing::warn!(%deployment, ?encoding, "deployment `{deployment}` compressed its answer unasked");
        return Err(broken(booking, record, "sent an answer in an encoding that nobody asked for"));
    }
    let is_stream = outgoing.stream
        && admitted.call.operation != Operation::Embeddings
        && admitted.call.operation != Operation::CountTokens;
    if is_stream {
        Box::pin(stream(attempting, outgoing, head, body, lease, booking, record)).await
    } else {
        unary(attempting, outgoing, head, body, lease, booking, record).await
    }
}

/// Reads a reply whole and settles it.
async fn unary(
    attempting: &Attempting<'_>,
    outgoing: Box<Outgoing>,
    head: http::response::Parts,
    body: Incoming,
    lease: Lease,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Result<Judged, Failure> {
    let Attempting { core, clock, admitted, .. } = attempting;
    let deployment = booking.deployment.clone();
    let limit = core.shared.settings.max_reply_bytes;
    let read = tokio::time::timeout_at(clock.deadline.into(), read_whole(body, &head.headers, limit)).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(reason)) => return Err(broken(booking, record, reason)),
        Err(_) => return Err(timed_out(booking, record)),
    };
    lease.finished();
    record.provider += booking.started.elapsed();
    let entry = attempting.entry(&booking);
    let dialect = attempting.deployment(&booking).dialect;
    if admitted.call.operation == Operation::CountTokens {
        booking.release(200);
        return Ok(Judged { head: head.headers, kind: Kind::Unary { body, booked: Booked::default() }, booking });
    }
    let notes = usage::read_unary(dialect, &body, entry.usage_quirks);
    let Some(layout) = notes.layout else {
        tracing::warn!(%deployment, "deployment `{deployment}` sent something that is not JSON");
        booking.settle_unknown(body.len() as u64, 200);
        let reason = "sent an answer that is not JSON";
        return Err(Failure::of_provider(
            GatewayError::UpstreamBroken { deployment: deployment.to_string(), attempts: 1, reason },
            ErrorClass::ServerError,
        ));
    };
    let booked = match notes.usage {
        Some(usage) => booking.settle(usage, 200),
        None => booking.settle_unknown(body.len() as u64, 200),
    };
    // After a fallback clients see who really answered; else the name they asked for (API-1).
    let shown: &str =
        if attempting.fell_back { &admitted.model } else { admitted.call.model().unwrap_or(&admitted.model) };
    let body = match outgoing.mode {
        Mode::Pass => match notes.model {
            Some(field) if !attempting.fell_back => {
                let shown = json_string(shown);
                if field.of(&body) == shown {
                    body
                } else {
                    let mut splice = Splice::default();
                    splice.replace(field.value, shown);
                    splice.apply(&body, layout).into_bytes()
                }
            }
            _ => body,
        },
        Mode::Translate(surface) => {
            let translated = chat::decode_reply(dialect, &body).map(|reply| {
                let options = ReplyOptions { model: shown, created: core.unix_ms(Instant::now()) / 1000, id: None };
                chat::encode_reply(surface, &reply, &options)
            });
            match translated {
                Ok(body) => body.into(),
                Err(error) => {
                    tracing::warn!(%deployment, %error, "deployment `{deployment}` sent an answer that is not of its dialect");
                    let reason = "sent an answer that is not of its dialect";
                    return Err(Failure::of_provider(
                        GatewayError::UpstreamBroken { deployment: deployment.to_string(), attempts: 1, reason },
                        ErrorClass::ServerError,
                    ));
                }
            }
        }
    };
    Ok(Judged { head: head.headers, kind: Kind::Unary { body, booked }, booking })
}

async fn read_whole(mut body: Incoming, headers: &HeaderMap, limit: usize) -> Result<Bytes, &'static str> {
    let expected =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    if expected > limit {
        return Err("sent an answer that is too large");
    }
    let mut first = Bytes::new();
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| "broke off its answer")?.into_data() else { continue };
        if first.is_empty() && buffer.is_empty() {
            first = data;
            continue;
        }
        if buffer.is_empty() {
            buffer.reserve(expected.max(first.len() + data.len()));
            buffer.extend_from_slice(&std::mem::take(&mut first));
        }
        if buffer.len() + data.len() > limit {
            return Err("sent an answer that is too large");
        }
        buffer.extend_from_slice(&data);
    }
    Ok(if buffer.is_empty() { first } else { buffer.freeze() })
}

/// Waits for the first bytes of a stream, then lets it run.
async fn stream(
    attempting: &Attempting<'_>,
    outgoing: Box<Outgoing>,
    head: http::response::Parts,
    mut body: Incoming,
    lease: Lease,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Result<Judged, Failure> {
    let Attempting { core, clock, admitted, .. } = attempting;
    let deployment = attempting.deployment(&booking);
    let shown: &str = admitted.call.model().unwrap_or(&admitted.model);
    let is_event_stream = head.headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    });
    if !is_event_stream {
        return Err(broken(booking, record, "answered a stream with something else"));
    }
    let mut flow = match outgoing.mode {
        Mode::Pass => Flow::Pass(Box::new(StreamSniffer::new(SniffOptions {
            dialect: deployment.dialect,
            quirks: attempting.entry(&booking).usage_quirks,
            drop_usage: outgoing.injected_usage,
            model: (!attempting.fell_back).then(|| json_string(shown)),
        }))),
        Mode::Translate(surface) => Flow::Translate(Box::new(Translation {
            decoder: StreamDecoder::new(deployment.dialect),
            encoder: StreamEncoder::new(
                surface,
                StreamOptions {
                    model: shown.to_owned(),
                    created: core.unix_ms(Instant::now()) / 1000,
                    include_usage: admitted.call.head.include_usage.unwrap_or(false),
                    id: None,
                },
            ),
            events: Vec::new(),
            watch: StreamSniffer::new(SniffOptions {
                quirks: attempting.entry(&booking).usage_quirks,
                ..SniffOptions::watch(deployment.dialect)
            }),
            finished: false,
            failed: false,
            output_bytes: 0,
        })),
    };
    let until = match clock.first_byte {
        Some(first_byte) => clock.deadline.min(booking.started + first_byte),
        None => clock.deadline.min(Instant::now() + clock.idle),
    };
    let mut ready = VecDeque::new();
    // Until something is there to be sent: a failure before is an ordinary error, and may be tried again.
    while ready.is_empty() {
        let frame = match tokio::time::timeout_at(until.into(), body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_)) | None) => return Err(broken(booking, record, "ended its stream before the first event")),
            Err(_) => return Err(timed_out(booking, record)),
        };
        let Ok(chunk) = frame.into_data() else { continue };
        if flow.push(chunk, &mut ready).is_err() {
            return Err(broken(booking, record, "sent an answer that is not of its dialect"));
        }
    }
    let first = booking.started.elapsed();
    booking.first_byte = Some(first);
    record.first_token = Some(first);
    let pace = Pace {
        idle: clock.idle,
        deadline: clock.deadline,
        keepalive: admitted.call.options.keepalive.unwrap_or(core.shared.settings.keepalive),
    };
    Ok(Judged { head: head.headers, kind: Kind::Stream { upstream: body, lease, flow, ready, pace }, booking })
}

/// An error answer of the provider.
async fn failed(
    attempting: &Attempting<'_>,
    head: http::response::Parts,
    body: Incoming,
    lease: Lease,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Failure {
    let status = head.status.as_u16();
    let dialect = attempting.deployment(&booking).dialect;
    let deadline = attempting.clock.deadline.min(Instant::now() + Duration::from_secs(10));
    let read = tokio::time::timeout_at(deadline.into(), read_error(body)).await.unwrap_or_default();
    if read.complete {
        lease.finished();
    }
    // A complete error answer without usage: nothing was generated (Released). A redirect or a torn answer is doubt.
    if read.complete && (400..600).contains(&status) {
        booking.release(status);
    } else {
        booking.settle_unknown(0, status);
    }
    record.provider += booking.started.elapsed();
    let upstream = tollgate_dialects::error::decode_error(dialect, status, &read.bytes);
    let deployment = booking.deployment.to_string();
    let retry_after_ms = retry_after_ms(&head.headers);
    let class = class_of(status, upstream.kind);
    tracing::warn!(
        %deployment,
        status,
        attempt = record.attempts,
        "deployment `{deployment}` answered attempt {} with status {status}",
        record.attempts
    );
    let final_here =
        !matches!(class, ErrorClass::RateLimit | ErrorClass::Timeout | ErrorClass::ServerError | ErrorClass::Connect);
    let error = GatewayError::Upstream(Box::new(UpstreamFailure {
        status,
        kind: upstream.kind,
        message: upstream.message,
        param: upstream.param,
        deployment,
        attempts: 1,
        headers: echoed_headers(&head.headers),
    }));
    Failure { error: Box::new(error), class: Some(class), final_here, retry_after_ms }
}

#[derive(Default)]
struct ErrorBody {
    bytes: Vec<u8>,
    complete: bool,
}

async fn read_error(mut body: Incoming) -> ErrorBody {
    let mut read = ErrorBody::default();
    loop {
        match body.frame().await {
            None => {
                read.complete = true;
                return read;
            }
            Some(Err(_)) => return read,
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                let room = MAX_ERROR_BYTES - read.bytes.len();
                read.bytes.extend_from_slice(&data[..data.len().min(room)]);
                if read.bytes.len() == MAX_ERROR_BYTES {
                    // The rest is not worth its memory; an error of this size is still an error.
                    read.complete = true;
                    return read;
                }
            }
        }
    }
}

/// Which statuses may be tried again, and where (LiteLLM RT-42).
fn class_of(status: u16, kind: ErrorKind) -> ErrorClass {
    match (status, kind) {
        (_, ErrorKind::ContextWindow) => ErrorClass::ContextWindow,
        (_, ErrorKind::ContentPolicy) => ErrorClass::ContentPolicy,
        (429, _) => ErrorClass::RateLimit,
        (408 | 504, _) => ErrorClass::Timeout,
        (401..=403, _) => ErrorClass::Authentication,
        (409, _) => ErrorClass::ServerError,
        (400..=499, _) => ErrorClass::Any,
        _ => ErrorClass::ServerError,
    }
}

/// `retry-after-ms`, else `retry-after` in seconds or as a date.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(ms) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Some(ms.max(0.0) as u64);
    }
    let after = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = after.parse::<f64>() {
        return Some((seconds.max(0.0) * 1000.0) as u64);
    }
    let at = httpdate::parse_http_date(after).ok()?;
    Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default().as_millis() as u64)
}

fn timed_out(mut booking: Box<Booking>, record: &mut Record) -> Failure {
    let deployment = booking.deployment.to_string();
    let after = booking.started.elapsed();
    record.provider += after;
    booking.settle_unknown(0, 408);
    tracing::warn!(%deployment, "deployment `{deployment}` did not answer in time");
    Failure::of_provider(GatewayError::UpstreamTimeout { deployment, attempts: 1, after }, ErrorClass::Timeout)
}

fn broken(mut booking: Box<Booking>, record: &mut Record, reason: &'static str) -> Failure {
    let deployment = booking.deployment.to_string();
    record.provider += booking.started.elapsed();
    booking.settle_unknown(0, 502);
    tracing::warn!(%deployment, "deployment `{deployment}` {reason}");
    Failure::of_provider(GatewayError::UpstreamBroken { deployment, attempts: 1, reason }, ErrorClass::ServerError)
}

fn log_connect(deployment: &Name, error: &ConnectError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    tracing::warn!(%deployment, "no connection to deployment `{deployment}`: {error}{cause}");
}

/// The provider's headers as clients get them: `llm_provider-*` (LiteLLM HDR-6), without what belongs to its connection
/// or to its domain.
fn echoed_headers(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    headers.iter().filter_map(|(name, value)| Some((echoed_name(name)?, value.clone()))).collect()
}

fn echoed_name(name: &HeaderName) -> Option<HeaderName> {
    thread_local! {
        static NAMES: std::cell::RefCell<std::collections::HashMap<HeaderName, HeaderName, foldhash::fast::RandomState>> = std::cell::RefCell::default();
    }
    /// Providers choose header names; beyond this many nothing is remembered.
    const MAX_NAMES: usize = 512;
    let hidden = matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "transfer-encoding"
            | "content-length"
            | "content-encoding"
            | "trailer"
            | "upgrade"
            | "set-cookie"
            | "location"
            | "alt-svc"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
    );
    if hidden {
        return None;
    }
    NAMES.with(|names| {
        if let Some(echoed) = names.borrow().get(name) {
            return Some(echoed.clone());
        }
        let echoed = HeaderName::try_from(format!("llm_provider-{name}")).ok()?;
        if names.borrow().len() < MAX_NAMES {
            names.borrow_mut().insert(name.clone(), echoed.clone());
        }
        Some(echoed)
    })
}

impl Failure {
    fn of_provider(error: GatewayError, class: ErrorClass) -> Failure {
        Failure { error: Box::new(error), class: Some(class), final_here: false, retry_after_ms: None }
    }
}

impl Judged {
    /// The response to the client; counts the call unless a stream goes on counting.
    pub fn answer(
        self,
        attempting: &Attempting<'_>,
        permits: RequestPermits,
        record: Record,
        entry: Entry,
    ) -> Response<ReplyBody> {
        let Judged { head, kind, booking } = self;
        let core = attempting.core.clone();
        let dialect = client_dialect(attempting.admitted.call.operation);
        let mut response = match kind {
            Kind::Unary { body, booked } => {
                let mut permits = permits;
                permits.settle(booked.usage.input_tokens.saturating_add(booked.usage.output_tokens));
                record.count(&core.bank, 200, Some(&booked));
                let mut response = reply::full(StatusCode::OK, "application/json", body);
                add_headers(response.headers_mut(), attempting, &booking, &record, &head, &permits);
                add_cost(response.headers_mut(), &booked);
                drop(entry);
                return response;
            }
            Kind::Stream { upstream, lease, flow, ready, pace } => {
                let mut headers = HeaderMap::with_capacity(40);
                add_headers(&mut headers, attempting, &booking, &record, &head, &permits);
                // The cost is not known before the end (HDR-2).
                headers.insert(names::RESPONSE_COST.clone(), HeaderValue::from_static("0.0"));
                let closing = Closing { booking, permits, record, entry };
                let relay = Relay::new(upstream, lease, flow, dialect, ready, closing, pace);
                let mut response = Response::new(ReplyBody::Stream(Box::new(relay)));
                *response.headers_mut() = headers;
                response
            }
        };
        reply::add_stream_headers(response.headers_mut());
        response
    }
}

fn add_cost(headers: &mut HeaderMap, booked: &Booked) {
    let cost = &booked.cost;
    let text = |amount: NanoUsd| {
        HeaderValue::try_from(amount.to_decimal_text()).unwrap_or_else(|_| HeaderValue::from_static("0"))
    };
    let total = text(cost.total);
    headers.insert(names::RESPONSE_COST_ORIGINAL.clone(), total.clone());
    headers.insert(names::RESPONSE_COST.clone(), total);
    for (name, amount) in [
        (&names::RESPONSE_COST_INPUT, cost.input),
        (&names::RESPONSE_COST_OUTPUT, cost.output),
        (&names::RESPONSE_COST_CACHE_READ, cost.cache_read),
        (&names::RESPONSE_COST_CACHE_CREATION, cost.cache_write),
        (&names::RESPONSE_COST_REASONING, cost.reasoning),
        (&names::RESPONSE_COST_TOOL_USAGE, cost.tools),
    ] {
        if amount != NanoUsd::ZERO {
            headers.insert(name.clone(), text(amount));
        }
    }
}

/// The headers that LiteLLM's users script against (HDR-1 to HDR-7).
fn add_headers(
    headers: &mut HeaderMap,
    attempting: &Attempting<'_>,
    booking: &Booking,
    record: &Record,
    upstream: &HeaderMap,
    permits: &RequestPermits,
) {
    let Attempting { core, admitted, clock, max_retries, .. } = attempting;
    let entry = attempting.entry(booking);
    headers.reserve(32 + upstream.len());
    reply::add_common(headers, &record.call_id);
    if client_dialect(admitted.call.operation) == Dialect::Anthropic {
        headers.insert(names::ANTHROPIC_REQUEST_ID.clone(), record.call_id.clone());
    }
    let tables = &admitted.caller.tables;
    headers.insert(names::MODEL_ID.clone(), entry.headers.model_id.clone());
    headers.insert(names::MODEL_NAME.clone(), entry.headers.model_name.clone());
    headers.insert(names::MODEL_API_BASE.clone(), entry.headers.api_base.clone());
    headers.insert(names::MODEL_GROUP.clone(), tables.routes[admitted.route as usize].group.clone());
    if let Some(region) = &entry.headers.region {
        headers.insert(names::MODEL_REGION.clone(), region.clone());
    }
    headers.insert(names::ATTEMPTED_RETRIES.clone(), reply::number(u64::from(record.retries)));
    headers.insert(names::ATTEMPTED_FALLBACKS.clone(), reply::number(u64::from(record.fallbacks)));
    headers.insert(names::MAX_RETRIES.clone(), reply::number(u64::from(*max_retries)));
    headers.insert(names::TIMEOUT.clone(), reply::number(clock.total.as_secs()));
    let elapsed = record.arrived.elapsed();
    headers.insert(names::RESPONSE_DURATION.clone(), reply::number(elapsed.as_millis() as u64));
    let overhead = elapsed.saturating_sub(record.provider.max(record.first_token.unwrap_or_default()));
    headers.insert(names::OVERHEAD_DURATION.clone(), reply::milliseconds(overhead));
    if let Some(policy) = admitted.caller.policy() {
        if let Some(limit) = policy.limits.requests_per_minute {
            headers.insert(names::KEY_RPM_LIMIT.clone(), reply::number(limit));
        }
        if let Some(limit) = policy.limits.tokens_per_minute {
            headers.insert(names::KEY_TPM_LIMIT.clone(), reply::number(limit));
        }
        add_key_budget(headers, core, admitted);
    }
    add_rate_limits(headers, permits, &admitted.model);
    for (name, value) in upstream {
        // The provider's limits are the tightest where none of ours applies.
        if names::is_rate_limit(name) && !headers.contains_key(name) {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(echoed) = echoed_name(name) {
            headers.append(echoed, value.clone());
        }
    }
}

/// Spend and limit of the key's own budget: the first in its list.
fn add_key_budget(headers: &mut HeaderMap, core: &crate::core::Core, admitted: &Admitted) {
    let Some(key) = admitted.caller.key() else { return };
    let tables = &admitted.caller.tables;
    let Some(index) = key.budgets.first() else { return };
    let budget = &tables.snapshot.budgets[*index as usize];
    if budget.unit != tollgate_snapshot::model::BudgetUnit::Usd {
        return;
    }
    let spent = tables.budget(*index, &core.shared.builder).spent();
    for (name, amount) in [(&names::KEY_SPEND, spent), (&names::KEY_MAX_BUDGET, budget.limit)] {
        if let Ok(value) = HeaderValue::try_from(NanoUsd(amount).to_decimal_text()) {
            headers.insert(name.clone(), value);
        }
    }
}

/// OpenAI's names for the tightest scope, LiteLLM's for each.
fn add_rate_limits(headers: &mut HeaderMap, permits: &RequestPermits, model: &str) {
    let scopes =
        [(&permits.per_model, &reply::MODEL_PER_KEY), (&permits.key, &reply::API_KEY), (&permits.team, &reply::TEAM)];
    for (permit, names_of_scope) in scopes {
        let Some(permit) = permit else { continue };
        let remaining = &permit.remaining;
        if let Some((limit, left)) = remaining.requests {
            headers.insert(names_of_scope.limit_requests.clone(), reply::number(limit));
            headers.insert(names_of_scope.remaining_requests.clone(), reply::number(left));
            if !headers.contains_key(&names::LIMIT_REQUESTS) {
                headers.insert(names::LIMIT_REQUESTS.clone(), reply::number(limit));
                headers.insert(names::REMAINING_REQUESTS.clone(), reply::number(left));
                headers.insert(names::RESET_REQUESTS.clone(), reply::seconds(remaining.requests_reset));
            }
        }
        if let Some((limit, left)) = remaining.tokens {
            headers.insert(names_of_scope.limit_tokens.clone(), reply::number(limit));
            headers.insert(names_of_scope.remaining_tokens.clone(), reply::number(left));
            if !headers.contains_key(&names::LIMIT_TOKENS) {
                headers.insert(names::LIMIT_TOKENS.clone(), reply::number(limit));
                headers.insert(names::REMAINING_TOKENS.clone(), reply::number(left));
                headers.insert(names::RESET_TOKENS.clone(), reply::seconds(remaining.tokens_reset));
            }
        }
    }
    if let Some(permit) = &permits.per_model {
        for (kind, remaining) in [("requests", permit.remaining.requests), ("tokens", permit.remaining.tokens)] {
            let Some((_, left)) = remaining else { continue };
            // A model whose name makes no header name goes without.
            if let Some(name) = reply::key_remaining(kind, model) {
                headers.insert(name, reply::number(left));
            }
        }
    }
}
