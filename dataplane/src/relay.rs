//! The way back of a stream: provider's events to client's bytes, as they come. Same dialect: the slices pass through,
//! usage is read on the side. Other dialect: decoded and encoded event by event. A client that leaves, a provider that
//! breaks off, a budget that has nothing left and a clock that runs out all end here, and each settles the call once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::Sleep;
use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{Event, StreamDecoder, StreamEncoder};
use tollgate_dialects::sniff::StreamSniffer;
use tollgate_dialects::usage::Usage;
use tollgate_ledger::Short;

use crate::admit::RequestPermits;
use crate::booking::{Booked, Booking};
use crate::core::{Core, Entry};
use crate::error::GatewayError;
use crate::record::Record;
use crate::reply;
use crate::slice;
use crate::upstream::Body;

/// A response body that was given up. Closes the client's connection.
#[derive(Debug, thiserror::Error)]
#[error("the stream was cut")]
pub struct Cut;

/// The provider's bytes are not what its dialect allows.
#[derive(Clone, Copy, Debug)]
pub struct NotOfItsDialect;

/// How events are turned into the client's bytes.
pub enum Flow {
    /// Client and provider speak the same dialect.
    Pass(Box<StreamSniffer>),
    Translate(Box<Translation>),
}

/// The state of a stream that crosses dialects.
pub struct Translation {
    pub decoder: StreamDecoder,
    pub encoder: StreamEncoder,
    pub events: Vec<Event>,
    /// Reads the usage off the provider's own bytes: money does not go through a translation.
    pub watch: StreamSniffer,
    pub finished: bool,
    /// The provider said that it failed, and the client was told.
    pub failed: bool,
    pub output_bytes: u64,
}

/// What a stream came to.
struct Ending {
    usage: Option<Usage>,
    /// The provider said that it is over.
    complete: bool,
    failed: bool,
    says_something: bool,
    /// It cites pages that a search found.
    cited: bool,
    output_bytes: u64,
}

impl Flow {
    /// Takes a slice of the provider's bytes; what is for the client goes to `out`. Err: the provider's bytes are not
    /// what its dialect allows.
    pub fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Bytes>) -> Result<(), NotOfItsDialect> {
        match self {
            Flow::Pass(sniffer) => {
                sniffer.push(chunk, &mut |bytes| out.push_back(bytes));
                Ok(())
            }
            Flow::Translate(translation) => translation.push(chunk, out),
        }
    }

    /// The most output tokens that arrived. 0 unless it is counted.
    fn output_at_most(&self) -> u64 {
        match self {
            Flow::Pass(sniffer) => sniffer.output_at_most(),
            Flow::Translate(translation) => translation.watch.output_at_most(),
        }
    }

    /// The provider has said all: the answer's end and what it used.
    fn is_complete(&self) -> bool {
        match self {
            Flow::Pass(sniffer) => sniffer.done(),
            Flow::Translate(translation) => translation.finished && translation.watch.done(),
        }
    }

    fn end(self, out: &mut VecDeque<Bytes>) -> Ending {
        match self {
            Flow::Pass(sniffer) => {
                let end = sniffer.finish(&mut |bytes| out.push_back(bytes));
                if end.within_event {
                    // What we add must not become part of the event that was cut.
                    out.push_back(Bytes::from_static(b"\n\n"));
                }
                Ending {
                    usage: end.usage,
                    complete: end.done,
                    failed: end.error.is_some(),
                    says_something: end.says_something,
                    cited: end.cited,
                    output_bytes: end.text_bytes,
                }
            }
            Flow::Translate(mut translation) => {
                let complete = translation.finish(out);
                let end = translation.watch.finish(&mut |_| {});
                Ending {
                    usage: end.usage,
                    complete,
                    failed: translation.failed,
                    says_something: end.says_something,
                    cited: end.cited,
                    output_bytes: translation.output_bytes,
                }
            }
        }
    }
}

impl Translation {
    fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Bytes>) -> Result<(), NotOfItsDialect> {
        self.watch.push(chunk.clone(), &mut |_| {});
        let decoded = self.decoder.feed(&chunk, &mut self.events);
        self.encode(out);
        decoded.map_err(|_| NotOfItsDialect)
    }

    fn encode(&mut self, out: &mut VecDeque<Bytes>) {
        let mut bytes = Vec::new();
        for event in self.events.drain(..) {
            match &event {
                Event::End => self.finished = true,
                Event::Error(_) => self.failed = true,
                Event::Text { text, .. } | Event::Thinking { text, .. } => self.output_bytes += text.len() as u64,
                Event::ToolArguments { json, .. } => self.output_bytes += json.len() as u64,
                Event::Start { .. }
                | Event::ThinkingSignature { .. }
                | Event::RedactedThinking { .. }
                | Event::ToolCall { .. }
                | Event::Usage(_)
                | Event::Stop { .. } => {}
            }
            self.encoder.encode(&event, &mut bytes);
        }
        if !bytes.is_empty() {
            out.push_back(bytes.into());
        }
    }

    fn finish(&mut self, out: &mut VecDeque<Bytes>) -> bool {
        self.decoder.finish(&mut self.events);
        self.encode(out);
        self.finished
    }
}

/// What remains to be done when a call ends.
pub struct Closing {
    pub booking: Box<Booking>,
    pub permits: RequestPermits,
    pub record: Record,
    pub entry: Entry,
}

impl Closing {
    fn settle(self, ending: &Ending, status: u16) {
        self.settle_at(ending, status, None);
    }

    /// `cancelled`: the output that had arrived when we cancelled the stream, where that is counted.
    fn settle_at(mut self, ending: &Ending, status: u16, cancelled: Option<u64>) {
        self.booking.cited = ending.cited;
        let believed = ending.usage.as_ref().filter(|usage| self.booking.believes(usage, || ending.says_something));
        let booked: Booked = match believed {
            Some(usage) if ending.complete || !self.booking.hard => self.booking.settle(usage.clone(), status),
            _ => match cancelled {
                Some(arrived) => self.booking.charge_cancelled(arrived, status),
                None => self.booking.settle_unknown(ending.output_bytes, status),
            },
        };
        self.permits.settle(booked.spent);
        let now = Instant::now();
        self.record.provider += now.duration_since(self.booking.started);
        let core = self.booking.core.clone();
        self.record.count(&core.bank, now, status, Some(&booked));
        drop(self.entry);
    }
}

/// Times that bound a stream.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest silence of the provider.
    pub idle: Duration,
    /// The whole call.
    pub deadline: Instant,
    /// Silence after which a comment tells the client that we live.
    pub keepalive: Duration,
}

/// A stream on its way to a client.
pub struct Relay {
    upstream: Option<Body>,
    /// `None` once it ended.
    flow: Option<Flow>,
    dialect: Dialect,
    ready: VecDeque<Bytes>,
    closing: Option<Closing>,
    pace: Pace,
    timer: Pin<Box<Sleep>>,
    /// Last sign of the provider, and last of us to the client.
    heard: Instant,
    spoke: Instant,
    ended: bool,
    /// What is held grows with what arrives.
    is_sliced: bool,
    /// When the first of it was here.
    began: Instant,
    /// More is to be held than there is room for.
    waits: Option<Waits>,
    /// What is held covers no more what arrived, since then: it ends where what is here already does not end it.
    ends: Option<(Short, Instant)>,
}

/// Waits for money that others hold.
struct Waits {
    /// Until something comes free, or a moment passed.
    released: Pin<Box<dyn Future<Output = ()>>>,
    /// Then whoever hands out the limit is asked for more. It is elsewhere, and forgets who waits.
    asks: bool,
}

/// So long what a provider sends without a pause is taken to have been sent before.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Status that a row shows for a stream that was cut by its client, as nginx and LiteLLM write it.
const CLIENT_CLOSED: u16 = 499;

impl Relay {
    /// A relay that begins with what was already read.
    pub fn new(
        upstream: Body,
        flow: Flow,
        dialect: Dialect,
        ready: VecDeque<Bytes>,
        closing: Closing,
        pace: Pace,
    ) -> Relay {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(next_alarm(&pace, now, now).into()));
        let is_sliced = closing.booking.slice.is_some();
        let mut relay = Relay {
            upstream: Some(upstream),
            flow: Some(flow),
            dialect,
            ready,
            closing: Some(closing),
            pace,
            timer,
            heard: now,
            spoke: now,
            ended: false,
            is_sliced,
            began: now,
            waits: None,
            ends: None,
        };
        if is_sliced {
            relay.cover();
        }
        relay
    }

    /// The next bytes for the client.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                if bytes.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(bytes)));
            }
            let Some(upstream) = self.upstream.as_mut().filter(|_| !self.ended) else { return Poll::Ready(None) };
            match upstream.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.heard = Instant::now();
                    self.spoke = self.heard;
                    let pushed = self.flow.as_mut().map_or(Ok(()), |flow| flow.push(chunk, &mut self.ready));
                    if pushed.is_err() {
                        self.give_up("sent an answer that is not of its dialect");
                    } else if self.is_sliced {
                        self.cover();
                    }
                }
                Poll::Ready(None) => self.end(),
                Poll::Ready(Some(Err(_))) => self.break_off("broke off its answer"),
                Poll::Pending => {
                    if let Some((short, _)) = self.ends.take()
                        && !self.flow.as_ref().is_some_and(Flow::is_complete)
                    {
                        self.end_for_budget(&short);
                        continue;
                    }
                    if let Some(Waits { released, asks }) = &mut self.waits
                        && released.as_mut().poll(cx).is_ready()
                    {
                        let asks = *asks;
                        self.waits = None;
                        self.cover_again(asks);
                        continue;
                    }
                    match self.poll_timer(cx) {
                        Poll::Ready(()) => continue,
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    /// Ready when something became ready because of time.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let now = Instant::now();
        if now >= self.pace.deadline {
            self.give_up("did not finish its answer in time");
            return Poll::Ready(());
        }
        if now >= self.heard + self.pace.idle {
            self.give_up("fell silent in the middle of its answer");
            return Poll::Ready(());
        }
        if now >= self.spoke + self.pace.keepalive {
            self.spoke = now;
            self.ready.push_back(keepalive(self.dialect));
        }
        let alarm = next_alarm(&self.pace, self.heard, self.spoke);
        self.timer.as_mut().reset(alarm.into());
        Poll::Ready(())
    }

    /// The provider closed its answer in good order.
    fn end(&mut self) {
        self.ended = true;
        self.upstream = None;
        self.tell_speed();
        let Some(flow) = self.flow.take() else { return };
        let from_openai = matches!(flow, Flow::Pass(_)) && self.dialect == Dialect::OpenAi;
        let ending = flow.end(&mut self.ready);
        if !ending.complete && !ending.failed {
            // Without its closing event the answer may be cut: OpenAI's clients wait for `[DONE]` (API-3).
            if from_openai {
                self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
            } else {
                self.push_error("ended its answer without its closing event");
            }
        }
        if let Some(closing) = self.closing.take() {
            closing.settle(&Ending { complete: ending.complete || ending.usage.is_some(), ..ending }, 200);
        }
    }

    /// We end it in the middle, and do not know what the provider makes of it.
    fn give_up(&mut self, reason: &'static str) {
        if let Some(closing) = &mut self.closing {
            // Where it cannot be held, what is held is charged.
            let _ = closing.booking.cover_all();
        }
        self.break_off(reason);
    }

    /// The provider failed in the middle: the client gets an error event, the status was sent long ago.
    fn break_off(&mut self, reason: &'static str) {
        self.ended = true;
        self.upstream = None;
        let Some(flow) = self.flow.take() else { return };
        let ending = flow.end(&mut self.ready);
        if !ending.failed {
            self.push_error(reason);
        }
        if let Some(closing) = self.closing.take() {
            let complete = ending.complete;
            closing.settle(&Ending { complete, ..ending }, 200);
        }
    }

    /// Holds for what arrived before any of it goes on.
    fn cover(&mut self) {
        let (Some(flow), Some(closing)) = (&self.flow, &self.closing) else { return };
        let arrived = flow.output_at_most();
        let covers = closing.booking.slice.as_ref().is_none_or(|slice| slice.covers(arrived));
        if !covers && !flow.is_complete() {
            self.hold_for(arrived, false);
        }
    }

    /// Tries again to hold what there was no room for.
    #[cold]
    fn cover_again(&mut self, asks: bool) {
        let Some(flow) = &self.flow else { return };
        if !flow.is_complete() {
            self.hold_for(flow.output_at_most(), asks);
        }
    }

    fn hold_for(&mut self, arrived: u64, asks: bool) {
        let Some(closing) = &mut self.closing else { return };
        match closing.booking.cover(arrived, self.began.elapsed(), asks) {
            Ok(None) => (self.waits, self.ends) = (None, None),
            // It is read on meanwhile, as long as what is held covers that.
            Ok(Some(short)) => {
                self.ends = None;
                if let (None, Some(budget)) = (&self.waits, short.budget) {
                    let asks = budget.is_shared();
                    self.waits =
                        Some(Waits { released: Box::pin(async move { budget.wait_for_release().await }), asks });
                }
            }
            // What is in the socket was made before anybody could stop it. If all of the answer is, it is paid by its usage.
            Err(short) => {
                let (_, since) = *self.ends.get_or_insert_with(|| (short, Instant::now()));
                if since.elapsed() > LAST_LOOK
                    && let Some((short, _)) = self.ends.take()
                {
                    self.end_for_budget(&short);
                }
            }
        }
    }

    fn tell_speed(&self) {
        if let (true, Some(flow), Some(closing)) = (self.is_sliced, &self.flow, &self.closing) {
            closing.booking.tell_speed(flow.output_at_most(), self.began.elapsed());
        }
    }

    /// The client does not take what is there, so nothing more is read: the provider may run ahead unseen.
    pub fn held_back(&mut self) {
        if !self.is_sliced || self.ended {
            return;
        }
        let Some(closing) = &mut self.closing else { return };
        match closing.booking.cover_all() {
            Ok(()) => (self.waits, self.ends) = (None, None),
            Err(short) => self.end_for_budget(&short),
        }
    }

    /// Some budget has nothing left for more of the answer.
    #[cold]
    fn end_for_budget(&mut self, short: &Short) {
        self.ended = true;
        // Closes the connection within this poll: the provider stops, and bills no more.
        self.upstream = None;
        let (Some(flow), Some(closing)) = (self.flow.take(), self.closing.take()) else { return };
        let arrived = flow.output_at_most();
        // An event that is not whole is left out: the error must be one of its own.
        let ending = flow.end(&mut VecDeque::new());
        let core = closing.booking.core.clone();
        core.bank.own.budget_ended.add(1);
        let Booking { slice, held, .. } = &*closing.booking;
        let needs = slice.as_ref().map_or(*held, |slice| slice.needs(arrived));
        let namespace = slice.as_ref().and_then(|slice| slice.namespace.as_deref());
        let error = slice::ended(short, needs, namespace, core.unix_ms(Instant::now()));
        self.ready.push_back(stream_error(&error, self.dialect, &closing.record.call_id));
        closing.settle_at(&ending, 200, Some(arrived));
    }

    fn push_error(&mut self, reason: &'static str) {
        let Some(closing) = &self.closing else { return };
        let error = GatewayError::UpstreamBroken {
            deployment: closing.booking.deployment.to_string(),
            attempts: closing.record.attempts,
            reason,
        };
        tracing::warn!(deployment = %closing.booking.deployment, "deployment `{}` {reason}", closing.booking.deployment);
        self.ready.push_back(stream_error(&error, self.dialect, &closing.record.call_id));
    }
}

impl Drop for Relay {
    /// The client is gone before the end.
    fn drop(&mut self) {
        let (Some(mut closing), Some(flow)) = (self.closing.take(), self.flow.take()) else { return };
        closing.permits.leave();
        let core = closing.booking.core.clone();
        core.bank.own.client_gone.add(1);
        let read_on = closing.booking.hard && !closing.booking.cancel_stops_billing && !flow.is_complete();
        let settings = &core.shared.settings;
        match self.upstream.take() {
            Some(upstream) if read_on && core.abandoned.get() < settings.max_abandoned => {
                core.abandoned.set(core.abandoned.get() + 1);
                let limit = settings.abandoned_timeout;
                tokio::task::spawn_local(read_to_usage(core.clone(), upstream, flow, closing, limit));
            }
            // Dropping the upstream body closes its connection within this poll.
            _ => {
                let cancelled = self.is_sliced.then(|| flow.output_at_most());
                let ending = flow.end(&mut VecDeque::new());
                let status = if ending.complete { 200 } else { CLIENT_CLOSED };
                closing.settle_at(&ending, status, cancelled);
            }
        }
    }
}

/// Reads an abandoned stream to the usage that the provider reports, because a Hard budget must know. Bounded in number
/// by the caller, in time here.
async fn read_to_usage(core: Rc<Core>, mut upstream: Body, mut flow: Flow, closing: Closing, limit: Duration) {
    let mut discarded = VecDeque::new();
    let read = async {
        while let Some(Ok(chunk)) = upstream.data().await {
            let pushed = flow.push(chunk, &mut discarded);
            discarded.clear();
            if pushed.is_err() {
                break;
            }
        }
    };
    // Cut off by the clock, it ends with what was seen of it so far.
    let _ = tokio::time::timeout(limit, read).await;
    drop(upstream);
    let ending = flow.end(&mut discarded);
    core.bank.own.drained.add(1);
    core.abandoned.set(core.abandoned.get() - 1);
    let complete = ending.complete && ending.usage.is_some();
    closing.settle(&Ending { complete, ..ending }, CLIENT_CLOSED);
}

/// When something must happen although nothing came.
fn next_alarm(pace: &Pace, heard: Instant, spoke: Instant) -> Instant {
    pace.deadline.min(heard + pace.idle).min(spoke + pace.keepalive)
}

/// A sign of life that clients skip.
fn keepalive(dialect: Dialect) -> Bytes {
    match dialect {
        Dialect::OpenAi => Bytes::from_static(b": ping\n\n"),
        Dialect::Anthropic => Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
    }
}

/// An error in the middle of a stream, in the client's dialect (API-3).
fn stream_error(error: &GatewayError, dialect: Dialect, call_id: &http::HeaderValue) -> Bytes {
    let body = reply::error_body(error, dialect, call_id);
    let mut text = Vec::with_capacity(body.len() + 48);
    match dialect {
        Dialect::OpenAi => {
            text.extend_from_slice(b"data: ");
            text.extend_from_slice(&body);
            text.extend_from_slice(b"\n\ndata: [DONE]\n\n");
        }
        Dialect::Anthropic => {
            text.extend_from_slice(b"event: error\ndata: ");
            text.extend_from_slice(&body);
            text.extend_from_slice(b"\n\n");
        }
    }
    text.into()
}
