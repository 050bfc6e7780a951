//! Plays out an answer: a list of acts, from writes to resets, as an HTTP body. It keeps count of what it sent for the
//! invoice, and settles the call with its last act, before the HTTP server has written it. I/O only through the link.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::invoice::{End, OpenCall};
use crate::link::Link;

/// One act of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Write(Write),
    /// Waits until everything before is in the socket.
    Flush,
    Sleep(Duration),
    Gate(String),
    /// Waits until the client leaves.
    Hang,
    /// Ends the connection with FIN.
    Close,
    /// Ends the connection with RST.
    Reset,
}

/// Bytes to send, and how much of the answer's output they bring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub bytes: Bytes,
    /// Output produced once these bytes are sent, reasoning included, since the start. `None`: no change.
    pub output: Option<u64>,
    pub reasoning: Option<u64>,
    /// These bytes tell the usage.
    pub usage: bool,
}

/// Why a connection ends without a proper answer.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the script breaks this connection")
    }
}

impl std::error::Error for Broken {}

type Waiting = Pin<Box<dyn Future<Output = Then> + Send>>;

/// What follows a wait.
enum Then {
    GoOn,
    Break,
}

/// The body of an answer.
pub(crate) struct ScriptedBody {
    acts: VecDeque<Act>,
    waiting: Option<Waiting>,
    link: Arc<Link>,
    /// `None`: not part of the invoice (the control surface).
    call: Option<OpenCall>,
    /// What the last act means.
    end: End,
}

impl ScriptedBody {
    pub fn new(
        acts: impl IntoIterator<Item = Act>,
        link: Arc<Link>,
        mut call: Option<OpenCall>,
        end: End,
    ) -> ScriptedBody {
        let acts: VecDeque<Act> = acts.into_iter().collect();
        if acts.is_empty()
            && let Some(call) = &mut call
        {
            call.settle(end);
        }
        ScriptedBody { acts, waiting: None, link, call, end }
    }

    fn wait(&self, act: Act) -> Waiting {
        let link = self.link.clone();
        let state = self.call.as_ref().map(|call| call.state.clone());
        Box::pin(async move {
            match (act, state) {
                (Act::Sleep(delay), _) => tokio::time::sleep(delay).await,
                (Act::Gate(name), Some(state)) => {
                    if !state.pass_gate(&name).await {
                        return Then::Break;
                    }
                }
                (Act::Hang, Some(state)) => {
                    state.stopped().await;
                    return Then::Break;
                }
                (Act::Close, _) => {
                    link.flushed().await;
                    return Then::Break;
                }
                (Act::Reset, _) => {
                    link.flushed().await;
                    link.reset_on_close();
                    return Then::Break;
                }
                (Act::Flush | Act::Write(_) | Act::Gate(_) | Act::Hang, _) => link.flushed().await,
            }
            Then::GoOn
        })
    }

    fn settle(&mut self, end: End) {
        if let Some(call) = &mut self.call {
            call.settle(end);
        }
    }
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let then = ready!(waiting.as_mut().poll(context));
                self.waiting = None;
                match then {
                    Then::GoOn => {}
                    Then::Break => {
                        self.settle(End::Cut);
                        self.acts.clear();
                        return Poll::Ready(Some(Err(Broken)));
                    }
                }
            }
            match self.acts.pop_front() {
                Some(Act::Write(Write { bytes, output, reasoning, usage })) => {
                    let end = self.end;
                    let last = self.acts.is_empty();
                    if let Some(call) = &mut self.call {
                        call.produced_output = output.unwrap_or(call.produced_output);
                        call.produced_reasoning = reasoning.unwrap_or(call.produced_reasoning);
                        call.row.usage_sent |= usage;
                        call.row.bytes_sent += bytes.len() as u64;
                        if last {
                            call.settle(end);
                        }
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(act) => self.waiting = Some(self.wait(act)),
                None => {
                    let end = self.end;
                    self.settle(end);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.acts.is_empty() && self.waiting.is_none()
    }
}
