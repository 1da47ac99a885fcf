//! One flush for what all streams of a connection write in one turn of the loop.
//!
//! The engine flushes after every frame that it does not copy, which makes a TLS record and a system call of each.
//! Here its flushes are put off until it has nothing more to do; whoever polls the engine flushes then.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that the engine and the one who polls it share.
pub(super) struct Batched<T>(Rc<RefCell<Inner<T>>>);

struct Inner<T> {
    io: T,
    /// Why the last flush failed, for the engine's next step.
    failed: Option<io::Error>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Batched<T> {
    pub fn new(io: T) -> Self {
        Self(Rc::new(RefCell::new(Inner { io, failed: None })))
    }

    /// Polls the engine, and flushes what it wrote.
    pub fn poll<R>(
        &self,
        cx: &mut Context<'_>,
        mut engine: impl FnMut(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        loop {
            let polled = engine(cx);
            let inner = &mut *self.0.borrow_mut();
            match Pin::new(&mut inner.io).poll_flush(cx) {
                // The engine ends by it.
                Poll::Ready(Err(e)) if polled.is_pending() && inner.failed.is_none() => {
                    inner.failed = Some(e)
                }
                _ => return polled,
            }
        }
    }

    fn with<R>(&self, step: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let inner = &mut *self.0.borrow_mut();
        match inner.failed.take() {
            Some(e) => Poll::Ready(Err(e)),
            None => step(Pin::new(&mut inner.io)),
        }
    }
}

impl<T> Clone for Batched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_read(cx, buf))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, buf))
    }

    /// Later: see [`poll`](Self::poll).
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}
