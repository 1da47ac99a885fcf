//! How pods leave the mesh. A pod goes plain when its object says that it is not to be captured, and is forgotten when the
//! kernel says that its network namespace is gone. An object that is missing says nothing: the pod stays captured.

use super::ledger::Entry;
use super::netns::Leads;
use super::pending::Pending;
use super::pod::{Orphan, Pod, State};
use super::supervisor::Supervisor;
use crate::decide::NotDirect;
use crate::kernel::{KernelError, NetnsLife, netns_cookie_at};
use crate::mesh::{Mesh, PodName, Workload};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pod that left the mesh still takes connections of peers that have not heard of it: the mesh
/// applies changes within a second, and agents do so one after the other.
pub(super) const RETIRE_GRACE: Duration = Duration::from_secs(3);

/// What is to become of a pod that this node has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is wanted as it is.
    Stays,
    /// Another pod, or another identity, is in the same network namespace.
    Replaced,
    /// It is wanted in another network namespace.
    Moved,
    /// Its object says that it is not to be captured here.
    Released,
    /// Nobody speaks of it any more, and its network namespace is there. Why.
    Orphaned(&'static str),
    /// Nobody speaks of it any more, and the path into its network namespace is gone.
    Gone,
}

/// What is known of a pod that no worker of this agent has entered.
enum Evidence {
    Released,
    Gone,
    None,
}

/// `here` is the pod of that name as the mesh wants it on this node, `object` whatever the mesh has under that name, and
/// `leads` says where a path leads that was compared with the pod's network namespace.
pub(super) fn fate(
    pod: &Workload,
    here: Option<&Workload>,
    object: Option<&Workload>,
    node: &str,
    leads: impl Fn(Option<&Path>) -> Leads,
) -> Fate {
    let vanished = |why| match leads(pod.netns.as_deref()) {
        Leads::There | Leads::Unknown => Fate::Orphaned(why),
        Leads::Elsewhere | Leads::Nowhere => Fate::Gone,
    };
    match (here, object) {
        (Some(now), _) => {
            let is_there = match leads(now.netns.as_deref()) {
                Leads::There => true,
                Leads::Elsewhere => false,
                Leads::Nowhere | Leads::Unknown => now.netns == pod.netns,
            };
            match now.uid == pod.uid && now.identity == pod.identity {
                _ if !is_there => Fate::Moved,
                true => Fate::Stays,
                false => Fate::Replaced,
            }
        }
        (None, Some(object)) if object.uid == pod.uid && (!object.captured || object.node != node) => {
            Fate::Released
        }
        (None, Some(object)) if object.uid == pod.uid => {
            vanished("the container runtime does not have its sandbox any more")
        }
        (None, _) => vanished("its object is gone"),
    }
}

impl Supervisor {
    /// Lets go of pods that are not wanted any more, and keeps those that nobody speaks of.
    pub(super) fn depart(&mut self, mesh: &Mesh, wanted: &[Arc<Workload>]) {
        let wanted: HashMap<&PodName, &Arc<Workload>> = wanted.iter().map(|now| (&now.name, now)).collect();
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            let here = wanted.get(&name).copied();
            match self.fate_of(&name, mesh, here) {
                Fate::Stays => {}
                Fate::Replaced => here.into_iter().for_each(|now| self.replace(&name, now)),
                Fate::Moved => self.bury(&name, "its network namespace is another"),
                Fate::Released => self.let_go(&name),
                Fate::Orphaned(why) => self.orphan(&name, why),
                Fate::Gone => self.bury(&name, "its network namespace is gone"),
            }
        }
    }

    fn fate_of(&self, name: &PodName, mesh: &Mesh, here: Option<&Arc<Workload>>) -> Fate {
        let pod = &self.pods[name];
        let object = mesh.workloads.get(name).map(|object| &**object);
        fate(&pod.workload, here.map(|now| &**now), object, &self.config.node, |path| pod.leads(path))
    }

    /// Whether pods have departed, or moved, without a word of the mesh or the runtime. Says which.
    pub(super) fn unnoticed(&self) -> Vec<(PodName, Fate)> {
        let mesh = self.mesh.borrow().clone();
        if mesh.generation == 0 {
            return vec![];
        }
        let names = self.pods.keys().cloned();
        let fates = names.map(|name| {
            let object = mesh.workloads.get(&name).filter(|o| o.captured && o.node == self.config.node);
            let here = object.and_then(|object| self.runtime.place(object));
            let fate = self.fate_of(&name, &mesh, here.as_ref());
            (name, fate)
        });
        fates.filter(|(_, fate)| matches!(fate, Fate::Moved | Fate::Gone)).collect()
    }

    /// Looks once more at pods that may be gone by now.
    pub(super) fn revisit(&mut self, now: Instant) {
        if self.revisit.at.is_none_or(|at| at > now) {
            return;
        }
        self.revisit.next();
        match self.unnoticed().is_empty() {
            true => self.visit_ledger(),
            false => self.reconcile(),
        }
    }

    /// Nobody speaks of the pod any more, but it is there: what holds of it goes on. One that is not served is refused.
    fn orphan(&mut self, name: &PodName, why: &'static str) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        match pod.state {
            State::Retiring => {}
            _ if !pod.is_established => self.bury(name, why),
            _ if pod.orphan.is_some() => {}
            _ => {
                pod.orphan = Some(Orphan { why, since: Instant::now(), is_told: false });
                self.revisit.soon();
            }
        }
    }

    /// The pod's object says that it is not to be captured: its next connection is plain, those that are open go on.
    pub(super) fn let_go(&mut self, name: &PodName) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        match (&pod.state, &pod.worker) {
            (State::Retiring, _) => {}
            (State::Serving, Some(worker)) => {
                tracing::info!(pod = %name, "released");
                worker.retire(RETIRE_GRACE);
                pod.state = State::Retiring;
                pod.is_established = false;
                (pod.orphan, pod.unsettled) = (None, None);
                pod.direct = Err(NotDirect::NotCaptured);
                self.release_in_kernel(name);
            }
            _ => {
                tracing::info!(pod = %name, "released");
                let cookie = pod.cookie;
                self.forget(name);
                if let Some(cookie) = cookie {
                    self.forget_in_kernel(name, cookie);
                }
            }
        }
    }

    /// Has the hooks let a retiring pod go; also when that has failed before.
    pub(super) fn release_in_kernel(&mut self, name: &PodName) {
        let Some(pod) = self.pods.get(name).filter(|pod| pod.state == State::Retiring) else { return };
        let Some(cookie) = pod.cookie.filter(|cookie| !self.is_anothers(name, *cookie)) else { return };
        let Some(pod) = self.pods.get_mut(name) else { return };
        let released = self.kernel.release(cookie);
        if released.is_ok() {
            self.ledger.strike(cookie);
        }
        let released =
            released.map_err(|e| format!("the hooks cannot be told to let the pod {name} go: {e}"));
        pod.unsettled = Pending::after(pod.unsettled.take(), released, "release");
    }

    /// Another pod, or another identity, in the same namespace. The hooks go on capturing: until the new worker
    /// serves, its connections are refused, not plain.
    fn replace(&mut self, name: &PodName, now: &Arc<Workload>) {
        tracing::info!(pod = %name, identity = %now.identity, "its identity is another: a new worker takes its place");
        if let Some(worker) = self.pods.get_mut(name).and_then(|pod| pod.worker.take()) {
            worker.stop();
        }
        self.start(now);
    }

    /// Ends the pod's worker, and cuts everything. Whatever else may be in its network namespace is refused until the kernel
    /// says that the namespace is gone. One that was released before is forgotten.
    fn bury(&mut self, name: &PodName, why: &str) {
        tracing::info!(pod = %name, "removed: {why}");
        let Some(pod) = self.pods.get(name) else { return };
        let (cookie, is_released) = (pod.cookie, pod.state == State::Retiring);
        let netns = pod.netns.as_ref().filter(|_| !is_released).map(|(netns, _)| netns.clone());
        if let Some(worker) = self.pods.get_mut(name).and_then(|pod| pod.worker.take()) {
            worker.abort();
        }
        self.forget(name);
        if let Some((cookie, netns)) = cookie.zip(netns)
            && let Err(e) = self.kernel.close(cookie, netns.as_fd())
        {
            tracing::error!(pod = %name, "what the kernel has of it cannot be closed; the audit tries again: {e}");
        }
        match cookie {
            Some(cookie) if is_released => self.forget_in_kernel(name, cookie),
            Some(_) => self.revisit.soon(),
            None => {}
        }
    }

    /// Drops what this agent has of a pod. What the kernel has of it stays.
    pub(super) fn forget(&mut self, name: &PodName) {
        if let Some(worker) = self.pods.remove(name).and_then(|pod| pod.worker) {
            worker.stop();
        }
        self.metrics.unregister(name);
    }

    /// Whether a pod that is to be captured is in the network namespace, beside the named one: then what the kernel has of the
    /// namespace is that pod's. Whoever writes manifests may name any namespace.
    pub(super) fn is_anothers(&self, name: &PodName, cookie: u64) -> bool {
        self.others_in(name, cookie).any(|pod| pod.state != State::Retiring)
    }

    /// Whether a pod that is served is in the network namespace, beside the named one: its connections are not the other's to
    /// have refused.
    pub(super) fn serves_another(&self, name: &PodName, cookie: u64) -> bool {
        self.others_in(name, cookie).any(|pod| pod.state == State::Serving)
    }

    fn others_in(&self, name: &PodName, cookie: u64) -> impl Iterator<Item = &Pod> {
        let others = self.pods.iter().filter(move |(other, _)| *other != name);
        others.map(|(_, pod)| pod).filter(move |pod| pod.cookie == Some(cookie))
    }

    fn forget_in_kernel(&mut self, name: &PodName, cookie: u64) {
        if self.is_anothers(name, cookie) {
            return;
        }
        match self.kernel.forget(cookie) {
            Ok(()) => self.ledger.strike(cookie),
            Err(e) => {
                tracing::error!(
                    netns_cookie = cookie,
                    "the hooks cannot be told to forget a pod; the audit tries again: {e}"
                );
            }
        }
    }

    /// Looks at the pods of the ledger that no worker of this agent is in. Each is refused until there is evidence that it
    /// is released or gone.
    pub(super) fn visit_ledger(&mut self) {
        let mesh = self.mesh.borrow().clone();
        if mesh.generation == 0 {
            return;
        }
        self.ledger_errors.clear();
        for entry in self.unclaimed() {
            let done = match self.evidence(&mesh, &entry) {
                Ok(Evidence::Released | Evidence::Gone) => {
                    tracing::info!(pod = %entry.pod, netns_cookie = entry.cookie, "forgotten: it is released or gone");
                    self.kernel.forget(entry.cookie).map(|()| self.ledger.strike(entry.cookie))
                }
                Ok(Evidence::None) if self.may_come(&entry) || self.kernel.is_refused(entry.cookie) => Ok(()),
                Ok(Evidence::None) => self.kernel.refuse(entry.cookie),
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                self.ledger_errors.push(format!("pod {} (netns cookie {}): {e}", entry.pod, entry.cookie));
            }
        }
    }

    /// Pods of the ledger that no worker of this agent has entered, or not any more.
    pub(super) fn unclaimed(&self) -> Vec<Entry> {
        let claimed: HashSet<u64> = self.pods.values().filter_map(|pod| pod.cookie).collect();
        self.ledger.entries().filter(|entry| !claimed.contains(&entry.cookie)).cloned().collect()
    }

    /// Whether a worker may be about to enter that pod: until then what an earlier agent has left stays as it is, which is
    /// closed.
    fn may_come(&self, entry: &Entry) -> bool {
        let is_coming = |pod: &Pod| pod.state == State::Starting && pod.cookie.is_none();
        !self.runtime.is_known || self.pods.get(&entry.pod).is_some_and(is_coming)
    }

    fn evidence(&self, mesh: &Mesh, entry: &Entry) -> Result<Evidence, KernelError> {
        let object = mesh.workloads.get(&entry.pod).filter(|object| entry.is_of(object));
        if object.is_some_and(|object| !object.captured || object.node != self.config.node) {
            return Ok(Evidence::Released);
        }
        let is_gone = match (self.kernel.netns_life(entry.cookie)?, entry.leads()) {
            (NetnsLife::Alive, _) => false,
            (NetnsLife::Gone, Leads::Elsewhere | Leads::Nowhere) => true,
            // The number of a namespace's file is given to another namespace, later; its cookie is not.
            (NetnsLife::Gone, Leads::There) => {
                netns_cookie_at(&entry.netns).is_ok_and(|cookie| cookie != entry.cookie)
            }
            // Its worker had no time to guard it. Another namespace under its path says nothing of this one.
            (NetnsLife::NotGuarded, Leads::Elsewhere | Leads::Nowhere) => object.is_none(),
            (NetnsLife::NotGuarded, Leads::There) | (_, Leads::Unknown) => false,
        };
        Ok(if is_gone { Evidence::Gone } else { Evidence::None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};

    fn object(uid: &str, node: &str, account: &str, netns: &str, label: &str) -> Workload {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, uid: {uid}, \
              annotations: {{pillion.dev/netns: {netns}}}, labels: {{pillion.dev/capture: {label}}}}}, \
              spec: {{nodeName: {node}, serviceAccountName: {account}}}, status: {{podIP: 10.0.0.3}}}}"
        );
        let objects = parse("test.yaml", pod.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        Workload::clone(mesh.workloads.values().next().unwrap())
    }

    /// The fate of a pod on node n1, in /run/netns/a, whose path leads there.
    fn of(here: Option<&Workload>, object_: Option<&Workload>, leads: Leads) -> Fate {
        let pod = object("u1", "n1", "web", "/run/netns/a", "enabled");
        fate(&pod, here, object_, "n1", |_| leads)
    }

    // proves: SEC-3
    #[test]
    fn a_pod_is_let_go_only_when_its_object_says_so() {
        let label_off = object("u1", "n1", "web", "/run/netns/a", "disabled");
        let elsewhere = object("u1", "n2", "web", "/run/netns/a", "enabled");
        for leads in [Leads::There, Leads::Unknown, Leads::Nowhere, Leads::Elsewhere] {
            assert_eq!(of(None, Some(&label_off), leads), Fate::Released);
            assert_eq!(of(None, Some(&elsewhere), leads), Fate::Released);
        }
        // No object, one of another pod under the same name, captured here or not, or one without a sandbox.
        let wanted = object("u1", "n1", "web", "/run/netns/a", "enabled");
        let heirs = [
            object("u2", "n1", "web", "/run/netns/b", "disabled"),
            object("u2", "n2", "web", "/run/netns/b", "enabled"),
            wanted,
        ];
        for named in [None].into_iter().chain(heirs.iter().map(Some)) {
            assert!(matches!(of(None, named, Leads::There), Fate::Orphaned(_)), "{named:?}");
            assert!(matches!(of(None, named, Leads::Unknown), Fate::Orphaned(_)), "{named:?}");
            assert_eq!(of(None, named, Leads::Nowhere), Fate::Gone, "{named:?}");
            assert_eq!(of(None, named, Leads::Elsewhere), Fate::Gone, "{named:?}");
        }
    }

    // proves: SEC-3
    #[test]
    fn a_namespace_that_is_remade_under_the_same_path_is_another_pods() {
        let same = object("u1", "n1", "web", "/run/netns/a", "enabled");
        let moved = object("u1", "n1", "web", "/run/netns/b", "enabled");
        let other = object("u1", "n1", "admin", "/run/netns/a", "enabled");
        for (now, leads, expected) in [
            (&same, Leads::There, Fate::Stays),
            (&same, Leads::Elsewhere, Fate::Moved),
            // A path that is away for a moment moves nobody.
            (&same, Leads::Nowhere, Fate::Stays),
            (&same, Leads::Unknown, Fate::Stays),
            // Another path may lead into the same namespace.
            (&moved, Leads::There, Fate::Stays),
            (&moved, Leads::Nowhere, Fate::Moved),
            (&other, Leads::There, Fate::Replaced),
            (&other, Leads::Elsewhere, Fate::Moved),
        ] {
            assert_eq!(of(Some(now), Some(now), leads), expected, "{:?} {leads:?}", now.netns);
        }
    }
}
