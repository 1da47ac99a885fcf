//! The node's part with the container runtime: pods are captured when it says that their network is there, and it hears
//! whether their containers may start.

use super::pod::State;
use super::sandboxes::Sandboxes;
use super::standing::{self, Standing};
use super::supervisor::Supervisor;
use crate::kernel;
use crate::mesh::{Mesh, Workload};
use crate::nri::{Answer, Call, Installation, NriOptions, Passes, Question, Sandbox};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// What the node knows of the runtime and by it.
pub struct Runtime {
    link: Link,
    /// Whether it has said which pods there are, since this agent began.
    is_known: bool,
    sandboxes: Sandboxes,
    waiting: Vec<Waiting>,
    passes: Passes,
    /// Whether a sandbox has a pass, as far as this agent has decided it.
    passed: BTreeMap<String, bool>,
    installation: Option<Installation>,
    /// As they are written down for the plugin that holds.
    namespaces: Option<BTreeSet<String>>,
}

enum Link {
    /// The runtime is not asked: manifests say where namespaces are.
    Off,
    /// It is not there at the moment. Why.
    Away(String),
    /// Its name.
    There(String),
}

/// The runtime waits.
struct Waiting {
    question: Question,
    asked: Instant,
    deadline: Instant,
    answer: Answer,
}

impl Runtime {
    pub fn new(options: &NriOptions) -> Self {
        let link = match &options.socket {
            Some(socket) => Link::Away(format!("its socket {} was not tried yet", socket.display())),
            None => Link::Off,
        };
        Self {
            is_known: matches!(link, Link::Off),
            link,
            sandboxes: Sandboxes::default(),
            waiting: Vec::new(),
            passes: Passes::at(&options.pass_dir),
            passed: BTreeMap::new(),
            installation: Installation::of(options),
            namespaces: None,
        }
    }

    /// The pod as it is on this node; none while it is not there yet. Without a runtime the object says it all.
    pub fn place(&self, workload: &Arc<Workload>) -> Option<Arc<Workload>> {
        let said = || (matches!(self.link, Link::Off) || workload.netns.is_some()).then(|| workload.clone());
        self.sandboxes.place(workload).or_else(said)
    }

    /// Whether it is known which pods there are. Until then nobody may say of an entry in the kernel that it is nobody's.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// For `/healthz/ready`.
    pub fn waits_for(&self) -> Option<String> {
        match &self.link {
            Link::There(_) if !self.is_known => {
                Some("the container runtime, to say which pods it has".to_owned())
            }
            Link::Off | Link::There(_) => None,
            Link::Away(why) => Some(format!("the container runtime: {why}")),
        }
    }

    /// For `/config_dump`.
    pub fn report(&self) -> Value {
        let (state, detail) = match &self.link {
            Link::Off => ("off", None),
            Link::Away(why) => ("away", Some(why)),
            Link::There(name) => ("connected", Some(name)),
        };
        json!({"state": state, "detail": detail, "sandboxes": self.sandboxes.all().count()})
    }

    /// When somebody who waits has to be answered.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }

    /// Has the plugin that holds know which namespaces' pods are to be in the mesh.
    fn remember(&mut self, mesh: &Mesh) {
        let Some(installation) = &self.installation else { return };
        if mesh.generation == 0 || self.namespaces.as_ref() == Some(&mesh.captured_namespaces) {
            return;
        }
        self.namespaces = Some(mesh.captured_namespaces.clone());
        if let Err(e) = installation.set_namespaces(&mesh.captured_namespaces) {
            tracing::error!(
                "pods of namespaces that are captured may start plain after a boot; the next change tries again: {e:#}"
            );
        }
    }

    /// Has the plugin that holds know whether a sandbox may have containers.
    fn set_pass(&mut self, id: &str, may_start: bool) {
        if self.passed.get(id) == Some(&may_start) {
            return;
        }
        match if may_start { self.passes.give(id) } else { self.passes.take(id) } {
            Ok(()) => drop(self.passed.insert(id.to_owned(), may_start)),
            Err(e) => {
                tracing::error!(sandbox = id, "its pass cannot be written; the next event tries again: {e}")
            }
        }
    }

    fn forget_pass(&mut self, id: &str) {
        self.passed.remove(id);
        if let Err(e) = self.passes.take(id) {
            tracing::error!(sandbox = id, "its pass cannot be removed: {e}");
        }
    }

    /// Takes the passes of sandboxes that ended while nobody was told.
    fn forget_others(&mut self) {
        let there: BTreeSet<&str> = self.sandboxes.all().map(|sandbox| sandbox.id.as_str()).collect();
        let all = self.passes.all().unwrap_or_else(|e| {
            tracing::error!("passes of sandboxes that are gone stay until the runtime starts anew: {e}");
            BTreeSet::new()
        });
        let others: Vec<String> = all.into_iter().filter(|id| !there.contains(id.as_str())).collect();
        others.iter().for_each(|id| self.forget_pass(id));
    }
}

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
            let opts_in = sandbox.opts_in(mesh.captured_namespaces.contains(&sandbox.pod.namespace));
            return if opts_in { Standing::Unknown } else { Standing::Plain };
        };
        if !object.captured || sandbox.netns.is_none() {
            return Standing::Plain;
        }
        if object.node != self.config.node {
            return Standing::Refused(format!(
                "its object says that it is on node {:?}, and this is {:?}",
                object.node, self.config.node
            ));
        }
        let here = self.pods.get(&object.name).filter(|pod| pod.workload.netns == sandbox.netns);
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
