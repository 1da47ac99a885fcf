//! One flush for what all streams of a connection write in one turn of the loop.
//!
//! The engine flushes after every frame that it does not copy, which makes a TLS record and a system call of each.
//! Here its flushes are put off until it has nothing more to do; whoever polls the engine flushes then.
//!
//! A connection also has a read budget: how many bytes the engine may read before its owner has taken what was
//! read. Without one the engine reads as long as the peer sends, and piles up what its owner has not seen yet.

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
    budget: ReadBudget,
}

/// How much the engine may still read. See [`Batched::renew_read_budget`].
struct ReadBudget {
    bytes_left: usize,
    /// The engine wanted to read and was not allowed to: nobody else will wake its task.
    is_read_put_off: bool,
}

/// Bytes that the engine may read between two renewals: the largest read of a TLS stream, twice.
pub(super) const READ_BUDGET: usize = 256 * 1024;

impl<T: AsyncRead + AsyncWrite + Unpin> Batched<T> {
    /// A connection on which the engine may read [`READ_BUDGET`] bytes, until its owner renews the budget.
    pub fn new(io: T) -> Self {
        let budget = ReadBudget { bytes_left: READ_BUDGET, is_read_put_off: false };
        Self(Rc::new(RefCell::new(Inner { io, failed: None, budget })))
    }

    /// The owner has taken all that was read: the engine may read on. Wakes the task if a read was put off.
    pub fn renew_read_budget(&self, cx: &mut Context<'_>) {
        let budget = &mut self.0.borrow_mut().budget;
        budget.bytes_left = READ_BUDGET;
        if std::mem::take(&mut budget.is_read_put_off) {
            cx.waker().wake_by_ref();
        }
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
        {
            let budget = &mut self.0.borrow_mut().budget;
            if budget.bytes_left == 0 {
                budget.is_read_put_off = true;
                return Poll::Pending;
            }
        }
        let before = buf.filled().len();
        let polled = self.with(|io| io.poll_read(cx, buf));
        let budget = &mut self.0.borrow_mut().budget;
        budget.bytes_left = budget.bytes_left.saturating_sub(buf.filled().len() - before);
        polled
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
