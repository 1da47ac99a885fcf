//! One flush for what all streams of a connection write in one turn of the loop.
//!
//! The engine flushes after every frame that it does not copy, which makes a TLS record and a system call of each.
//! Here its flushes are put off until it has nothing more to do; whoever polls the engine flushes then.
//!
//! A connection also has a read budget: how many bytes and how many frames the engine may read before its owner has taken
//! what was read. Without one the engine reads as long as the peer sends, and piles up what its owner has not seen yet; a request
//! of 11 bytes is 2.5 KiB to it. And whoever else has something to do on this thread has its turn in between.

use super::frames::Frames;
use super::ledger::Account;
use bytes::{Buf, BytesMut};
use futures::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that the engine and the one who polls it share.
pub(super) struct Batched<T>(Rc<RefCell<Inner<T>>>);

struct Inner<T> {
    io: T,
    /// Why the last flush failed, for the engine's next step.
    failed: Option<io::Error>,
    budget: ReadBudget,
    frames: Frames,
    /// What was read beyond the frames that the engine may read.
    spare: BytesMut,
    /// The peer takes nothing off the wire: the streams on which something was read meanwhile.
    blocked: Option<HashSet<u32>>,
    /// What the connection holds besides its streams.
    account: Rc<Account>,
    tenant: Tenant,
}

/// Whose connection it is; those of one tenant know how many they are.
struct Tenant {
    name: Rc<str>,
    connections: Rc<()>,
}

thread_local! {
    /// By tenant: each of its connections holds one reference.
    static TENANTS: RefCell<HashMap<Rc<str>, Weak<()>>> = RefCell::default();
}

impl Tenant {
    fn of(name: &str) -> Self {
        TENANTS.with_borrow_mut(|tenants| {
            if let Some((name, connections)) = tenants.get_key_value(name)
                && let Some(connections) = connections.upgrade()
            {
                return Self { name: name.clone(), connections };
            }
            tenants.retain(|_, connections| connections.strong_count() > 0);
            let tenant = Self { name: name.into(), connections: Rc::new(()) };
            tenants.insert(tenant.name.clone(), Rc::downgrade(&tenant.connections));
            tenant
        })
    }

    /// One connection's part of what all of the tenant's have, and one at the least.
    fn part_of(&self, all: usize) -> usize {
        (all / Rc::strong_count(&self.connections)).max(1)
    }
}

/// How much the engine may still read. See [`Batched::renew_read_budget`].
struct ReadBudget {
    bytes_left: usize,
    frames_left: usize,
    /// The engine wanted to read and was not allowed to: nobody else will wake its task.
    is_read_put_off: bool,
    /// It was not, because the peer takes nothing off the wire. What it takes wakes the task.
    is_held_back: bool,
}

/// Bytes that the engine may read between two renewals: the largest read of a TLS stream, twice.
const READ_BUDGET: usize = 256 * 1024;

/// What may wait in a TLS stream whose peer takes nothing off the wire (`tls/outgoing.rs`), and in the engine.
const WHILE_BLOCKED: usize = 128 * 1024;

/// A frame of which less has arrived is not counted: most frames that are cut by a read end with the next one.
const WORTH_COUNTING: usize = 1024;

/// Frames that the engine may read between two renewals, on all connections of a tenant. What it makes of so many small ones is
/// less than what it makes of the bytes, and handling them takes a few milliseconds.
pub(super) const FRAMES_A_TURN: usize = 256;

/// Streams on which the engine may read something while the peer takes nothing off the wire: what it has to say to each waits
/// here, and it answers a frame on a stream that is no more with a reset. More than two peers can have under way to each other, who
/// hear nothing of streams' ends meanwhile (`STREAMS_ACCEPTED`): so they never wait for each other.
const STREAMS_WHILE_BLOCKED: usize = 4096;

impl ReadBudget {
    fn of(tenant: &Tenant) -> Self {
        let frames_left = tenant.part_of(FRAMES_A_TURN);
        Self { bytes_left: READ_BUDGET, frames_left, is_read_put_off: false, is_held_back: false }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Batched<T> {
    /// A connection on which the engine may read [`READ_BUDGET`] bytes and [`FRAMES_A_TURN`] frames, until its owner renews the
    /// budget. The peer's frames follow `preface` bytes.
    pub fn new(io: T, preface: usize, tenant: &str) -> Self {
        let tenant = Tenant::of(tenant);
        let (budget, frames, spare) = (ReadBudget::of(&tenant), Frames::after(preface), BytesMut::new());
        let account = Account::open(&tenant.name);
        let (failed, blocked) = (None, None);
        Self(Rc::new(RefCell::new(Inner { io, failed, budget, frames, spare, blocked, account, tenant })))
    }

    /// Resolves when the connection has to end, because what it holds itself is more than memory has room for: a frame that does
    /// not come to its end, or what its peer does not take.
    pub fn evicted(&self) -> LocalBoxFuture<'static, ()> {
        let account = self.0.borrow().account.clone();
        Box::pin(async move { account.evicted().await })
    }

    pub fn tenant(&self) -> Rc<str> {
        self.0.borrow().tenant.name.clone()
    }

    /// This connection's part of what all connections of its tenant have in a turn, and one at the least.
    pub fn part_of(&self, all: usize) -> usize {
        self.0.borrow().tenant.part_of(all)
    }

    /// The owner has taken all that was read: the engine may read on. Wakes the task if a read was put off. Says whether
    /// anything was read since the last time.
    pub fn renew_read_budget(&self, cx: &mut Context<'_>) -> bool {
        let Inner { budget, tenant, .. } = &mut *self.0.borrow_mut();
        let is_held_back = budget.is_held_back;
        let before = std::mem::replace(budget, ReadBudget { is_held_back, ..ReadBudget::of(tenant) });
        if before.is_read_put_off {
            cx.waker().wake_by_ref();
        }
        before.bytes_left < READ_BUDGET
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
        let inner = &mut *self.0.borrow_mut();
        let Inner { budget, frames, spare, .. } = inner;
        if budget.bytes_left == 0 || budget.frames_left == 0 {
            budget.is_read_put_off = true;
            return Poll::Pending;
        }
        if inner.blocked.as_ref().is_some_and(|streams| streams.len() >= STREAMS_WHILE_BLOCKED) {
            budget.is_held_back = true;
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let is_spare = !spare.is_empty();
        if is_spare {
            buf.put_slice(&spare[..spare.len().min(buf.remaining())]);
        } else if let Some(e) = inner.failed.take() {
            return Poll::Ready(Err(e));
        } else {
            std::task::ready!(Pin::new(&mut inner.io).poll_read(cx, buf))?;
        }
        let read = &buf.filled()[before..];
        let note = |stream| {
            if let Some(streams) = &mut inner.blocked {
                streams.insert(stream);
            }
        };
        let (bytes, begun) = frames.pass(read, budget.frames_left, note);
        if is_spare {
            spare.advance(bytes);
            if spare.is_empty() {
                *spare = BytesMut::new();
            }
        } else {
            spare.extend_from_slice(&read[bytes..]);
        }
        buf.set_filled(before + bytes);
        if begun > 0 {
            inner.account.was_read();
        }
        let cut = frames.arrived();
        inner.account.set_incoming(if cut < WORTH_COUNTING { 0 } else { cut });
        budget.bytes_left = budget.bytes_left.saturating_sub(bytes);
        budget.frames_left -= begun;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|io| io.poll_write(cx, buf));
        let Inner { blocked, budget, account, .. } = &mut *self.0.borrow_mut();
        if written.is_pending() {
            blocked.get_or_insert_with(|| {
                account.add_outgoing(WHILE_BLOCKED);
                HashSet::new()
            });
        } else {
            if blocked.take().is_some() {
                account.was_sent(WHILE_BLOCKED);
            }
            if std::mem::take(&mut budget.is_held_back) {
                cx.waker().wake_by_ref();
            }
        }
        written
    }

    /// Later: see [`poll`](Self::poll).
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}
