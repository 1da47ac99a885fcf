//! What a pod's connections may take of what all pods of the node share: file descriptors of the agent's process.
//!
//! There are three kinds, and each has a part that none of the others can use: connections whose peer has not proven who it is yet
//! (`handshakes.rs`), those of proven peers, and those that the pod's own apps open. Of each kind a pod may take as long as it has no
//! more than three times what it leaves free. One greedy pod gets three quarters of all, two get three sevenths each, and however
//! many there are, some is left for the next. Of its pod's share a peer's address gets three quarters by the same rule. A reserve is
//! never a pod's: the node core needs it for its endpoints, for the API server, for the runtime, and for new workers.

use crate::memory;
use crate::telemetry::WorkerMetrics;
use crate::tls::LARGEST_HANDSHAKE;
use nix::sys::resource::{Resource, getrlimit};
use prometheus::Gauge;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the node core keeps: a quarter of the process's descriptors, but at least and at most so many.
const SMALLEST_RESERVE: usize = 128;
const LARGEST_RESERVE: usize = 16_384;

/// A pod may have so many times what it leaves free.
const GREED: usize = 3;

/// What one handshake that is not finished may hold: its messages in a buffer that grows by doubling, the session and the task.
const HANDSHAKE_MEMORY: usize = 2 * LARGEST_HANDSHAKE;

/// All handshakes that are not finished may hold this part of the agent's memory: a sixteenth, which is 1,024 handshakes of 1 GiB. A worker
/// finishes one in about a millisecond, so that 1,000 honest peers that come at once are done in a second.
const HANDSHAKES_PART: usize = 16;

/// What all pods of the node share.
#[derive(Debug)]
pub struct Descriptors {
    handshakes: Arc<Pool>,
    inbound: Arc<Pool>,
    outbound: Arc<Pool>,
}

/// The descriptors of one kind, or of several.
#[derive(Debug)]
struct Pool {
    size: usize,
    taken: AtomicUsize,
    /// Another pool that these are of, too: other kinds may have taken them.
    of: Option<Arc<Pool>>,
}

/// A pod's way to descriptors of one kind; clones count together.
#[derive(Clone)]
pub(super) struct Budget(Rc<Share>);

struct Share {
    /// As metrics name it.
    name: &'static str,
    node: Arc<Pool>,
    taken: Cell<usize>,
    metrics: Arc<WorkerMetrics>,
    used: Gauge,
}

/// Descriptors that are a connection's, until this is dropped.
pub(super) struct Permit {
    share: Rc<Share>,
    count: usize,
}

/// A pod's way to descriptors for its peers.
pub(super) struct Inbound {
    budget: Budget,
    by_peer: RefCell<HashMap<IpAddr, usize>>,
}

/// A descriptor that is a peer's, until this is dropped.
pub(super) struct PeerPermit {
    inbound: Rc<Inbound>,
    peer: IpAddr,
    _permit: Permit,
}

/// The pod has its share already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the pod's connections have their share of the agent's file descriptors ({0})")]
pub(super) struct OverBudget(&'static str);

/// The pod's streams hold more than they may (`hbone/ledger.rs`).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the pod's streams hold all the memory that they may")]
pub(super) struct OverMemory;

impl OverMemory {
    pub const RESPONSE_FLAGS: &'static str = OverBudget::RESPONSE_FLAGS;
}

impl OverBudget {
    /// Envoy's flag of an upstream overflow.
    pub const RESPONSE_FLAGS: &'static str = "UO";
}

impl Descriptors {
    /// Of a process that may have so many open, and so many bytes of memory. Handshakes get an eighth of the descriptors, or fewer
    /// where memory is short; peers and the pods' own connections share the rest, of which each leaves a quarter to the other.
    pub fn new(limit: usize, memory: usize) -> Self {
        let reserve = (limit / 4).clamp(SMALLEST_RESERVE, LARGEST_RESERVE);
        let for_pods = limit.saturating_sub(reserve);
        let handshakes = (for_pods / 8).min(memory / HANDSHAKES_PART / HANDSHAKE_MEMORY);
        let rest = Pool::new(for_pods - handshakes, None);
        let side = || Pool::new(rest.size - rest.size / 4, Some(rest.clone()));
        Self { handshakes: Pool::new(handshakes, None), inbound: side(), outbound: side() }
    }

    /// A pod's share for peers that have not proven who they are.
    pub(super) fn handshakes(&self, metrics: &Arc<WorkerMetrics>) -> Budget {
        Budget::new("handshakes", &self.handshakes, metrics)
    }

    /// A pod's share for proven peers.
    pub(super) fn inbound(&self, metrics: &Arc<WorkerMetrics>) -> Rc<Inbound> {
        let budget = Budget::new("inbound_descriptors", &self.inbound, metrics);
        Rc::new(Inbound { budget, by_peer: RefCell::default() })
    }

    /// A pod's share for what its own apps open.
    pub(super) fn outbound(&self, metrics: &Arc<WorkerMetrics>) -> Budget {
        Budget::new("outbound_descriptors", &self.outbound, metrics)
    }

    /// Of this process, as its limits (RLIMIT_NOFILE, [`memory::allowance`]) are now. Without a limit of descriptors that can be read
    /// they have no budget.
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(limit, _)| usize::try_from(limit));
        Self::new(limit.ok().and_then(Result::ok).unwrap_or(usize::MAX), memory::allowance())
    }
}

impl Pool {
    fn new(size: usize, of: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { size, taken: AtomicUsize::new(0), of })
    }

    fn free(&self) -> usize {
        let own = self.size.saturating_sub(self.taken.load(Ordering::Relaxed));
        self.of.as_ref().map_or(own, |whole| own.min(whole.free()))
    }

    fn take(&self, count: usize) {
        self.taken.fetch_add(count, Ordering::Relaxed);
        self.of.iter().for_each(|whole| whole.take(count));
    }

    fn give_back(&self, count: usize) {
        self.taken.fetch_sub(count, Ordering::Relaxed);
        self.of.iter().for_each(|whole| whole.give_back(count));
    }
}

impl Budget {
    fn new(name: &'static str, node: &Arc<Pool>, metrics: &Arc<WorkerMetrics>) -> Self {
        let (metrics, used) = (metrics.clone(), metrics.budget_used(name));
        Self(Rc::new(Share { name, node: node.clone(), taken: Cell::new(0), metrics, used }))
    }

    /// Takes descriptors for a connection that is about to need them.
    ///
    /// # Errors
    /// When the pod has its share; that is counted.
    pub fn take(&self, count: usize) -> Result<Permit, OverBudget> {
        self.try_take(count).ok_or_else(|| self.refuse())
    }

    /// As [`Budget::take`], and counts no refusal.
    pub fn try_take(&self, count: usize) -> Option<Permit> {
        let share = &self.0;
        (share.taken.get() + count <= share.node.free().saturating_sub(count).saturating_mul(GREED))
            .then(|| self.take_anyway(count))
    }

    /// Takes them whether there is room or not: another connection is about to give its own back.
    pub fn take_anyway(&self, count: usize) -> Permit {
        let share = &self.0;
        share.taken.set(share.taken.get() + count);
        // Workers that take at the same moment may exceed what is free by a few; the reserve has room for that.
        share.node.take(count);
        share.show();
        Permit { share: share.clone(), count }
    }

    /// Whether the pod has more than half of what it may have.
    pub fn is_short(&self) -> bool {
        self.0.taken.get() > self.0.left()
    }

    /// Counts a connection that is refused, or one that ends for it.
    pub fn refuse(&self) -> OverBudget {
        self.0.refuse(self.0.name)
    }
}

impl Share {
    fn refuse(&self, name: &'static str) -> OverBudget {
        self.metrics.budget_refused(name);
        OverBudget(name)
    }

    /// How many the pod may still take, while no other does.
    fn left(&self) -> usize {
        self.node.free().saturating_mul(GREED).saturating_sub(self.taken.get()) / (GREED + 1)
    }

    fn show(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a part of one, for people")]
        let part = |of: usize| self.taken.get() as f64 / of.max(1) as f64;
        self.used.set(part(self.taken.get() + self.left()));
    }
}

impl Inbound {
    /// Takes a descriptor for a connection of this peer's, or to an app on its behalf.
    ///
    /// # Errors
    /// When the pod has its share, or the peer has its own share of that; both are counted.
    pub fn take(self: &Rc<Self>, peer: IpAddr) -> Result<PeerPermit, OverBudget> {
        let taken = self.by_peer.borrow().get(&peer).copied().unwrap_or(0);
        if taken + 1 > self.budget.0.left().saturating_sub(1).saturating_mul(GREED) {
            return Err(self.budget.0.refuse("peer_descriptors"));
        }
        let permit = self.budget.take(1)?;
        self.by_peer.borrow_mut().insert(peer, taken + 1);
        Ok(PeerPermit { inbound: self.clone(), peer, _permit: permit })
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        let mut by_peer = self.inbound.by_peer.borrow_mut();
        match by_peer.get_mut(&self.peer) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => drop(by_peer.remove(&self.peer)),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let share = &self.share;
        share.taken.set(share.taken.get() - self.count);
        share.node.give_back(self.count);
        share.show();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mesh::PodName;
    use crate::telemetry::LabelSets;

    /// A pod's budget of a kind of which the node has so many.
    pub fn budget_of(size: usize) -> Budget {
        budget(&Pool::new(size, None))
    }

    fn budget(node: &Arc<Pool>) -> Budget {
        let pod = PodName { namespace: "default".into(), name: "p".into() };
        Budget::new("outbound_descriptors", node, &Arc::new(WorkerMetrics::new(&pod, &LabelSets::new(100))))
    }

    fn all(budget: &Budget) -> Vec<Permit> {
        std::iter::from_fn(|| budget.take(1).ok()).collect()
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn a_greedy_pod_leaves_descriptors_to_its_neighbours_and_to_the_node() {
        let node = Pool::new(846, None);
        let greedy: Vec<Budget> = (0..4).map(|_| budget(&node)).collect();
        let mut held: Vec<Vec<Permit>> = vec![all(&greedy[0])];
        assert_eq!(held[0].len(), 634, "three quarters of what is not the node's");
        held.extend(greedy[1..].iter().map(all));
        assert!(
            held.iter().all(|held| held.len() >= 9),
            "{:?}",
            held.iter().map(Vec::len).collect::<Vec<_>>()
        );
        assert!(node.free() > 0, "some is left for the next pod");
        drop(held);
        assert_eq!(node.free(), 846);
        assert!(greedy[0].take(2).is_ok());
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn each_kind_has_its_own_and_memory_bounds_handshakes() {
        let sizes = |node: &Descriptors| (node.handshakes.size, node.inbound.size, node.outbound.size);
        assert_eq!(sizes(&Descriptors::new(1128, 1 << 30)), (105, 556, 556));
        assert_eq!(Descriptors::new(1_048_576, 1 << 30).handshakes.size, 1024);
        assert_eq!(Descriptors::new(1_048_576, 128 << 20).handshakes.size, 128);
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn what_one_side_takes_leaves_a_quarter_to_the_other() {
        let node = Descriptors::new(1128, 1 << 30);
        let whole = node.inbound.of.clone().unwrap();
        let greedy: Vec<Budget> = (0..8).map(|_| budget(&node.outbound)).collect();
        let held: Vec<Permit> = greedy.iter().flat_map(all).collect();
        assert!((550..=556).contains(&held.len()), "{} of 741", held.len());
        let inbound = all(&budget(&node.inbound));
        assert!((138..=148).contains(&inbound.len()), "three quarters of what is left: {}", inbound.len());
        drop((held, inbound));
        assert_eq!((whole.free(), node.outbound.free()), (741, 556));
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn one_peer_leaves_a_quarter_of_its_pods_share_to_the_others() {
        let node = Pool::new(800, None);
        let inbound = Rc::new(Inbound { budget: budget(&node), by_peer: RefCell::default() });
        let peer = |last: u8| IpAddr::from([10, 0, 0, last]);
        let all = |last: u8| std::iter::from_fn(|| inbound.take(peer(last)).ok()).collect::<Vec<_>>();
        let greedy = all(1);
        assert!((440..=450).contains(&greedy.len()), "{} of a share of 600", greedy.len());
        let next = all(2);
        assert!((80..=115).contains(&next.len()), "{} of what is left", next.len());
        assert!(inbound.take(peer(3)).is_ok());
        drop((greedy, next));
        assert!(inbound.by_peer.borrow().is_empty());
        assert_eq!(node.free(), 800);
    }
}
