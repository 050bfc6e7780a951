//! The body that leaves: slices of what the client sent and what we put between them, never copied together.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A body of known length in a few pieces.
#[derive(Clone, Debug)]
pub struct UpstreamBody {
    pieces: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl UpstreamBody {
    pub fn new(pieces: &[Bytes]) -> UpstreamBody {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        UpstreamBody { pieces: Vec::from(pieces).into_iter(), left }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.find(|piece| !piece.is_empty());
        Poll::Ready(piece.map(|piece| {
            self.left -= piece.len() as u64;
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
