//! What the peers of a pod may take of the pod's share of descriptors.
//!
//! The peers of a namespace may have seven times what they leave of it, whatever their addresses, and an eighth is for namespaces
//! whose peers have few.

use super::budget::{Budget, OverBudget, Permit, left};
use crate::mesh::SpiffeId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The peers of a namespace may have so many times what they leave of their pod's share.
const GREED_OF_PEER: usize = 7;

/// A namespace's peers that have no more than so many of a pod's get them as long as the pod has any: a connection and four
/// streams of it.
const FEW_OF_PEER: usize = 8;

/// For them this part of the pod's share is set apart, but no more than so many.
const APART_FOR_FEW: usize = 8;
const MOST_FOR_FEW: usize = 512;

/// A pod's way to descriptors for its peers.
pub(super) struct Inbound {
    budget: Budget,
    /// By the namespace of their identity: an address is easily had.
    by_peer: RefCell<HashMap<String, usize>>,
}

/// A descriptor that is a peer's, until this is dropped.
pub(super) struct PeerPermit {
    inbound: Rc<Inbound>,
    /// Its namespace.
    peer: String,
    permit: Permit,
}

impl Inbound {
    pub fn new(budget: Budget) -> Rc<Self> {
        Rc::new(Self { budget, by_peer: RefCell::default() })
    }

    /// Takes the place of a connection of this peer's, which costs as much memory as four others do (30 KiB were measured).
    ///
    /// # Errors
    /// As of [`Self::take`].
    pub fn take_connection(self: &Rc<Self>, peer: &SpiffeId) -> Result<PeerPermit, OverBudget> {
        self.take_many(peer, 4)
    }

    /// Takes a descriptor for a connection to an app on this peer's behalf.
    ///
    /// # Errors
    /// When the pod has its share, or the peer's namespace has its own share of that; both are counted.
    pub fn take(self: &Rc<Self>, peer: &SpiffeId) -> Result<PeerPermit, OverBudget> {
        self.take_many(peer, 1)
    }

    fn take_many(self: &Rc<Self>, peer: &SpiffeId, count: usize) -> Result<PeerPermit, OverBudget> {
        let peer = format!("{}/{}", peer.trust_domain(), peer.namespace());
        let taken = self.by_peer.borrow().get(&peer).copied().unwrap_or(0);
        let free = self.budget.left();
        // Where little is left it costs less, and leaves one to a stream: a few are for certain, and they are fewer than it costs.
        let count = if taken == 0 { count.min(free.saturating_sub(1).max(1)) } else { count };
        if taken + count > FEW_OF_PEER
            && left(taken, free.saturating_sub(self.apart_for_few()), GREED_OF_PEER) < count
        {
            return Err(self.budget.refuse_as("peer_descriptors"));
        }
        let permit = self.budget.take(count)?;
        self.by_peer.borrow_mut().insert(peer.clone(), taken + count);
        Ok(PeerPermit { inbound: self.clone(), peer, permit })
    }

    /// What of the pod's share is for namespaces whose peers have few.
    fn apart_for_few(&self) -> usize {
        (self.budget.may_have() / APART_FOR_FEW).min(MOST_FOR_FEW)
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        let mut by_peer = self.inbound.by_peer.borrow_mut();
        match by_peer.get_mut(&self.peer) {
            Some(taken) if *taken > self.permit.count => *taken -= self.permit.count,
            _ => drop(by_peer.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Descriptors;
    use super::super::budget::tests::{budget, pool};
    use super::*;
    use crate::mesh::PodName;
    use crate::telemetry::{LabelSets, WorkerMetrics};
    use std::sync::Arc;

    fn peer(namespace: &str) -> SpiffeId {
        SpiffeId::new(&"cluster.local".parse().unwrap(), namespace, "sa")
    }

    fn metrics() -> Arc<WorkerMetrics> {
        let pod = PodName { namespace: "shop".into(), name: "p".into() };
        Arc::new(WorkerMetrics::new(&pod, &LabelSets::new(100)))
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn a_pod_whose_neighbours_have_everything_serves_a_peer() {
        for limit in [1_128, 20_000, 1_048_576] {
            let node = Descriptors::new(limit, 1 << 30);
            let metrics = metrics();
            let greedy: Vec<_> = (0..249)
                .map(|number| Inbound::new(node.inbound(&format!("greedy-{number}"), &metrics)))
                .collect();
            let all = |pod: &Rc<Inbound>| -> Vec<_> {
                std::iter::from_fn(|| pod.take(&peer("greedy")).ok()).collect()
            };
            let _held: Vec<Vec<_>> = greedy.iter().map(all).collect();
            let honest = Inbound::new(node.inbound("honest", &metrics));
            let connection = honest.take_connection(&peer("friend"));
            assert!(connection.is_ok(), "of {limit}");
            assert!(honest.take(&peer("friend")).is_ok(), "a stream, of {limit}");
        }
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn however_many_namespaces_are_greedy_the_next_ones_peers_get_a_few_of_their_pod() {
        let node = Descriptors::new(20_000, 1 << 30);
        let inbound = Inbound::new(node.inbound("shop", &metrics()));
        let all = |number: usize| -> Vec<_> {
            std::iter::from_fn(|| inbound.take(&peer(&format!("greedy-{number}"))).ok()).collect()
        };
        let greedy: Vec<Vec<_>> = (0..60).map(all).collect();
        assert!(greedy[0].len() > 4_000, "{}", greedy[0].len());
        assert!(greedy[59].len() >= FEW_OF_PEER, "{}", greedy[59].len());
        let _connection = inbound.take_connection(&peer("honest")).unwrap();
        let streams: Vec<_> = (0..4).filter_map(|_| inbound.take(&peer("honest")).ok()).collect();
        assert_eq!(streams.len(), 4);
    }

    // proves: ISO-1, ISO-3
    #[test]
    fn peers_of_one_namespace_leave_a_part_of_their_pods_share_to_others() {
        let node = pool(800);
        let inbound = Inbound::new(budget(&node, "shop"));
        let all = |namespace: &str| -> Vec<_> {
            std::iter::from_fn(|| inbound.take(&peer(namespace)).ok()).collect()
        };
        let greedy = all("greedy");
        assert!(
            (425..=435).contains(&greedy.len()),
            "{} of a share of 562, an eighth set apart",
            greedy.len()
        );
        let next = all("next");
        assert!((50..=70).contains(&next.len()), "{} of what is left", next.len());
        assert!(inbound.take(&peer("third")).is_ok());
        drop((greedy, next));
        assert!(inbound.by_peer.borrow().is_empty());
        assert_eq!(node.free(), 800);
    }

    // proves: ISO-3
    #[test]
    fn five_thousand_connections_of_one_namespaces_peers_have_room() {
        let node = Descriptors::new(20_000, 1 << 30);
        let inbound = Inbound::new(node.inbound("shop", &metrics()));
        let of_one_namespace: Vec<_> = std::iter::from_fn(|| inbound.take(&peer("shop")).ok()).collect();
        assert!(of_one_namespace.len() > 5_200, "{}", of_one_namespace.len());
    }
}
