//! What the kernel holds for the sockets of relayed connections: measured, and counted against the pod's budget.
//!
//! The memory of a socket is charged to the cgroup of whoever made it, which is the agent's. A relay whose reader reads
//! nothing holds what has arrived for it in the receive buffer of one socket, and what was written for it in the send buffer
//! of the other. The kernel does not notify anybody of either, so a task of the worker asks for every relay's, in slices.
//!
//! A direction is counted only where it holds more than has passed since it was looked at before. So a fast connection on a
//! long path, whose buffers are in use, costs its pod nothing, and one that stands still or trickles does.

use super::traffic::Traffic;
use crate::hbone::{Account, Towards};
use crate::kernel::{SocketMemory, socket_memory};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Between two rounds. A thread moves some hundred MiB at the most in this time.
const INTERVAL: Duration = Duration::from_millis(250);

/// Relays that are looked at before the worker's other tasks have their turn: two system calls each, some 0.1 ms together.
const SLICE: usize = 128;

thread_local! {
    /// The tenant of plain connections.
    static OUTSIDE: Rc<str> = "".into();
    static RELAYS: Relays = Relays::default();
}

/// The open relays of this thread's worker.
#[derive(Default)]
struct Relays {
    by_id: RefCell<BTreeMap<u64, Rc<Watched>>>,
    last: Cell<u64>,
    is_not_empty: Rc<Notify>,
}

struct Watched {
    app: RawFd,
    /// The other socket, where there is one of the relay's own: HBONE streams share theirs.
    far: Option<RawFd>,
    account: Rc<Account>,
    /// Bytes from the app that have passed since the last look.
    from_app: Cell<usize>,
    /// Bytes to the app that have passed since the last look.
    to_app: Cell<usize>,
}

/// A relay whose sockets are looked at until this is dropped. They must stay open for as long.
pub(super) struct Buffers {
    id: u64,
    watched: Rc<Watched>,
}

impl Buffers {
    /// Of a connection between an app and an HBONE stream.
    pub fn of_stream(app: &TcpStream, account: Rc<Account>) -> Self {
        Self::watch(app, None, account)
    }

    /// Of a connection between an app and a plain one.
    pub fn of_plain(app: &TcpStream, far: &TcpStream) -> Self {
        Self::watch(app, Some(far), Account::open(&OUTSIDE.with(Rc::clone)))
    }

    fn watch(app: &TcpStream, far: Option<&TcpStream>, account: Rc<Account>) -> Self {
        let watched = Rc::new(Watched {
            app: app.as_raw_fd(),
            far: far.map(AsRawFd::as_raw_fd),
            account,
            from_app: Cell::default(),
            to_app: Cell::default(),
        });
        RELAYS.with(|relays| {
            let id = relays.last.get() + 1;
            relays.last.set(id);
            relays.by_id.borrow_mut().insert(id, watched.clone());
            relays.is_not_empty.notify_one();
            Self { id, watched }
        })
    }

    /// Resolves when the pod holds too much, and this connection has to be reset for it.
    pub async fn evicted(&self) {
        self.watched.account.evicted().await;
    }

    /// `traffic`, and what passes is known here.
    pub fn counting<'a, T>(&'a self, traffic: &'a T) -> Counting<'a, T> {
        Counting { watched: &self.watched, traffic }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        RELAYS.with(|relays| relays.by_id.borrow_mut().remove(&self.id));
        self.watched.account.set_in_kernel(Towards::Peer, 0);
        self.watched.account.set_in_kernel(Towards::App, 0);
    }
}

pub(super) struct Counting<'a, T> {
    watched: &'a Watched,
    traffic: &'a T,
}

impl<T: Traffic> Traffic for Counting<'_, T> {
    fn sent_by_app(&self, bytes: usize) {
        self.watched.from_app.set(self.watched.from_app.get() + bytes);
        self.traffic.sent_by_app(bytes);
    }

    fn sent_to_app(&self, bytes: usize) {
        self.watched.to_app.set(self.watched.to_app.get() + bytes);
        self.traffic.sent_to_app(bytes);
    }
}

/// Looks at all relays again and again, for as long as the worker lives. While there are none it sleeps.
pub(super) async fn watch() {
    loop {
        look_at_all().await;
        match RELAYS.with(|relays| relays.by_id.borrow().is_empty()) {
            true => wait_for_one().await,
            false => sleep(INTERVAL).await,
        }
    }
}

async fn look_at_all() {
    let mut after = 0;
    loop {
        let slice: Vec<_> = RELAYS.with(|relays| {
            let by_id = relays.by_id.borrow();
            let rest = by_id.range((Bound::Excluded(after), Bound::Unbounded));
            rest.take(SLICE).map(|(id, watched)| (*id, watched.clone())).collect()
        });
        let Some((last, _)) = slice.last() else { return };
        after = *last;
        for (_, watched) in &slice {
            watched.look();
        }
        drop(slice);
        yield_now().await;
    }
}

async fn wait_for_one() {
    let is_not_empty = RELAYS.with(|relays| relays.is_not_empty.clone());
    is_not_empty.notified().await;
}

impl Watched {
    fn look(&self) {
        let of = |fd: Option<RawFd>| fd.and_then(|fd| socket_memory(fd).ok()).unwrap_or_default();
        let (app, far) = (of(Some(self.app)), of(self.far));
        self.count(Towards::Peer, &self.from_app, &app, &far);
        self.count(Towards::App, &self.to_app, &far, &app);
    }

    /// Of one direction, which comes in by `from` and leaves by `to`.
    fn count(&self, towards: Towards, passed: &Cell<usize>, from: &SocketMemory, to: &SocketMemory) {
        let held = from.received + to.to_send;
        let passed = passed.take();
        if passed > 0 {
            self.account.was_taken(towards);
        }
        self.account.set_in_kernel(towards, if held > passed { held } else { 0 });
    }
}
