//! What an audit finds, and what it waits for.

use crate::kernel::{FlowEnd, KernelError, Leftovers};
use crate::mesh::PodName;
use crate::worker::Inspection;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;

/// One audit's findings, all mended unless an error says otherwise.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    pub repairs: Vec<Finding>,
    /// What could not be compared or mended; the next audit tries again.
    pub errors: Vec<String>,
    /// Those of `errors` that concern the kernel's side.
    #[serde(skip)]
    pub in_kernel: Vec<String>,
    /// Pods that are in the mesh and have no worker now, with the reason.
    pub failed: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    /// The label of `pillion_audit_repairs_total`.
    pub what: &'static str,
    pub detail: String,
}

/// An audit whose last part has come: what others than the node core had to be asked.
pub struct Answers {
    pub findings: Findings,
    /// `Err` of a worker that does not answer.
    pub inspections: Vec<(PodName, Result<Option<Inspection>, Elapsed>)>,
    pub found: Option<Result<Found, KernelError>>,
    /// Who has asked for the audit.
    pub reply: Option<oneshot::Sender<Value>>,
}

/// What the shared tables hold that may be over.
pub struct Found {
    pub leftovers: Leftovers,
    /// Ends of connections of pods that have a worker.
    pub ends: Vec<FlowEnd>,
}

impl Findings {
    pub(super) fn kernel_error(&mut self, error: String) {
        self.in_kernel.push(error.clone());
        self.errors.push(error);
    }

    pub(super) fn add(&mut self, pod: &PodName, inspection: Inspection) {
        for repair in inspection.listeners {
            let detail = format!("pod {pod}, listener {}", repair.address);
            match repair.error {
                None => self.repairs.push(Finding { what: "listener", detail }),
                Some(e) => self.errors.push(format!("{detail}: {e}")),
            }
        }
        if inspection.certificate_expired {
            self.errors.push(format!("pod {pod}: its certificate has expired and could not be renewed"));
        }
    }
}
