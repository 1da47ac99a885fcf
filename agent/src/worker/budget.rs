//! What a pod's connections may take of what all pods of the node share: file descriptors of the agent's process.
//!
//! There are three kinds, and each has a part that none of the others can use: connections whose peer has not proven who it is
//! yet (`handshakes.rs`), those of proven peers (`peers.rs`), and those that the pod's own apps open. Of each kind every pod has a
//! few that nobody can take from it. Beyond that a namespace's pods may take as long as they have no more than three times what
//! they leave free, and a pod no more than fifteen times what it leaves to its namespace: whoever makes pods makes them in a
//! namespace, so that many greedy pods get no more than one does. A reserve is never a pod's: the node core needs it for its
//! endpoints, for the API server, for the runtime, and for new workers.

use crate::memory;
use crate::telemetry::WorkerMetrics;
use crate::tls::LARGEST_HANDSHAKE;
use nix::sys::resource::{Resource, getrlimit};
use prometheus::Gauge;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What the node core keeps: a quarter of the process's descriptors, but at least and at most so many.
const SMALLEST_RESERVE: usize = 128;
const LARGEST_RESERVE: usize = 16_384;

/// The pods of a namespace may have so many times what they leave free.
const GREED: usize = 3;

/// A pod may have so many times what it leaves to the other pods of its namespace.
const GREED_OF_POD: usize = 15;

/// What a proven peer's connection costs at the least: its own descriptor, and that of an app's.
const SMALLEST_INBOUND_FLOOR: usize = 2;

/// As many pods as a node has at the most, which have a few of each kind for certain.
const PODS: usize = 256;

/// Of peers and of pods' own connections this part is set apart for that; of handshakes, which are few, twice as much.
const APART: usize = 8;

/// What a connection costs beside its data: its task, its stream and its buffers (7.6 KiB were measured).
const CONNECTION_MEMORY: usize = 8 << 10;

/// All connections may cost this part of the agent's memory: a half.
const CONNECTIONS_PART: usize = 2;

/// What one handshake that is not finished may hold: its messages in a buffer that grows by doubling, the session and the task.
const HANDSHAKE_MEMORY: usize = 2 * LARGEST_HANDSHAKE;

/// All handshakes that are not finished may hold this part of the agent's memory: a sixteenth, which is 1,024 handshakes of 1 GiB.
/// A worker finishes one in about a millisecond, so that 1,000 honest peers that come at once are done in a second.
const HANDSHAKES_PART: usize = 16;

/// What all pods of the node share.
#[derive(Debug)]
pub struct Descriptors {
    handshakes: Arc<Pool>,
    inbound: Arc<Pool>,
    outbound: Arc<Pool>,
}

/// The descriptors of one kind, or of several, without what is set apart for each pod.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    taken: AtomicUsize,
    /// What each pod has besides, whatever the others have.
    floor: usize,
    /// Another pool that these are of, too: other kinds may have taken them.
    of: Option<Arc<Pool>>,
    /// What the pods of each namespace have taken.
    namespaces: Mutex<HashMap<String, Weak<AtomicUsize>>>,
}

/// A pod's way to descriptors of one kind; clones count together.
#[derive(Clone)]
pub(super) struct Budget(Rc<Share>);

struct Share {
    /// As metrics name it.
    name: &'static str,
    node: Arc<Pool>,
    /// What the pods of its namespace have of the pool.
    namespace: Arc<AtomicUsize>,
    taken: Cell<usize>,
    metrics: Arc<WorkerMetrics>,
    used: Gauge,
}

/// Descriptors that are a connection's, until this is dropped.
pub(super) struct Permit {
    share: Rc<Share>,
    pub count: usize,
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
    /// Of a process that may have so many open, and so many bytes of memory: no more than what half of the memory has room for.
    /// Handshakes get an eighth of the descriptors, or fewer where memory is short; peers and the pods' own connections share the
    /// rest, of which each leaves a quarter to the other.
    pub fn new(limit: usize, memory: usize) -> Self {
        let reserve = (limit / 4).clamp(SMALLEST_RESERVE, LARGEST_RESERVE);
        let for_pods = limit.saturating_sub(reserve).min(memory / CONNECTIONS_PART / CONNECTION_MEMORY);
        let handshakes = (for_pods / 8).min(memory / HANDSHAKES_PART / HANDSHAKE_MEMORY);
        let (rest, of_rest) = (for_pods - handshakes, floor(for_pods - handshakes, 2 * APART));
        // Of either side.
        let rest = Pool::new(rest.saturating_sub(2 * of_rest * PODS).max(rest / 2), 0, None);
        let side = |floor| Pool::new(rest.size - rest.size / 4, floor, Some(rest.clone()));
        let of_handshakes = floor(handshakes, APART / 4);
        let for_all = handshakes.saturating_sub(of_handshakes * PODS).max(handshakes / 2);
        Self {
            handshakes: Pool::new(for_all, of_handshakes, None),
            inbound: side(of_rest.max(SMALLEST_INBOUND_FLOOR)),
            outbound: side(of_rest),
        }
    }

    /// A pod's share for peers that have not proven who they are.
    pub(super) fn handshakes(&self, namespace: &str, metrics: &Arc<WorkerMetrics>) -> Budget {
        Budget::new("handshakes", &self.handshakes, namespace, metrics)
    }

    /// A pod's share for proven peers.
    pub(super) fn inbound(&self, namespace: &str, metrics: &Arc<WorkerMetrics>) -> Budget {
        Budget::new("inbound_descriptors", &self.inbound, namespace, metrics)
    }

    /// A pod's share for what its own apps open.
    pub(super) fn outbound(&self, namespace: &str, metrics: &Arc<WorkerMetrics>) -> Budget {
        Budget::new("outbound_descriptors", &self.outbound, namespace, metrics)
    }

    /// Of this process, as its limits (RLIMIT_NOFILE, [`memory::allowance`]) are now. Without a limit of descriptors that can be read
    /// they have no budget.
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(limit, _)| usize::try_from(limit));
        Self::new(limit.ok().and_then(Result::ok).unwrap_or(usize::MAX), memory::allowance())
    }
}

/// What each pod has for certain of so many, where that is one part of `parts` for [`PODS`] pods.
fn floor(all: usize, parts: usize) -> usize {
    (all / parts / PODS).max(1)
}

impl Pool {
    fn new(size: usize, floor: usize, of: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { size, taken: AtomicUsize::new(0), floor, of, namespaces: Mutex::default() })
    }

    /// The count of what the pods of a namespace have taken.
    fn namespace(&self, name: &str) -> Arc<AtomicUsize> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = namespaces.get(name).and_then(Weak::upgrade) {
            return known;
        }
        namespaces.retain(|_, taken| taken.strong_count() > 0);
        let taken = Arc::<AtomicUsize>::default();
        namespaces.insert(name.to_owned(), Arc::downgrade(&taken));
        taken
    }

    pub fn free(&self) -> usize {
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
    fn new(name: &'static str, node: &Arc<Pool>, namespace: &str, metrics: &Arc<WorkerMetrics>) -> Self {
        let (metrics, used) = (metrics.clone(), metrics.budget_used(name));
        let namespace = node.namespace(namespace);
        Self(Rc::new(Share { name, node: node.clone(), namespace, taken: Cell::new(0), metrics, used }))
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
        (count <= self.0.left()).then(|| self.take_anyway(count))
    }

    /// Takes them whether there is room or not: another connection is about to give its own back.
    pub fn take_anyway(&self, count: usize) -> Permit {
        // Workers that take at the same moment may exceed what is free by a few; the reserve has room for that.
        self.0.set_taken(self.0.taken.get() + count);
        Permit { share: self.0.clone(), count }
    }

    /// Whether the pod has more than half of what it may have.
    pub fn is_short(&self) -> bool {
        self.0.taken.get() > self.0.left()
    }

    /// How many the pod may still take, while no other does.
    pub fn left(&self) -> usize {
        self.0.left()
    }

    /// How many the pod may have, while no other takes more.
    pub fn may_have(&self) -> usize {
        self.0.taken.get() + self.0.left()
    }

    /// Counts a connection that is refused, or one that ends for it.
    pub fn refuse(&self) -> OverBudget {
        self.refuse_as(self.0.name)
    }

    /// The same, by the name of a part of the budget.
    pub fn refuse_as(&self, name: &'static str) -> OverBudget {
        self.0.metrics.budget_refused(name);
        self.0.show();
        OverBudget(name)
    }
}

impl Share {
    fn set_taken(&self, taken: usize) {
        let beyond_floor = |taken: usize| taken.saturating_sub(self.node.floor);
        let (before, now) = (beyond_floor(self.taken.replace(taken)), beyond_floor(taken));
        if now > before {
            self.node.take(now - before);
            self.namespace.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.node.give_back(before - now);
            self.namespace.fetch_sub(before - now, Ordering::Relaxed);
        }
        self.show();
    }

    fn left(&self) -> usize {
        let (taken, floor) = (self.taken.get(), self.node.floor);
        let of_namespace = left(self.namespace.load(Ordering::Relaxed), self.node.free(), GREED);
        floor.saturating_sub(taken) + left(taken.saturating_sub(floor), of_namespace, GREED_OF_POD)
    }

    fn show(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a part of one, for people")]
        let part = |of: usize| self.taken.get() as f64 / of as f64;
        // Others may have them all.
        let may_have = self.taken.get() + self.left();
        self.used.set(if may_have == 0 { 1.0 } else { part(may_have) });
    }
}

/// How many more somebody may take who has `taken`, may have `greed` times what he leaves, and finds so many free.
pub(super) fn left(taken: usize, free: usize, greed: usize) -> usize {
    free.saturating_mul(greed).saturating_sub(taken) / (greed + 1)
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.set_taken(self.share.taken.get() - self.count);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mesh::PodName;
    use crate::telemetry::LabelSets;

    /// A pod's budget of a kind of which the node has so many.
    pub fn budget_of(size: usize) -> Budget {
        budget(&pool(size), "default")
    }

    pub fn pool(size: usize) -> Arc<Pool> {
        Pool::new(size, 0, None)
    }

    pub fn budget(node: &Arc<Pool>, namespace: &str) -> Budget {
        let pod = PodName { namespace: namespace.into(), name: "p".into() };
        let metrics = Arc::new(WorkerMetrics::new(&pod, &LabelSets::new(100)));
        Budget::new("outbound_descriptors", node, namespace, &metrics)
    }

    fn all(budget: &Budget) -> Vec<Permit> {
        std::iter::from_fn(|| budget.take(1).ok()).collect()
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn greedy_pods_leave_descriptors_to_their_neighbours_and_to_other_namespaces() {
        let node = Pool::new(8_192, 10, None);
        let greedy: Vec<Budget> = (0..50).map(|_| budget(&node, "greedy")).collect();
        let mut held: Vec<Vec<Permit>> = greedy.iter().map(all).collect();
        let taken: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(taken[0], 5_770, "fifteen sixteenths of three quarters, and its own ten");
        assert!(taken.iter().all(|taken| *taken >= 10), "{taken:?}");
        let beyond: usize = taken.iter().map(|taken| taken - 10).sum();
        assert!(beyond <= 6_144, "three quarters of all: {beyond}");
        // However many greedy ones there are, the next namespace has its own share.
        held.push(all(&budget(&node, "honest")));
        let honest = held.last().unwrap().len();
        assert!(honest > 1_000, "{honest}");
        drop(held);
        assert_eq!((node.free(), greedy[0].0.namespace.load(Ordering::Relaxed)), (8_192, 0));
        assert!(greedy[0].take(2).is_ok());
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn a_pod_whose_neighbours_have_everything_has_a_few_and_its_metric_says_that_they_are_used_up() {
        let node = Pool::new(64, 2, None);
        let greedy: Vec<Budget> = (0..40).map(|number| budget(&node, &format!("greedy-{number}"))).collect();
        let _held: Vec<Vec<Permit>> = greedy.iter().map(all).collect();
        let honest = budget(&node, "honest");
        let own = all(&honest);
        assert_eq!(own.len(), 2);
        assert!(node.free() < 4, "{}", node.free());
        assert!((honest.0.used.get() - 1.0).abs() < 1e-9);
        drop(own);
        let without = budget(&Pool::new(0, 0, None), "honest");
        assert!(without.take(1).is_err());
        assert!((without.0.used.get() - 1.0).abs() < 1e-9);
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn each_kind_has_its_own_and_memory_bounds_handshakes() {
        let sizes = |node: &Descriptors| {
            [&node.handshakes, &node.inbound, &node.outbound].map(|pool| (pool.size, pool.floor))
        };
        assert_eq!(sizes(&Descriptors::new(1128, 1 << 30)), [(52, 1), (278, 2), (278, 1)]);
        assert_eq!(sizes(&Descriptors::new(20_000, 1 << 30)), [(512, 2), (9_330, 3), (9_330, 3)]);
        assert_eq!(sizes(&Descriptors::new(1_048_576, 1 << 30))[0], (512, 2));
        assert_eq!(sizes(&Descriptors::new(1_048_576, 128 << 20))[0], (64, 1));
        // 5,000 connections of one pod have room.
        let node = Descriptors::new(20_000, 1 << 30);
        assert!(all(&budget(&node.outbound, "default")).len() > 5_000);
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn what_one_side_takes_leaves_a_quarter_to_the_other() {
        let node = Descriptors::new(20_000, 1 << 30);
        let whole = node.inbound.of.clone().unwrap();
        let greedy: Vec<Budget> =
            (0..8).map(|number| budget(&node.outbound, &format!("n{number}"))).collect();
        let held: Vec<Permit> = greedy.iter().flat_map(all).collect();
        assert!(held.len() > 9_200 && node.outbound.free() < 100, "{}", held.len());
        let inbound = all(&budget(&node.inbound, "other"));
        assert!(inbound.len() > 2_000, "{}", inbound.len());
        drop((held, inbound));
        assert_eq!((whole.free(), node.outbound.free()), (whole.size, node.outbound.size));
    }
}
