//! File descriptors: how many a pod's connections may take of those that the agent's process has.
//!
//! A pod may take as long as it has no more than what is left free. One greedy pod gets half of all, two get a
//! third each, and however many there are, some is left for the next. A reserve is never a pod's: the node core needs it for
//! its endpoints, for the API server, for the runtime, and for new workers.

use super::Settings;
use crate::telemetry::WorkerMetrics;
use nix::sys::resource::{Resource, getrlimit};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the node core keeps: a quarter of the process's descriptors, but at least and at most so many.
const SMALLEST_RESERVE: usize = 128;
const LARGEST_RESERVE: usize = 16_384;

/// What all pods of the node share.
#[derive(Debug)]
pub struct Descriptors {
    for_pods: usize,
    taken: AtomicUsize,
}

/// A pod's way to them; clones count together.
#[derive(Clone)]
pub(super) struct Budget(Rc<Share>);

struct Share {
    node: Arc<Descriptors>,
    taken: Cell<usize>,
    metrics: Arc<WorkerMetrics>,
}

/// Descriptors that are a connection's, until this is dropped.
pub(super) struct Permit {
    share: Rc<Share>,
    count: usize,
}

/// The pod has its share already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the pod's connections have their share of the agent's file descriptors")]
pub(super) struct OverBudget;

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
    /// Of a process that may have so many open.
    pub fn new(limit: usize) -> Self {
        let reserve = (limit / 4).clamp(SMALLEST_RESERVE, LARGEST_RESERVE);
        Self { for_pods: limit.saturating_sub(reserve), taken: AtomicUsize::new(0) }
    }

    /// Of this process, as its limit (RLIMIT_NOFILE) is now. Without a limit that can be read there is no budget.
    pub fn of_this_process() -> Self {
        match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((limit, _)) => Self::new(usize::try_from(limit).unwrap_or(usize::MAX)),
            Err(_) => Self::new(usize::MAX),
        }
    }

    fn free(&self) -> usize {
        self.for_pods.saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

impl Budget {
    pub fn new(settings: &Settings, metrics: Arc<WorkerMetrics>) -> Self {
        Self(Rc::new(Share { node: settings.descriptors.clone(), taken: Cell::new(0), metrics }))
    }

    /// Takes descriptors for a connection that is about to need them.
    ///
    /// # Errors
    /// When the pod has its share; that is counted.
    pub fn take(&self, count: usize) -> Result<Permit, OverBudget> {
        let Share { node, taken, metrics } = &*self.0;
        if taken.get() + count > node.free().saturating_sub(count) {
            metrics.budget_refused("descriptors");
            return Err(OverBudget);
        }
        taken.set(taken.get() + count);
        // Workers that take at the same moment may exceed what is free by a few; the reserve has room for that.
        node.taken.fetch_add(count, Ordering::Relaxed);
        Ok(Permit { share: self.0.clone(), count })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Share { node, taken, .. } = &*self.share;
        taken.set(taken.get() - self.count);
        node.taken.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::PodName;

    fn budget(node: &Arc<Descriptors>) -> Budget {
        let pod = PodName { namespace: "default".into(), name: "p".into() };
        let metrics = Arc::new(WorkerMetrics::new(&pod));
        Budget(Rc::new(Share { node: node.clone(), taken: Cell::new(0), metrics }))
    }

    fn all(budget: &Budget) -> Vec<Permit> {
        std::iter::from_fn(|| budget.take(1).ok()).collect()
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn a_greedy_pod_leaves_descriptors_to_its_neighbours_and_to_the_node() {
        let node = Arc::new(Descriptors::new(1128));
        let greedy: Vec<Budget> = (0..6).map(|_| budget(&node)).collect();
        let mut held: Vec<Vec<Permit>> = vec![all(&greedy[0])];
        assert_eq!(held[0].len(), 423, "half of what is not the node's");
        held.extend(greedy[1..].iter().map(all));
        assert!(
            held.iter().all(|held| held.len() > 10),
            "{:?}",
            held.iter().map(Vec::len).collect::<Vec<_>>()
        );
        assert!(node.free() > 0, "some is left for the next pod");
        drop(held);
        assert_eq!(node.free(), 846);
        assert!(greedy[0].take(2).is_ok());
    }
}
