//! The node's part with the container runtime: pods are captured when it says that their network is there, and it hears
//! whether their containers may start.

use super::pod::{Pod, State};
use super::runtime::{Link, Waiting};
use super::standing::{self, Standing};
use super::supervisor::Supervisor;
use crate::kernel;
use crate::mesh::Mesh;
use crate::sandbox::{Call, Sandbox};
use std::time::Instant;

impl Supervisor {
    pub fn on_call(&mut self, call: Call) {
        match call {
            Call::Connected { runtime } => self.runtime.link = Link::There(runtime),
            Call::Lost(why) => {
                self.runtime.link = Link::Away(why);
                self.runtime.waiting.clear();
            }
            Call::All(mut sandboxes) => {
                sandboxes.iter_mut().for_each(complete);
                tracing::info!(sandboxes = sandboxes.len(), "the container runtime said which pods it has");
                self.runtime.sandboxes.replace(&sandboxes);
                self.runtime.is_known = true;
                self.runtime.forget_others();
                self.reconcile();
            }
            Call::Found(mut sandbox) => {
                complete(&mut sandbox);
                if self.runtime.sandboxes.put(&sandbox) {
                    self.reconcile();
                }
            }
            Call::Gone(id) => {
                if self.runtime.sandboxes.remove(&id) {
                    self.reconcile();
                }
                self.runtime.forget_pass(&id);
            }
            Call::Asked { mut question, deadline, answer } => {
                complete(question.sandbox_mut());
                if self.runtime.sandboxes.put(question.sandbox()) {
                    self.reconcile();
                }
                self.runtime.waiting.push(Waiting { question, asked: Instant::now(), deadline, answer });
            }
        }
        self.runtime.hand_over();
    }

    /// Lets containers start whose pods are captured, and answers whoever waits for what is known by now, or cannot wait
    /// any longer. Passes come before answers: both plugins are asked.
    pub fn admit(&mut self) {
        let mesh = self.mesh.borrow().clone();
        self.runtime.remember(&mesh);
        let standings: Vec<(String, Standing)> = self
            .runtime
            .sandboxes
            .all()
            .map(|sandbox| (sandbox.id.clone(), self.standing(&mesh, sandbox)))
            .collect();
        for (id, standing) in &standings {
            match standing {
                Standing::Plain | Standing::Captured => self.runtime.set_pass(id, true),
                Standing::Refused(_) => self.runtime.set_pass(id, false),
                // What a former agent has decided holds.
                Standing::Unknown | Standing::Coming => {}
            }
        }
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.runtime.waiting) {
            let standing = self.standing(&mesh, waiting.question.sandbox());
            match standing::answer(&waiting.question, standing, waiting.deadline <= now) {
                Some(answer) => {
                    if let Err(reason) = &answer {
                        tracing::warn!("a container is refused: {reason}");
                    }
                    let (pod, after) = (&waiting.question.sandbox().pod, waiting.asked.elapsed());
                    tracing::debug!(%pod, ?after, "the container runtime is answered");
                    waiting.answer.give(answer);
                }
                None => self.runtime.waiting.push(waiting),
            }
        }
    }

    fn standing(&self, mesh: &Mesh, sandbox: &Sandbox) -> Standing {
        let Some(object) = mesh.workloads.get(&sandbox.pod).filter(|object| sandbox.is_of(object)) else {
            return standing::without_object(mesh, sandbox);
        };
        // Its object has it on a network of its own, and only the runtime may know better.
        if !object.captured || sandbox.on_host {
            return Standing::Plain;
        }
        if object.node != self.config.node {
            return Standing::Refused(format!(
                "its object says that it is on node {:?}, and this is {:?}",
                object.node, self.config.node
            ));
        }
        let is_there = |pod: &&Pod| sandbox.netns.is_none() || pod.workload.netns == sandbox.netns;
        let here = self.pods.get(&object.name).filter(is_there);
        match here.map(|pod| &pod.state) {
            Some(State::Serving) => Standing::Captured,
            Some(State::Failed { reason, .. }) => Standing::Refused(reason.clone()),
            Some(State::Starting | State::Retiring) | None => Standing::Coming,
        }
    }
}

/// Older runtimes do not say a pod's addresses, and its object does not yet.
fn complete(sandbox: &mut Sandbox) {
    let Some(netns) = sandbox.netns.as_ref().filter(|_| sandbox.addresses.is_empty()) else { return };
    match kernel::addresses_in(netns) {
        Ok(addresses) => sandbox.addresses = addresses,
        Err(e) => {
            tracing::warn!(pod = %sandbox.pod, "its addresses are not known until its object has them: {e}")
        }
    }
}
