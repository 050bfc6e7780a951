//! One client's connection: a request, its answer, and again, until one side has enough. One task; it drives the call,
//! watches whether the client is still there, and writes the answer as it comes.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use super::body::RequestBody;
use super::head::{self, Head};
use super::out::Length;
use super::stream::ClientStream;
use super::wire::Wire;
use crate::alarm::Alarm;
use crate::core::Core;
use crate::framing::Piece;
use crate::head_guard::{HeadGuard, Heads};
use crate::pipeline;
use crate::relay::{Cut, Relay};
use crate::reply::{Reply, ReplyBody};
use crate::serve::Phase;
use crate::turn;

/// What is read of a body that nobody wants, so that the connection can go on.
const MAX_UNWANTED_BYTES: usize = 64 << 10;

/// How long a connection is kept while the gateway stops, when its last answer did not say that it closes: whoever read
/// the end of that answer may be sending the next request already, and would lose it.
const PARTING: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub async fn serve(core: Rc<Core>, stream: ClientStream, phase: watch::Receiver<Phase>) {
    let heads = Rc::new(Heads::default());
    let wire = Rc::new(RefCell::new(Wire::new(HeadGuard::new(stream, heads.clone()))));
    let draining = {
        let mut phase = phase.clone();
        // Whoever could say so is gone: the same as being told to stop.
        async move { drop(phase.wait_for(|phase| *phase == Phase::Draining).await) }
    };
    let mut waiting = Waiting {
        draining: Some(Box::pin(draining)),
        alarm: Alarm::default(),
        patience: core.shared.settings.header_timeout,
        has_served: false,
    };
    let mut since = Instant::now();
    loop {
        let head = match waiting.head(&wire, since).await {
            Next::Head(head) => head,
            Next::Refused(status) => {
                wire.borrow_mut().out.head(status, &HeaderMap::new(), Length::Known(0), true);
                break;
            }
            Next::Closed => return,
        };
        let Head { parts, framing, keep_alive, expects_continue } = head;
        let without_body = parts.method == Method::HEAD;
        let streamed = if parts.version == http::Version::HTTP_11 { Length::Chunks } else { Length::ToTheEnd };
        {
            let mut wire = wire.borrow_mut();
            wire.body = framing.into();
            wire.expects_continue = expects_continue;
        }
        let call = pipeline::serve(core.clone(), parts, RequestBody::new(wire.clone()), heads.next());
        // Boxed: an idle connection should not hold the room of a call.
        let Some(reply) = while_there(Box::pin(call), &wire).await else { return };
        let Reply { response, head: written, at } = reply;
        let (parts, body) = response.into_parts();
        let last = !keep_alive
            || *phase.borrow() == Phase::Draining
            // The client's next request finds another gateway, instead of a connection that is being closed.
            || core.shared.draining.load(Relaxed)
            || parts.headers.contains_key(CONNECTION)
            || !std::future::poll_fn(|cx| Poll::Ready(skip_body(&mut wire.borrow_mut(), cx))).await;
        let head = |length| {
            let out = &mut wire.borrow_mut().out;
            match written {
                Some(head) => out.begin(head, length, last),
                None => out.head(parts.status, &parts.headers, length, last),
            }
        };
        // What follows begins when the answer was ready, unless somebody had to be waited for.
        let mut begins = Some(Instant::from_std(at));
        let written = match body {
            ReplyBody::Full(pieces) => {
                head(Length::Known(pieces.len() as u64));
                turn::end().await;
                let mut pieces = pieces.into_iter().filter(|_| !without_body);
                let sent = |cx: &mut Context<'_>| {
                    let sent = poll_pieces(&mut wire.borrow_mut(), &mut pieces, cx);
                    begins = begins.filter(|_| sent.is_ready());
                    sent
                };
                std::future::poll_fn(sent).await
            }
            ReplyBody::Stream(mut relay) => {
                head(streamed);
                begins = None;
                let mut ended = false;
                std::future::poll_fn(|cx| poll_stream(&wire, &mut relay, &mut ended, streamed, cx)).await
            }
        };
        if !written {
            return;
        }
        if last {
            break;
        }
        wire.borrow_mut().rest();
        waiting.has_served = true;
        since = begins.unwrap_or_else(Instant::now);
    }
    let ended = std::future::poll_fn(|cx| {
        let mut wire = wire.borrow_mut();
        ready!(wire.poll_send(cx))?;
        wire.poll_shutdown(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "client connection ended");
    }
}

/// What comes next on a connection.
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, once a call: a box would cost more")]
enum Next {
    Head(Head),
    Refused(StatusCode),
    Closed,
}

/// What ends a wait for a request.
struct Waiting<D> {
    /// `None` once the gateway stops.
    draining: Option<Pin<Box<D>>>,
    alarm: Alarm,
    /// Until a head must be complete.
    patience: Duration,
    has_served: bool,
}

impl<D: Future<Output = ()>> Waiting<D> {
    /// `begun`: when the wait began.
    async fn head(&mut self, wire: &RefCell<Wire>, begun: Instant) -> Next {
        let mut seen = 0;
        std::future::poll_fn(|cx| {
            let wire = &mut *wire.borrow_mut();
            loop {
                if !wire.input.is_empty() && head::may_be_complete(&wire.input, seen) {
                    match head::take(&mut wire.input) {
                        Ok(Some(head)) => return Poll::Ready(Next::Head(head)),
                        Ok(None) => seen = wire.input.len(),
                        Err(status) => return Poll::Ready(Next::Refused(status)),
                    }
                }
                match wire.poll_fill(cx, None) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Closed),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return self.poll_end(wire.input.is_empty(), begun, cx),
                }
            }
        })
        .await
    }

    /// Ready when it was waited for long enough since `begun`.
    fn poll_end(&mut self, is_idle: bool, begun: Instant, cx: &mut Context<'_>) -> Poll<Next> {
        // Who has connected and not asked yet was promised an answer.
        let patience = if is_idle && self.has_served && self.poll_draining(cx) { PARTING } else { self.patience };
        self.alarm.poll(begun + patience, cx).map(|()| Next::Closed)
    }

    fn poll_draining(&mut self, cx: &mut Context<'_>) -> bool {
        if self.draining.as_mut().is_some_and(|draining| draining.as_mut().poll(cx).is_ready()) {
            self.draining = None;
        }
        self.draining.is_none()
    }
}

/// Runs a call to its answer; `None` when the client hung up before.
async fn while_there(call: impl Future<Output = Reply>, wire: &RefCell<Wire>) -> Option<Reply> {
    let mut call = pin!(call);
    std::future::poll_fn(|cx| {
        // First: who left while the call waited begins nothing any more.
        if wire.borrow_mut().poll_gone(cx).is_ready() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(reply) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(reply));
        }
        // Again: the call may have read its body to the end just now.
        wire.borrow_mut().poll_gone(cx).map(|()| None)
    })
    .await
}

/// Reads over what is there of a body that nobody wanted. False: the next request cannot be found.
fn skip_body(wire: &mut Wire, cx: &mut Context<'_>) -> bool {
    let mut skipped = 0;
    loop {
        match wire.body.next(&mut wire.input) {
            Ok(Piece::End) => return true,
            Ok(Piece::Data(data)) => skipped += data.len(),
            Ok(Piece::More) if skipped < MAX_UNWANTED_BYTES && !wire.expects_continue => {
                match wire.poll_fill(cx, wire.body.left()) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) | Poll::Pending => return false,
                }
            }
            Ok(Piece::More) | Err(_) => return false,
        }
    }
}

/// Writes a body that is there. Ready when it was sent; false: the client is gone.
fn poll_pieces(wire: &mut Wire, pieces: &mut impl Iterator<Item = Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    loop {
        let mut all = false;
        while !wire.out.is_full() && !all {
            match pieces.next() {
                Some(piece) => wire.out.push(piece),
                None => all = true,
            }
        }
        match ready!(wire.poll_send(cx)) {
            Err(_) => return Poll::Ready(false),
            Ok(()) if all => return Poll::Ready(true),
            Ok(()) => {}
        }
    }
}

/// Writes a stream as it comes: what is ready is written together, and nothing is read ahead of a client that is slow.
/// Ready when it ended; false: it was cut, or the client is gone. `ended`: nothing more comes and the end is written.
fn poll_stream(
    wire: &RefCell<Wire>,
    relay: &mut Relay,
    ended: &mut bool,
    length: Length,
    cx: &mut Context<'_>,
) -> Poll<bool> {
    let wire = &mut *wire.borrow_mut();
    loop {
        while !*ended && !wire.out.is_full() {
            match relay.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) if length == Length::Chunks => wire.out.push_chunk(data),
                Poll::Ready(Some(Ok(data))) => wire.out.push(data),
                Poll::Ready(Some(Err(Cut))) => return Poll::Ready(false),
                Poll::Ready(None) => {
                    *ended = true;
                    if length == Length::Chunks {
                        wire.out.push_end();
                    }
                }
                Poll::Pending => break,
            }
        }
        let waits = wire.out.is_empty();
        match wire.poll_send(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Ready(Ok(())) if *ended => return Poll::Ready(true),
            Poll::Ready(Ok(())) if !waits => {}
            sent => {
                // Without budget nothing was tried, and we are called again at once.
                if sent.is_pending() && has_budget_remaining() {
                    relay.held_back();
                }
                return wire.poll_gone(cx).map(|()| false);
            }
        }
    }
}
