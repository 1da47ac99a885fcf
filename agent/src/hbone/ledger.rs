//! What streams hold, counted by stream, by pod and by node, and bounded.
//!
//! Windows say what peers may send, and a peer may use all that it was ever promised. So what is *held* is bounded here,
//! whatever the number of streams and the size of their windows: when a pod holds more than its budget, those of its streams
//! are reset whose bytes nobody has taken for the longest time. When all pods together hold more than the node's budget, the
//! pods that hold most do so. A stream whose reader reads has had bytes taken just now, and comes last.
//!
//! What the kernel holds for the sockets of a stream's app, or of a plain connection, counts as well: whoever relays it says how
//! much it is.

use crate::fair::most_of_each;
use crate::memory;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// The most that all streams of a pod may hold. Three times the largest window, so that one stream on a long fat path has all that
/// it needs.
const POD_BUDGET: usize = 192 << 20;

/// The same of all pods of the node: three eighths of the memory that the chart gives the agent. What connections cost beside
/// that is bounded by their descriptors (`worker/budget.rs`).
const NODE_BUDGET: usize = 384 << 20;

/// A stream that holds less is reset only where larger ones are not enough: there is little to be had from it.
const SMALL: usize = 16 * 1024;

/// What a stream may have waiting for the wire while memory is short: one frame, so that it goes on.
const SMALLEST_SEND_BUFFER: usize = 16 * 1024;

/// A stream whose reader has taken something in this time is reset only where the others are not enough.
const FRESH: Duration = Duration::from_secs(1);

/// A pod that was asked to give up memory has this long before one is asked again.
const PATIENCE: Duration = Duration::from_millis(10);

static NODE: LazyLock<Arc<Node>> = LazyLock::new(|| Arc::new(Node::of(memory::allowance())));

thread_local! {
    /// A worker has a thread for its pod alone.
    static POD: RefCell<Rc<Pod>> = RefCell::new(Pod::of(NODE.clone()));
}

/// What all pods of the node hold together.
pub(super) struct Node {
    budget: usize,
    pod_budget: usize,
    held: AtomicUsize,
    pods: Mutex<Pods>,
}

#[derive(Default)]
struct Pods {
    shares: Vec<std::sync::Weak<Share>>,
    /// When a pod was last asked to give up memory.
    asked: Option<Instant>,
}

/// What other threads see of a pod.
#[derive(Default)]
struct Share {
    held: AtomicUsize,
    /// What the node lets the pod keep, when it asks.
    may_keep: AtomicUsize,
    is_asked: Notify,
}

struct Pod {
    node: Arc<Node>,
    share: Arc<Share>,
    accounts: RefCell<HashMap<u64, Weak<Account>>>,
    last: Cell<u64>,
    /// Counts what happens to the pod's streams, so that of two things it is known which was first.
    events: Cell<u64>,
}

/// What one stream or plain connection holds, in both directions.
pub struct Account {
    pod: Rc<Pod>,
    /// Whose it is: the namespace of the peer, which is the tenant's who decides how many there are.
    tenant: Rc<str>,
    id: u64,
    /// Received, and not passed on by the reader.
    incoming: Side,
    /// To be sent, and not on the wire.
    outgoing: Side,
    is_evicted: Cell<bool>,
    was_evicted: Notify,
    was_sent: Notify,
}

/// Where the bytes of one direction go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    Peer,
    App,
}

#[derive(Default)]
struct Side {
    /// In this process.
    held: Cell<usize>,
    /// In the kernel's socket buffers.
    in_kernel: Cell<usize>,
    /// Since when none of it was taken: the event's number.
    since: Cell<u64>,
    /// When something was last taken.
    taken: Cell<Option<Instant>>,
}

/// Bytes that a pod's streams may still hold before windows have to become small.
pub(super) fn room_left() -> usize {
    POD.with_borrow(|pod| pod.room_left())
}

/// Bytes that the streams of this thread's pod hold.
pub fn held_by_pod() -> usize {
    POD.with_borrow(|pod| pod.held())
}

/// Bytes that the streams of a pod may hold: 192 MiB, but no more than three sixteenths of the memory that the process may have.
pub fn pod_budget() -> usize {
    POD.with_borrow(|pod| pod.node.pod_budget)
}

/// Whether new streams are better refused: more is held than may be, by streams that are all being read.
pub fn is_full() -> bool {
    POD.with_borrow(|pod| pod.is_full())
}

/// Gives up memory whenever the node asks this thread's pod for it. Every worker runs it, for as long as it lives.
pub async fn keep_to_budget() {
    let pod = POD.with_borrow(Rc::clone);
    loop {
        pod.share.is_asked.notified().await;
        pod.evict(pod.share.may_keep.load(Ordering::Relaxed));
    }
}

impl Node {
    /// Of a process that may use `memory` bytes.
    fn of(memory: usize) -> Self {
        let budget = NODE_BUDGET.min(memory / 8 * 3);
        Self {
            budget,
            pod_budget: POD_BUDGET.min(budget / 2),
            held: AtomicUsize::new(0),
            pods: Mutex::default(),
        }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// More is held than may be: asks the pods that hold most, so that none holds more than the others after it. `pod` is on this
    /// thread.
    fn relieve(&self, pod: &Pod) {
        let shares: Vec<(Arc<Share>, usize)> = {
            let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if pods.asked.is_some_and(|asked| now.saturating_duration_since(asked) < PATIENCE) {
                return;
            }
            pods.asked = Some(now);
            let alive = pods.shares.iter().filter_map(std::sync::Weak::upgrade);
            alive.map(|share| (share.clone(), share.held.load(Ordering::Relaxed))).collect()
        };
        let most = most_of_each(shares.iter().map(|(_, held)| *held).collect(), lowered(self.budget));
        for (share, _) in shares.iter().filter(|(_, held)| *held > most) {
            if Arc::ptr_eq(share, &pod.share) {
                pod.evict(most);
            } else {
                share.may_keep.store(most, Ordering::Relaxed);
                share.is_asked.notify_one();
            }
        }
    }
}

/// What is left after streams had to go: they go many at a time, and rarely.
fn lowered(budget: usize) -> usize {
    budget / 8 * 7
}

impl Pod {
    fn of(node: Arc<Node>) -> Rc<Self> {
        let share = Arc::<Share>::default();
        let mut pods = node.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.shares.retain(|share| share.strong_count() > 0);
        pods.shares.push(Arc::downgrade(&share));
        drop(pods);
        Rc::new(Self { node, share, accounts: RefCell::default(), last: Cell::new(0), events: Cell::new(0) })
    }

    fn held(&self) -> usize {
        self.share.held.load(Ordering::Relaxed)
    }

    fn room_left(&self) -> usize {
        let of_node = self.node.budget.saturating_sub(self.node.held());
        self.node.pod_budget.saturating_sub(self.held()).min(of_node)
    }

    fn is_full(&self) -> bool {
        self.held() > self.node.pod_budget || self.node.held() > self.node.budget
    }

    fn is_tight(&self) -> bool {
        self.held() > self.node.pod_budget / 2 || self.node.held() > self.node.budget / 4 * 3
    }

    fn grow(&self, bytes: usize) {
        let held = self.share.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let of_node = self.node.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > self.node.pod_budget {
            self.evict(lowered(self.node.pod_budget));
        } else if of_node > self.node.budget {
            self.node.relieve(self);
        }
    }

    fn shrink(&self, bytes: usize) {
        self.share.held.fetch_sub(bytes, Ordering::Relaxed);
        self.node.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn next_event(&self) -> u64 {
        self.events.set(self.events.get() + 1);
        self.events.get()
    }

    /// Has streams reset until no more than `rest` bytes are held: of the tenants that hold most, so that none holds more than the
    /// others after it; of each those whose bytes nobody took for the longest time.
    fn evict(&self, rest: usize) {
        let now = Instant::now();
        let accounts = self.accounts.borrow();
        let mut by_tenant: HashMap<Rc<str>, (usize, Vec<Rc<Account>>)> = HashMap::new();
        for account in accounts.values().filter_map(Weak::upgrade).filter(|account| account.held() > 0) {
            let (held, of_tenant) = by_tenant.entry(account.tenant.clone()).or_default();
            *held += account.held();
            of_tenant.push(account);
        }
        drop(accounts);
        let most = most_of_each(by_tenant.values().map(|(held, _)| *held).collect(), rest);
        for (mut held, mut of_tenant) in by_tenant.into_values().filter(|(held, _)| *held > most) {
            of_tenant.sort_by_cached_key(|account| {
                (account.held() < SMALL, account.is_fresh(now), account.since())
            });
            for account in of_tenant {
                if held <= most {
                    break;
                }
                held -= account.held();
                account.evict();
            }
        }
    }
}

impl Account {
    /// A stream's or a connection's account with this thread's pod. `tenant` is the peer's namespace.
    pub fn open(tenant: &Rc<str>) -> Rc<Self> {
        let pod = POD.with_borrow(Rc::clone);
        let id = pod.last.get() + 1;
        pod.last.set(id);
        let account = Rc::new(Self {
            pod: pod.clone(),
            tenant: tenant.clone(),
            id,
            incoming: Side::default(),
            outgoing: Side::default(),
            is_evicted: Cell::new(false),
            was_evicted: Notify::new(),
            was_sent: Notify::new(),
        });
        pod.accounts.borrow_mut().insert(id, Rc::downgrade(&account));
        account
    }

    /// This much was received and is held from now on.
    pub fn set_incoming(&self, held: usize) {
        self.set(&self.incoming, |side| &side.held, held);
    }

    /// The reader has taken something.
    pub fn was_read(&self) {
        self.incoming.was_taken(&self.pod);
    }

    /// The kernel's socket buffers hold this much of a direction from now on.
    pub fn set_in_kernel(&self, towards: Towards, held: usize) {
        self.set(self.side(towards), |side| &side.in_kernel, held);
    }

    /// Whoever is at the end of this direction has taken something.
    pub fn was_taken(&self, towards: Towards) {
        self.side(towards).was_taken(&self.pod);
    }

    /// So many bytes more wait for the wire.
    pub fn add_outgoing(&self, bytes: usize) {
        self.set(&self.outgoing, |side| &side.held, self.outgoing.held.get() + bytes);
    }

    /// So many bytes are on the wire, or dropped.
    pub fn was_sent(&self, bytes: usize) {
        self.set(&self.outgoing, |side| &side.held, self.outgoing.held.get() - bytes);
        self.outgoing.was_taken(&self.pod);
        self.was_sent.notify_waiters();
    }

    /// How much more may wait for the wire than does already; `usize::MAX` while memory is not short.
    pub fn send_room(&self) -> usize {
        match self.is_tight() {
            true => SMALLEST_SEND_BUFFER.saturating_sub(self.outgoing.held.get()),
            false => usize::MAX,
        }
    }

    /// Memory is short: what waits for the wire is kept small.
    pub fn is_tight(&self) -> bool {
        self.pod.is_tight()
    }

    /// Resolves when something of what waits for the wire has got there.
    pub async fn sent(&self) {
        self.was_sent.notified().await;
    }

    /// Resolves when the stream has to be reset, so that others have memory.
    pub async fn evicted(&self) {
        while !self.is_evicted.get() {
            self.was_evicted.notified().await;
        }
    }

    fn side(&self, towards: Towards) -> &Side {
        match towards {
            Towards::Peer => &self.outgoing,
            Towards::App => &self.incoming,
        }
    }

    fn set(&self, side: &Side, part: impl Fn(&Side) -> &Cell<usize>, bytes: usize) {
        let before = side.total();
        part(side).set(bytes);
        let held = side.total();
        if before == 0 && held > 0 {
            side.since.set(self.pod.next_event());
        }
        // What an evicted stream has held is counted no more.
        if self.is_evicted.get() {
        } else if held > before {
            self.pod.grow(held - before);
        } else {
            self.pod.shrink(before - held);
        }
    }

    /// What counts against the pod.
    fn held(&self) -> usize {
        if self.is_evicted.get() { 0 } else { self.incoming.total() + self.outgoing.total() }
    }

    /// The directions that hold something.
    fn sides(&self) -> impl Iterator<Item = &Side> {
        [&self.incoming, &self.outgoing].into_iter().filter(|side| side.total() > 0)
    }

    /// Since when nothing was taken, of the direction that has waited longer.
    fn since(&self) -> Option<u64> {
        self.sides().map(|side| side.since.get()).min()
    }

    /// Something was taken just now, of every direction.
    fn is_fresh(&self, now: Instant) -> bool {
        self.sides()
            .all(|side| side.taken.get().is_some_and(|taken| now.saturating_duration_since(taken) < FRESH))
    }

    fn evict(&self) {
        self.pod.shrink(self.held());
        self.is_evicted.set(true);
        self.was_evicted.notify_waiters();
    }
}

impl Side {
    fn total(&self) -> usize {
        self.held.get() + self.in_kernel.get()
    }

    fn was_taken(&self, pod: &Pod) {
        self.since.set(pod.next_event());
        self.taken.set(Some(Instant::now()));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.pod.shrink(self.held());
        self.pod.accounts.borrow_mut().remove(&self.id);
    }
}

/// Makes this thread's pod one of a node of its own, whose process may use `memory` bytes.
#[cfg(test)]
pub(super) fn with_memory(memory: usize) -> Arc<Node> {
    let node = Arc::new(Node::of(memory));
    join(&node);
    node
}

/// Makes this thread's pod one of `node`'s.
#[cfg(test)]
pub(super) fn join(node: &Arc<Node>) {
    POD.with_borrow_mut(|pod| *pod = Pod::of(node.clone()));
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
