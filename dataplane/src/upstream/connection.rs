//! One HTTP/1.1 connection to a provider, driven by the call that uses it: no task of its own, so nothing is woken
//! between the two legs of a call.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::head::{Parsed, measure};
use crate::alarm::Alarm;
use crate::framing::Malformed;

/// Up to this many bytes a request is copied together: one short write is cheaper than a list of slices.
const COPIED_BYTES: usize = 16 << 10;

/// Room that is made for each read, at first; it grows while reads fill it.
const FIRST_ROOM: usize = 4 << 10;
const MOST_ROOM: usize = 64 << 10;

/// Slices of one write.
const SLICES: usize = 8;

/// A request in the bytes that are sent, as often as connections turn out to be dead.
#[derive(Clone, Debug)]
pub struct Message {
    parts: SmallVec<[Bytes; SLICES]>,
}

impl Message {
    /// `head`: with its empty line, and a `content-length` that is the sum of `body`.
    pub fn new(mut head: Vec<u8>, body: &[Bytes]) -> Message {
        let length: usize = body.iter().map(Bytes::len).sum();
        let mut parts = SmallVec::new();
        if head.len() + length <= COPIED_BYTES {
            head.reserve_exact(length);
            body.iter().for_each(|piece| head.extend_from_slice(piece));
            parts.push(head.into());
        } else {
            parts.push(head.into());
            parts.extend(body.iter().filter(|piece| !piece.is_empty()).cloned());
        }
        Message { parts }
    }
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Nothing of the request left: another connection may carry it.
    #[error("the connection was closed while it was idle")]
    NotSent,
    #[error("the connection broke")]
    Io(#[source] Error),
    #[error("no answer came in time")]
    TimedOut,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A connection, and what was received on it and not yet taken.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    pub input: BytesMut,
    unsent: Unsent,
    alarm: Alarm,
    room: usize,
}

/// What is left of a request.
#[derive(Debug, Default)]
struct Unsent {
    /// The first that is not sent is the last: parts are kept in the opposite order.
    parts: SmallVec<[Bytes; SLICES]>,
    /// Something of it was sent.
    begun: bool,
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S) -> Self {
        Connection {
            stream,
            input: BytesMut::new(),
            unsent: Unsent::default(),
            alarm: Alarm::default(),
            room: FIRST_ROOM,
        }
    }

    /// Whether an idle connection still is one: the provider neither closed it nor said something unasked.
    pub fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// After a complete answer: whether nothing is left over that belongs to nobody.
    pub fn is_at_rest(&self) -> bool {
        self.input.is_empty() && !self.has_unsent()
    }

    /// Frees what only a call needs.
    pub fn rest(&mut self) {
        self.input = BytesMut::new();
        self.room = FIRST_ROOM;
    }

    /// Sends a request and waits for the head of its answer, at most `until` then. What an early answer leaves unsent is
    /// sent while its body is read.
    ///
    /// # Errors
    /// See [`Broken`]; the connection is of no use then. Cancelling leaves it so, too.
    pub async fn exchange(&mut self, message: &Message, until: Instant) -> Result<Parsed, Broken> {
        self.unsent.parts.extend(message.parts.iter().rev().cloned());
        self.unsent.begun = false;
        std::future::poll_fn(|cx| {
            let failed = match self.poll_send(cx) {
                Poll::Ready(Err(_)) if !self.unsent.begun => return Poll::Ready(Err(Broken::NotSent)),
                Poll::Ready(Err(error)) => Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => None,
            };
            match self.poll_head(cx) {
                // Who refuses a request early may close before it was all read; its answer counts.
                Poll::Pending if failed.is_some() => Poll::Ready(Err(Broken::Io(failed.unwrap_or_else(closed)))),
                Poll::Pending => self.alarm.poll(until, cx).map(|()| Err(Broken::TimedOut)),
                answered => answered,
            }
        })
        .await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Parsed, Broken>> {
        loop {
            if !self.input.is_empty()
                && let Some(measured) = measure(&self.input)?
            {
                let bytes = self.input.split_to(measured.length).freeze();
                match measured.status.as_u16() {
                    101 => return Poll::Ready(Err(Malformed("the provider changed protocols unasked").into())),
                    // An interim answer; the real one follows.
                    100..=199 => continue,
                    _ => return Poll::Ready(Ok(measured.take(bytes)?)),
                }
            }
            match ready!(self.poll_fill(cx, None)) {
                Ok(0) => return Poll::Ready(Err(Broken::Io(closed()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Broken::Io(error))),
            }
        }
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.parts.is_empty() || self.unsent.unflushed
    }

    /// Gives up what is left to send.
    pub fn forget_unsent(&mut self) {
        self.unsent = Unsent::default();
    }

    /// Ready when all was sent.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Unsent { parts, begun, unflushed } = &mut self.unsent;
        while let Some(first) = parts.last() {
            let stream = Pin::new(&mut self.stream);
            let sent = if parts.len() == 1 {
                ready!(stream.poll_write(cx, first))?
            } else {
                let slices: SmallVec<[IoSlice<'_>; SLICES]> =
                    parts.iter().rev().take(SLICES).map(|part| IoSlice::new(part)).collect();
                ready!(stream.poll_write_vectored(cx, &slices))?
            };
            if sent == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            (*begun, *unflushed) = (true, true);
            advance(parts, sent);
        }
        if *unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            *unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Receives more; `Ok(0)` at the end of the connection. `left`: bytes that are still to come, where that is known.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, left: Option<u64>) -> Poll<Result<usize, Error>> {
        let more = left.map(|left| usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(self.input.len()));
        // Not a byte more than a body needs: at its end that would move all of it to a larger place.
        self.input.reserve(more.map_or(self.room, |more| more.clamp(1, MOST_ROOM)));
        let spare = self.input.capacity() - self.input.len();
        let received = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))?;
        if received == spare && more.is_none() {
            self.room = (self.room * 2).min(MOST_ROOM);
        }
        Poll::Ready(Ok(received))
    }
}

/// Takes `sent` bytes off the end of the list.
fn advance(parts: &mut SmallVec<[Bytes; SLICES]>, mut sent: usize) {
    while let Some(part) = parts.last_mut() {
        if part.len() > sent {
            part.advance(sent);
            return;
        }
        sent -= part.len();
        parts.pop();
    }
}

/// The provider closed the connection.
pub fn closed() -> Error {
    ErrorKind::UnexpectedEof.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::Framing;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    fn message() -> Message {
        Message::new(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n".to_vec(), &[Bytes::from("bo"), Bytes::from("dy")])
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(10)
    }

    fn pair(capacity: usize) -> (Connection<DuplexStream>, DuplexStream) {
        let (near, far) = tokio::io::duplex(capacity);
        (Connection::new(near), far)
    }

    const ANSWER: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\nok";

    #[tokio::test]
    async fn an_answer_is_read_whatever_the_pieces_it_arrives_in() {
        for size in 1..=ANSWER.len() {
            let (mut connection, mut far) = pair(4096);
            let serving = async {
                let mut request = vec![0; 42];
                far.read_exact(&mut request).await.unwrap();
                assert!(request.ends_with(b"\r\n\r\nbody"));
                for piece in ANSWER.as_bytes().chunks(size) {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let message = message();
            let (answer, ()) = tokio::join!(connection.exchange(&message, soon()), serving);
            let answer = answer.unwrap();
            assert_eq!((answer.head.status.as_u16(), answer.framing), (200, Framing::Length(2)), "{size}");
            assert_eq!(answer.head.fields.get("x"), Some(&b"y"[..]));
            while connection.input.len() < 2 {
                std::future::poll_fn(|cx| connection.poll_fill(cx, Some(2))).await.unwrap();
            }
            assert_eq!(connection.input, b"ok"[..]);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_or_garbage_is_an_error() {
        let ends = ANSWER.find("HTTP/1.1 200").unwrap();
        let head_end = ANSWER.len() - 2;
        for text in (0..head_end).map(|cut| &ANSWER[..cut]).chain(["garbage\r\n\r\n", "HTTP/1.1 101 Switching\r\n\r\n"])
        {
            let (mut connection, mut far) = pair(4096);
            far.write_all(text.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let failed = connection.exchange(&message(), soon()).await.unwrap_err();
            assert!(!matches!(failed, Broken::NotSent), "{text:?} {ends}");
        }
    }

    #[tokio::test]
    async fn an_answer_may_come_before_the_request_was_sent() {
        let (mut connection, mut far) = pair(1024);
        let large = Bytes::from(vec![b'x'; 64 << 10]);
        let message = Message::new(b"POST / HTTP/1.1\r\n\r\n".to_vec(), &[large.clone(), large]);
        far.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let answer = connection.exchange(&message, soon()).await.unwrap();
        assert_eq!(answer.head.status.as_u16(), 413);
        assert!(!connection.is_at_rest(), "the rest of the request is not sent");
        // Whoever goes on reading gets all of it.
        let mut received = vec![0; 19 + (128 << 10)];
        let sending = std::future::poll_fn(|cx| connection.poll_send(cx));
        let (sent, read) = tokio::join!(sending, far.read_exact(&mut received));
        sent.unwrap();
        read.unwrap();
        assert!(received[19..].iter().all(|byte| *byte == b'x'));
        assert!(connection.is_at_rest());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_sent_nothing() {
        let (mut connection, far) = pair(1024);
        assert!(connection.is_idle());
        drop(far);
        assert!(!connection.is_idle());
        assert!(matches!(connection.exchange(&message(), soon()).await, Err(Broken::NotSent)));
    }

    #[tokio::test]
    async fn an_answer_is_waited_for_as_long_as_was_said() {
        let (mut connection, _far) = pair(1024);
        let begun = Instant::now();
        let until = begun + std::time::Duration::from_millis(30);
        assert!(matches!(connection.exchange(&message(), until).await, Err(Broken::TimedOut)));
        assert!(begun.elapsed().as_millis() >= 30);
    }

    #[tokio::test]
    async fn a_connection_that_speaks_unasked_is_not_idle() {
        let (mut connection, mut far) = pair(1024);
        far.write_all(b"HTTP/1.1 408 Timeout\r\n").await.unwrap();
        assert!(!connection.is_idle());
    }

    #[test]
    fn what_was_sent_is_taken_off_across_parts() {
        let all: SmallVec<[Bytes; SLICES]> =
            [&b"abc"[..], b"de", b"f"].map(Bytes::from_static).into_iter().rev().collect();
        for sent in 0..=6 {
            let mut parts = all.clone();
            advance(&mut parts, sent);
            let left: Vec<u8> = parts.iter().rev().flat_map(|part| part.to_vec()).collect();
            assert_eq!(left, b"abcdef"[sent..], "{sent}");
        }
    }
}
