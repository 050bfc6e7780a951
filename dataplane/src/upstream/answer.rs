//! A provider's answer while its body comes. Read to its end, it gives its connection back to the pool; dropped before,
//! it closes it.

use std::io::Error;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::connect::Stream;
use super::connection::{Broken, Connection, closed};
use super::pool::Home;
use crate::framing::{Decoder, Piece};

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    /// `None` once it ended.
    connection: Option<Box<Connection<Stream>>>,
    decoder: Decoder,
    /// Where the connection goes when the body has ended in good order; `None`: it cannot serve again.
    home: Option<Home>,
}

/// Why a body could not be read whole.
#[derive(Debug)]
pub enum Unread {
    TooLarge,
    Broken(Broken),
}

impl Body {
    pub fn new(connection: Box<Connection<Stream>>, decoder: Decoder, home: Option<Home>) -> Body {
        Body { connection: Some(connection), decoder, home }
    }

    /// The next bytes; `None` at the end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let failed = loop {
            match self.decoder.next(&mut connection.input) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Piece::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(Piece::More) => {}
                Err(malformed) => break malformed.into(),
            }
            match ready!(poll_more(connection, &mut self.home, self.decoder.left(), cx)) {
                Ok(0) if self.decoder == Decoder::Close => self.decoder = Decoder::Done,
                Ok(0) => break Broken::Io(closed()),
                Ok(_) => {}
                Err(error) => break Broken::Io(error),
            }
        };
        self.connection = None;
        Poll::Ready(Some(Err(failed)))
    }

    /// The same, to be awaited. Cancelling loses nothing.
    pub async fn data(&mut self) -> Option<Result<Bytes, Broken>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// All of the body, in one piece.
    ///
    /// # Errors
    /// More than `limit` bytes, or a connection that broke. Cancelling closes the connection.
    pub async fn whole(mut self, limit: usize) -> Result<Bytes, Unread> {
        if self.decoder.left().is_some_and(|left| left > limit as u64) {
            return Err(Unread::TooLarge);
        }
        if let (Decoder::Length(length), Some(connection)) = (self.decoder, &mut self.connection) {
            // The bytes stay where they were received.
            while (connection.input.len() as u64) < length {
                let home = &mut self.home;
                match std::future::poll_fn(|cx| poll_more(connection, home, Some(length), cx)).await {
                    Ok(0) => return Err(Unread::Broken(Broken::Io(closed()))),
                    Ok(_) => {}
                    Err(error) => return Err(Unread::Broken(Broken::Io(error))),
                }
            }
        }
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(data) = self.data().await {
            let data = data.map_err(Unread::Broken)?;
            if first.len() + all.len() + data.len() > limit {
                return Err(Unread::TooLarge);
            }
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    fn end(&mut self) {
        let (Some(mut connection), Some(home)) = (self.connection.take(), self.home.take()) else { return };
        if connection.is_at_rest() {
            connection.rest();
            home.put(connection);
        }
    }
}

/// Receives more, and sends what an early answer left unsent.
fn poll_more(
    connection: &mut Connection<Stream>,
    home: &mut Option<Home>,
    left: Option<u64>,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Error>> {
    if connection.has_unsent() && matches!(connection.poll_send(cx), Poll::Ready(Err(_))) {
        // The answer may be whole all the same; the connection is not.
        connection.forget_unsent();
        *home = None;
    }
    connection.poll_fill(cx, left)
}
