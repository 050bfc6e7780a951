//! One request to one provider, and what its answer means: a reply to relay, or a failure with its class. Unary replies
//! are read whole, because their cost is in the head of ours; streams go on once their first bytes are here, so that a
//! failure before them is still an ordinary error.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_dialects::chat::{self, ReplyOptions, StreamDecoder, StreamEncoder, StreamOptions};
use tollgate_dialects::error::ErrorKind;
use tollgate_dialects::head::Operation;
use tollgate_dialects::sniff::{self, SniffOptions, StreamSniffer};
use tollgate_dialects::splice::{Pieces, Splice, json_string};
use tollgate_dialects::usage;
use tollgate_snapshot::model::{ErrorClass, Name};

use crate::admit::RequestPermits;
use crate::attempt::{Attempting, Failure};
use crate::booking::{Booked, Booking};
use crate::core::Entry;
use crate::error::{GatewayError, UpstreamFailure};
use crate::lines;
use crate::outgoing::{Mode, Outgoing};
use crate::pipeline::client_dialect;
use crate::record::Record;
use crate::relay::{Closing, Flow, Pace, Relay, Translation};
use crate::reply::{Reply, ReplyBody};
use crate::upstream::head::Head;
use crate::upstream::{Body, ConnectError, Fields, SendError, Sent, Unread};

/// Largest part of an error answer that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A reply that can be given to the client.
pub struct Judged {
    fields: Fields,
    kind: Kind,
    booking: Box<Booking>,
}

#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, once a call: a box would cost more")]
enum Kind {
    Unary { body: Pieces, booked: Booked },
    Stream { upstream: Body, flow: Flow, ready: VecDeque<Bytes>, pace: Pace },
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
    let sent = core.pool.send(&entry.target, &outgoing.message, clock.connect, until_head).await;
    let Sent { head, body } = match sent {
        Ok(sent) => sent,
        Err(SendError::TimedOut) => return Err(timed_out(booking, record)),
        Err(SendError::Connect(error)) => {
            // Nothing left this machine.
            booking.release(0);
            record.provider += booking.started.elapsed();
            log_connect(&deployment, &error);
            return Err(Failure::of_provider(
                GatewayError::UpstreamConnect { deployment: deployment.to_string(), attempts: 1 },
                ErrorClass::Connect,
            ));
        }
        Err(SendError::Broken(error)) => {
            tracing::warn!(%deployment, %error, "deployment `{deployment}` closed the connection before it answered");
            booking.settle_unknown(0, 502);
            record.provider += booking.started.elapsed();
            let reason = "closed the connection before it answered";
            return Err(Failure::of_provider(
                GatewayError::UpstreamBroken { deployment: deployment.to_string(), attempts: 1, reason },
                ErrorClass::Connect,
            ));
        }
    };
    booking.first_byte = Some(booking.started.elapsed());
    if head.status != StatusCode::OK {
        return Err(Box::pin(failed(attempting, head, body, booking, record)).await);
    }
    if let Some(encoding) = head.fields.get("content-encoding").filter(|encoding| *encoding != b"identity") {
        let encoding = String::from_utf8_lossy(encoding);
        tracing::warn!(%deployment, %encoding, "deployment `{deployment}` compressed its answer unasked");
        return Err(broken(booking, record, "sent an answer in an encoding that nobody asked for"));
    }
    let is_stream = outgoing.stream
        && admitted.call.operation != Operation::Embeddings
        && admitted.call.operation != Operation::CountTokens;
    if is_stream {
        Box::pin(stream(attempting, outgoing, head.fields, body, booking, record)).await
    } else {
        unary(attempting, outgoing, head.fields, body, booking, record).await
    }
}

/// Reads a reply whole and settles it.
async fn unary(
    attempting: &Attempting<'_>,
    outgoing: Box<Outgoing>,
    fields: Fields,
    body: Body,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Result<Judged, Failure> {
    let Attempting { core, clock, admitted, .. } = attempting;
    let deployment = booking.deployment.clone();
    let limit = core.shared.settings.max_reply_bytes;
    let read = tokio::time::timeout_at(clock.deadline.into(), body.whole(limit)).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(Unread::TooLarge)) => return Err(broken(booking, record, "sent an answer that is too large")),
        Ok(Err(Unread::Broken(_))) => return Err(broken(booking, record, "broke off its answer")),
        Err(_) => return Err(timed_out(booking, record)),
    };
    let ended = Instant::now();
    booking.ended = Some(ended);
    record.provider += ended.duration_since(booking.started);
    let entry = attempting.entry(&booking);
    let dialect = attempting.deployment(&booking).dialect;
    if admitted.call.operation == Operation::CountTokens {
        booking.release(200);
        return Ok(Judged { fields, kind: Kind::Unary { body: body.into(), booked: Booked::default() }, booking });
    }
    let notes = usage::read_unary(dialect, &body, entry.usage_quirks);
    booking.cited = booking.searching.wants_citations() && sniff::cites(&body);
    let Some(layout) = notes.layout else {
        tracing::warn!(%deployment, "deployment `{deployment}` sent something that is not JSON");
        booking.settle_unknown(body.len() as u64, 200);
        let reason = "sent an answer that is not JSON";
        return Err(Failure::of_provider(
            GatewayError::UpstreamBroken { deployment: deployment.to_string(), attempts: 1, reason },
            ErrorClass::ServerError,
        ));
    };
    let has_output = admitted.call.operation != Operation::Embeddings;
    let must_tell_output = || has_output && (!notes.tells_output || notes.says_something(dialect, &body));
    let booked = match &notes.usage {
        Some(usage) if booking.believes(usage, must_tell_output) => booking.settle(usage.clone(), 200),
        Some(_) | None => booking.settle_unknown(notes.text_bytes(dialect, &body), 200),
    };
    // After a fallback clients see who really answered; else the name they asked for (API-1).
    let shown: &str =
        if attempting.fell_back { &admitted.model } else { admitted.call.model().unwrap_or(&admitted.model) };
    let body = match outgoing.mode {
        Mode::Pass => match notes.model {
            Some(field) if !attempting.fell_back => {
                let shown = json_string(shown);
                if field.of(&body) == shown {
                    body.into()
                } else {
                    let mut splice = Splice::default();
                    splice.replace(field.value, shown);
                    splice.apply(&body, layout)
                }
            }
            _ => body.into(),
        },
        Mode::Translate(surface) => {
            let translated = chat::decode_reply(dialect, &body).map(|reply| {
                let options = ReplyOptions { model: shown, created: core.unix_ms(Instant::now()) / 1000, id: None };
                chat::encode_reply(surface, &reply, &options)
            });
            match translated {
                Ok(body) => Bytes::from(body).into(),
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
    Ok(Judged { fields, kind: Kind::Unary { body, booked }, booking })
}

/// Waits for the first bytes of a stream, then lets it run.
async fn stream(
    attempting: &Attempting<'_>,
    outgoing: Box<Outgoing>,
    fields: Fields,
    mut body: Body,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Result<Judged, Failure> {
    let Attempting { core, clock, admitted, .. } = attempting;
    let deployment = attempting.deployment(&booking);
    let shown: &str = admitted.call.model().unwrap_or(&admitted.model);
    let is_event_stream = fields
        .get("content-type")
        .and_then(|kind| kind.get(..17))
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"));
    if !is_event_stream {
        return Err(broken(booking, record, "answered a stream with something else"));
    }
    let mut flow = match outgoing.mode {
        Mode::Pass => Flow::Pass(Box::new(StreamSniffer::new(SniffOptions {
            dialect: deployment.dialect,
            quirks: attempting.entry(&booking).usage_quirks,
            drop_usage: outgoing.injected_usage,
            model: (!attempting.fell_back).then(|| json_string(shown)),
            counts_output: booking.slice.is_some(),
            counts_text: !booking.hard,
            finds_citations: booking.searching.wants_citations(),
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
                counts_output: booking.slice.is_some(),
                finds_citations: booking.searching.wants_citations(),
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
        let chunk = match tokio::time::timeout_at(until.into(), body.data()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(_)) | None) => return Err(broken(booking, record, "ended its stream before the first event")),
            Err(_) => return Err(timed_out(booking, record)),
        };
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
    Ok(Judged { fields, kind: Kind::Stream { upstream: body, flow, ready, pace }, booking })
}

/// An error answer of the provider.
async fn failed(
    attempting: &Attempting<'_>,
    head: Head,
    body: Body,
    mut booking: Box<Booking>,
    record: &mut Record,
) -> Failure {
    let status = head.status.as_u16();
    let dialect = attempting.deployment(&booking).dialect;
    let deadline = attempting.clock.deadline.min(Instant::now() + Duration::from_secs(10));
    let read = tokio::time::timeout_at(deadline.into(), read_error(body)).await.unwrap_or_default();
    let quirks = attempting.entry(&booking).usage_quirks;
    let notes = usage::read_unary(dialect, &read.bytes, quirks);
    // A complete error answer without usage: nothing was generated (Released). A redirect or a torn answer is doubt.
    match notes.usage {
        Some(usage) if read.complete => drop(booking.settle(usage, status)),
        None if read.complete && !notes.absurd && (400..600).contains(&status) => booking.release(status),
        _ => drop(booking.settle_unknown(0, status)),
    }
    record.provider += booking.started.elapsed();
    let upstream = tollgate_dialects::error::decode_error(dialect, status, &read.bytes);
    let deployment = booking.deployment.to_string();
    let retry_after_ms = retry_after_ms(&head.fields);
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
        headers: lines::echoed(&head.fields),
    }));
    Failure { error: Box::new(error), class: Some(class), final_here, retry_after_ms }
}

#[derive(Default)]
struct ErrorBody {
    bytes: Vec<u8>,
    complete: bool,
}

async fn read_error(mut body: Body) -> ErrorBody {
    let mut read = ErrorBody::default();
    loop {
        match body.data().await {
            None => {
                read.complete = true;
                return read;
            }
            Some(Err(_)) => return read,
            Some(Ok(data)) => {
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
fn retry_after_ms(fields: &Fields) -> Option<u64> {
    if let Some(ms) = fields.text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Some(ms.max(0.0) as u64);
    }
    let after = fields.text("retry-after")?;
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
    booking.settle_unseen(0, 408);
    tracing::warn!(%deployment, "deployment `{deployment}` did not answer in time");
    Failure::of_provider(GatewayError::UpstreamTimeout { deployment, attempts: 1, after }, ErrorClass::Timeout)
}

fn broken(mut booking: Box<Booking>, record: &mut Record, reason: &'static str) -> Failure {
    let deployment = booking.deployment.to_string();
    record.provider += booking.started.elapsed();
    booking.settle_unseen(0, 502);
    tracing::warn!(%deployment, "deployment `{deployment}` {reason}");
    Failure::of_provider(GatewayError::UpstreamBroken { deployment, attempts: 1, reason }, ErrorClass::ServerError)
}

fn log_connect(deployment: &Name, error: &ConnectError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    tracing::warn!(%deployment, "no connection to deployment `{deployment}`: {error}{cause}");
}

impl Failure {
    fn of_provider(error: GatewayError, class: ErrorClass) -> Failure {
        Failure { error: Box::new(error), class: Some(class), final_here: false, retry_after_ms: None }
    }
}

impl Judged {
    /// The answer to the client; counts the call unless a stream goes on counting.
    pub fn answer(
        self,
        attempting: &Attempting<'_>,
        mut permits: RequestPermits,
        record: Record,
        entry: Entry,
    ) -> Reply {
        let Judged { fields, kind, booking } = self;
        let core = attempting.core.clone();
        let now = Instant::now();
        match kind {
            Kind::Unary { body, booked } => {
                permits.settle(booked.spent);
                record.count(&core.bank, now, 200, Some(&booked));
                let room = body.len();
                let mut lines = lines::of_reply(attempting, now, &booking, &record, &fields, &permits, room);
                lines.add_cost(&booked.cost);
                lines.raw(b"content-type: application/json\r\n");
                drop(entry);
                Reply { response: Response::new(ReplyBody::Full(body)), head: Some(lines.into_bytes()), at: now }
            }
            Kind::Stream { upstream, flow, ready, pace } => {
                let room = ready.iter().map(Bytes::len).sum();
                let mut lines = lines::of_reply(attempting, now, &booking, &record, &fields, &permits, room);
                lines.raw(STREAM_LINES);
                let closing = Closing { booking, permits, record, entry };
                let dialect = client_dialect(attempting.admitted.call.operation);
                let relay = Relay::new(upstream, flow, dialect, ready, closing, pace);
                let response = Response::new(ReplyBody::Stream(Box::new(relay)));
                Reply { response, head: Some(lines.into_bytes()), at: now }
            }
        }
    }
}

/// Of every stream. The cost is not known before the end (HDR-2).
const STREAM_LINES: &[u8] = b"x-litellm-response-cost: 0.0\r\n\
    content-type: text/event-stream; charset=utf-8\r\n\
    cache-control: no-cache\r\n\
    x-accel-buffering: no\r\n";
