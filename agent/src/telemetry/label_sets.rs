//! How many label sets there may be: their values are names and labels that tenants choose, and each costs 10 KiB.

use crate::memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is written instead of names, where a pod has as many label sets as it may.
pub const OTHER: &str = "other";

/// Every pod may have so many, whatever the others have.
const FLOOR: usize = 64;

/// One label set for each 128 KiB of memory that the agent may use: 8,192 with 1 GiB, which are 80 MiB.
const MEMORY_FOR_ONE: usize = 128 << 10;

/// The policies of which a pod's metrics tell by name.
pub const POLICIES: usize = 256;

/// The label sets of all pods of the node. Clones share them.
#[derive(Clone)]
pub struct LabelSets {
    limit: usize,
    taken: Arc<AtomicUsize>,
}

impl LabelSets {
    /// As many as fit into the memory that this process may use.
    pub fn of_this_process() -> Self {
        Self::new(memory::allowance() / MEMORY_FOR_ONE)
    }

    pub fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// The share of one pod.
    pub(super) fn share(&self) -> Share {
        Share { node: self.clone(), taken: 0 }
    }
}

/// The label sets of one pod. Given back when it is dropped.
pub(super) struct Share {
    node: LabelSets,
    taken: usize,
}

impl Share {
    /// Takes one, where the pod has fewer than [`FLOOR`], or fewer than it leaves to the others.
    pub fn take(&mut self) -> bool {
        let may = self.taken < self.limit();
        if may {
            self.taken += 1;
            self.node.taken.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    pub fn give_back(&mut self) {
        self.taken -= 1;
        self.node.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// The part of what the pod may have that it has.
    pub fn used(&self) -> f64 {
        self.taken as f64 / self.limit().max(self.taken) as f64
    }

    /// What the pod may have while the others have what they have.
    fn limit(&self) -> usize {
        let others = self.node.taken.load(Ordering::Relaxed).saturating_sub(self.taken);
        FLOOR.max(self.node.limit.saturating_sub(others) / 2)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.node.taken.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(share: &mut Share) -> usize {
        while share.take() {}
        share.taken
    }

    // proves: ISO-3
    #[test]
    fn a_pod_has_as_many_label_sets_as_it_leaves_and_always_some() {
        let node = LabelSets::new(1_000);
        let mut greedy: Vec<Share> = (0..10).map(|_| node.share()).collect();
        let taken: Vec<usize> = greedy.iter_mut().map(take_all).collect();
        assert_eq!(taken, [500, 250, 125, 64, 64, 64, 64, 64, 64, 64]);
        assert!((greedy[0].used() - 1.0).abs() < 1e-9);
        greedy.clear();
        let mut later = node.share();
        assert_eq!(take_all(&mut later), 500);
        later.give_back();
        assert!(later.take() && !later.take());
    }
}
