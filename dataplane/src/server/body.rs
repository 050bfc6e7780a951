//! The body of a request, read from its connection when the pipeline asks for it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::wire::Wire;
use crate::framing::{Decoder, Piece};

/// A body that is still to be read.
#[derive(Debug)]
pub struct RequestBody {
    wire: Rc<RefCell<Wire>>,
}

/// Why a body could not be read. The connection is of no use then.
#[derive(Clone, Copy, Debug)]
pub enum BodyUnread {
    /// Nothing came for too long.
    TooSlow,
    /// The client broke it off, or it is not what its framing says.
    Broken,
}

impl RequestBody {
    pub fn new(wire: Rc<RefCell<Wire>>) -> RequestBody {
        RequestBody { wire }
    }

    /// Its length, unless it comes in chunks.
    pub fn expected(&self) -> Option<u64> {
        match self.wire.borrow().body {
            Decoder::Length(length) => Some(length),
            Decoder::Done => Some(0),
            _ => None,
        }
    }

    /// The next bytes; `None` at the end. A body of known length comes in one piece, where it was received. `idle`: the
    /// longest time without a byte.
    ///
    /// # Errors
    /// See [`BodyUnread`].
    pub async fn data(&mut self, idle: Duration) -> Result<Option<Bytes>, BodyUnread> {
        // Nearly always ready: no timer is armed then.
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        let mut had = 0;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(data) = self.poll_data(cx) {
                return Poll::Ready(data.map_err(|()| BodyUnread::Broken));
            }
            let have = self.wire.borrow().input.len();
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
            if std::mem::replace(&mut had, have) != have {
                timer.as_mut().reset(Instant::now() + idle);
            }
            timer.as_mut().poll(cx).map(|()| Err(BodyUnread::TooSlow))
        })
        .await
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ()>> {
        let wire = &mut *self.wire.borrow_mut();
        loop {
            let waits = matches!(wire.body, Decoder::Length(left) if (wire.input.len() as u64) < left);
            if !waits {
                match wire.body.next(&mut wire.input).map_err(drop)? {
                    Piece::Data(data) => return Poll::Ready(Ok(Some(data))),
                    Piece::End => return Poll::Ready(Ok(None)),
                    Piece::More => {}
                }
            }
            ready!(wire.poll_continue(cx)).map_err(drop)?;
            if ready!(wire.poll_fill(cx, wire.body.left())).map_err(drop)? == 0 {
                return Poll::Ready(Err(()));
            }
        }
    }
}
