//! The mesh as plain data: what the agent knows of workloads and services, as one immutable snapshot.
//!
//! A [`Mesh`] is built from Kubernetes objects (see `manifest`), never changed afterwards, and shared by
//! `Arc`. Everything that decides something about a connection is a function of such a snapshot.
//! Nothing in here does I/O, reads a clock or knows how the objects came.

mod authorization;
mod identity;
mod matching;
mod mtls;
mod service;
mod workload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

pub use authorization::{
    Action, Authorization, Condition, Policy, PolicyName, Principals, Rule, Subject, Test, Warning,
};
pub use identity::{SpiffeId, SpiffeIdError, TrustDomain, TrustDomains};
pub use matching::{Networks, PortSet, Strings};
pub use mtls::{InboundMtls, MtlsMode};
pub use service::{Backend, Endpoint, Host, Locality, Service, ServicePort};
pub use workload::{Exclusions, OnAgentLoss, PodName, Workload};

/// One consistent picture of the mesh.
#[derive(Debug, Default)]
pub struct Mesh {
    /// Counts snapshots from 1; 0 is the empty mesh before the first was built.
    pub generation: u64,
    /// The generation of the last snapshot that changed what verdicts on connections within this node depend on. Such
    /// verdicts are good as long as this number stays.
    pub policy: u64,
    /// Every pod that has an address or runs on some node, by name.
    pub workloads: HashMap<PodName, Arc<Workload>>,
    /// The owner of each pod address. One address has one owner: the builder refuses anything else.
    pub by_address: HashMap<IpAddr, Arc<Workload>>,
    /// Services by each of their cluster IPs.
    pub services: HashMap<IpAddr, Arc<Service>>,
    /// Every AuthorizationPolicy that is for pods, whomever it selects.
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// The namespaces whose pods are in the mesh unless they say otherwise: those of pods that are not known yet, too.
    pub captured_namespaces: BTreeSet<String>,
    /// The namespaces that are known not to be among them; `None` where every other one is known not to be.
    pub plain_namespaces: Option<BTreeSet<String>>,
    /// Addresses that several pods claim, of which one at least is captured. Nobody connects there in plain.
    pub disputed: BTreeSet<IpAddr>,
    /// By their addresses, captured pods whose objects are gone. That nobody speaks of a pod does not say that its programs have
    /// ended: until another object claims the address, nobody connects there in plain.
    pub vanished: HashMap<IpAddr, Vanished>,
}

/// A captured pod whose object is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vanished {
    /// The pod as it was known last.
    pub workload: Arc<Workload>,
    /// The generation of the first snapshot without it.
    pub since: u64,
}

impl Mesh {
    /// Whether pods of the namespace are in the mesh unless they say otherwise, as far as is known: a namespace that nobody has
    /// spoken of may be one of those.
    pub fn may_capture(&self, namespace: &str) -> bool {
        let is_plain = |plain: &BTreeSet<String>| plain.contains(namespace);
        self.generation == 0
            || self.captured_namespaces.contains(namespace)
            || !self.plain_namespaces.as_ref().is_none_or(is_plain)
    }

    /// Whose the address is, also where that pod's object is gone.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let vanished = || self.vanished.get(&address).map(|vanished| &vanished.workload);
        self.by_address.get(&address).or_else(vanished)
    }

    /// The pods that this node has to bring into the mesh.
    pub fn captured_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads.values().filter(move |w| w.node == node && w.captured)
    }
}
