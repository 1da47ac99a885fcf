//! What the node knows of the container runtime: whether it is there, which pods it has, and who waits for an answer.

use super::handover::Handover;
use super::sandboxes::Sandboxes;
use crate::cli::Run;
use crate::mesh::{Mesh, Workload};
use crate::nri::{Installation, Passes};
use crate::sandbox::{Answer, Call, Question};
use crate::{cri, nri};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

pub struct Runtime {
    pub link: Link,
    /// How it is asked, for people.
    by: Option<&'static str>,
    /// Whether it is known which pods there are: until then nobody may say of an entry in the kernel that it is nobody's.
    pub is_known: bool,
    /// Whether the agent before this one has said which pods it had.
    has_inherited: bool,
    pub sandboxes: Sandboxes,
    /// None where the runtime is not asked.
    handover: Option<Handover>,
    /// Why a successor would not know the sandboxes, if so.
    unwritten: Option<String>,
    pub waiting: Vec<Waiting>,
    /// Where the runtime asks; a pass is of no use elsewhere.
    passes: Option<Passes>,
    /// Whether a sandbox has a pass, as far as this agent has decided it.
    passed: BTreeMap<String, bool>,
    installation: Option<Installation>,
    /// As they are written down for the plugin that holds.
    namespaces: Option<BTreeSet<String>>,
}

pub enum Link {
    /// The runtime is not asked: manifests say where namespaces are.
    Off,
    /// It is not there at the moment. Why.
    Away(String),
    /// Its name.
    There(String),
}

/// Keeps up the connection to the runtime while it lives.
#[derive(Default)]
pub struct Connection {
    _nri: Option<nri::Client>,
    _cri: Option<cri::Client>,
}

/// Connects to the runtime, in the way that was chosen, if any.
pub fn connect(config: &Run) -> (Connection, Option<mpsc::Receiver<Call>>) {
    match (&config.nri.socket, &config.cri.socket) {
        (Some(socket), _) => {
            let (client, calls) = nri::Client::start(socket.clone());
            (Connection { _nri: Some(client), ..Connection::default() }, Some(calls))
        }
        (None, Some(socket)) => {
            let (client, calls) = cri::Client::start(socket.clone());
            (Connection { _cri: Some(client), ..Connection::default() }, Some(calls))
        }
        (None, None) => (Connection::default(), None),
    }
}

/// The runtime waits.
pub struct Waiting {
    pub question: Question,
    pub asked: Instant,
    pub deadline: Instant,
    pub answer: Answer,
}

impl Runtime {
    pub fn new(config: &Run) -> Self {
        let (nri, cri) = (&config.nri, &config.cri);
        let link = match nri.socket.as_ref().or(cri.socket.as_ref()) {
            Some(socket) => Link::Away(format!("its socket {} was not tried yet", socket.display())),
            None => Link::Off,
        };
        let is_known = matches!(link, Link::Off);
        let mut handover = (!is_known).then(|| Handover::at(&config.state_dir));
        let mut sandboxes = Sandboxes::default();
        let inherited = handover.as_mut().and_then(Handover::read);
        sandboxes.replace(inherited.unwrap_or_default());
        Self {
            is_known,
            has_inherited: inherited.is_some(),
            link,
            by: match (&nri.socket, &cri.socket) {
                (Some(_), _) => Some("nri"),
                (None, Some(_)) => Some("cri, best effort"),
                (None, None) => None,
            },
            sandboxes,
            handover,
            unwritten: None,
            waiting: Vec::new(),
            passes: nri.socket.is_some().then(|| Passes::at(&nri.pass_dir)),
            passed: BTreeMap::new(),
            installation: Installation::of(nri),
            namespaces: None,
        }
    }

    /// The pod as it is on this node; none while it is not there yet. Without a runtime the object says it all.
    pub fn place(&self, workload: &Arc<Workload>) -> Option<Arc<Workload>> {
        let said = || (matches!(self.link, Link::Off) || workload.netns.is_some()).then(|| workload.clone());
        self.sandboxes.place(workload).or_else(said)
    }

    /// Whether all pods are known that an earlier agent may have captured.
    pub fn knows_captured(&self) -> bool {
        self.is_known || self.has_inherited
    }

    /// Has a successor know the sandboxes as they are now.
    pub fn hand_over(&mut self) {
        let sandboxes = self.sandboxes.all();
        let written = self.handover.as_mut().map(|handover| handover.write(sandboxes));
        let failed = written.and_then(Result::err);
        let failed =
            failed.map(|e| format!("--state-dir: a restarted agent would not know these pods at once: {e}"));
        if let Some(reason) = failed.as_ref().filter(|reason| self.unwritten.as_ref() != Some(*reason)) {
            tracing::error!("{reason}; each audit tries again");
        }
        self.unwritten = failed;
    }

    /// Why a successor would not know the sandboxes, if so.
    pub fn unwritten(&self) -> Option<&str> {
        self.unwritten.as_deref()
    }

    /// For `/healthz/ready`.
    pub fn waits_for(&self) -> Option<String> {
        match &self.link {
            Link::There(_) if !self.is_known => {
                let why =
                    "which pods it has: containerd waits with that for containers that are being stopped";
                Some(format!("the container runtime, to say {why}"))
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
        json!({"state": state, "by": self.by, "detail": detail, "sandboxes": self.sandboxes.all().count()})
    }

    /// When somebody who waits has to be answered.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }

    /// Has the plugin that holds know which namespaces' pods are to be in the mesh.
    pub fn remember(&mut self, mesh: &Mesh) {
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
    pub fn set_pass(&mut self, id: &str, may_start: bool) {
        let Some(passes) = self.passes.as_ref().filter(|_| self.passed.get(id) != Some(&may_start)) else {
            return;
        };
        match if may_start { passes.give(id) } else { passes.take(id) } {
            Ok(()) => drop(self.passed.insert(id.to_owned(), may_start)),
            Err(e) => {
                tracing::error!(sandbox = id, "its pass cannot be written; the next event tries again: {e}")
            }
        }
    }

    pub fn forget_pass(&mut self, id: &str) {
        self.passed.remove(id);
        if let Some(Err(e)) = self.passes.as_ref().map(|passes| passes.take(id)) {
            tracing::error!(sandbox = id, "its pass cannot be removed: {e}");
        }
    }

    /// Takes the passes of sandboxes that ended while nobody was told.
    pub fn forget_others(&mut self) {
        let Some(passes) = &self.passes else { return };
        let there: BTreeSet<&str> = self.sandboxes.all().map(|sandbox| sandbox.id.as_str()).collect();
        let all = passes.all().unwrap_or_else(|e| {
            tracing::error!("passes of sandboxes that are gone stay until the runtime starts anew: {e}");
            BTreeSet::new()
        });
        let others: Vec<String> = all.into_iter().filter(|id| !there.contains(id.as_str())).collect();
        others.iter().for_each(|id| self.forget_pass(id));
    }
}
