//! The mock's end of one connection. It sits under the HTTP server so that a script can shape what leaves: write a few
//! bytes at a time, know when everything was flushed, reset, or write bytes that are no HTTP. I/O.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// The socket, shared by the HTTP server and the request being served on it.
pub(crate) struct Link {
    socket: TcpStream,
    /// Completed flushes of the HTTP server's buffer.
    flushes: AtomicU64,
    flush_waiter: Mutex<Option<Waker>>,
    /// Largest write; 0: any. Bytes.
    write_bytes: AtomicUsize,
    write_delay_ms: AtomicU64,
}

impl Link {
    pub fn new(socket: TcpStream) -> Link {
        Link {
            socket,
            flushes: AtomicU64::new(0),
            flush_waiter: Mutex::new(None),
            write_bytes: AtomicUsize::new(0),
            write_delay_ms: AtomicU64::new(0),
        }
    }

    /// From now on at most `bytes` a write (0: any), and a wait after each.
    pub fn set_pace(&self, bytes: usize, delay_ms: u64) {
        self.write_bytes.store(bytes, Ordering::Relaxed);
        self.write_delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// Resolves when all that the HTTP server buffered so far is in the socket. To be awaited inside the connection's
    /// own task, whose next step after a pending body is to flush.
    pub async fn flushed(&self) {
        let before = self.flushes.load(Ordering::Acquire);
        poll_fn(|context| {
            *self.waiter() = Some(context.waker().clone());
            if self.flushes.load(Ordering::Acquire) > before { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Closing the socket will send RST instead of FIN, and drop what is unsent.
    pub fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "the connection cannot be reset: {error}");
        }
    }

    /// Writes around the HTTP server.
    pub async fn write_raw(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.socket.writable().await?;
            match self.socket.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn waiter(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.flush_waiter.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The link as the HTTP server's I/O.
pub(crate) struct Wire {
    link: Arc<Link>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub fn new(link: Arc<Link>) -> Wire {
        Wire { link, pause: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.link.socket.poll_read_ready(context))?;
            match self.link.socket.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let most = match self.link.write_bytes.load(Ordering::Relaxed) {
            0 => bytes.len(),
            most => most.min(bytes.len()),
        };
        loop {
            ready!(self.link.socket.poll_write_ready(context))?;
            match self.link.socket.try_write(&bytes[..most]) {
                Ok(written) => {
                    let delay_ms = self.link.write_delay_ms.load(Ordering::Relaxed);
                    if delay_ms > 0 {
                        self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(delay_ms))));
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.flushes.fetch_add(1, Ordering::Release);
        if let Some(waiter) = self.link.waiter().take() {
            waiter.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&self.link.socket).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}
