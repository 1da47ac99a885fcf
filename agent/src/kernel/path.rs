//! A pod's path: the tc programs at the node's end of its veth. Without them its connections are never direct.

use super::device::{self, FILTER_PRIORITY, NoPath, PodDevice};
use super::links::{self, Link, Place};
use super::{Kernel, KernelError, preflight, program};
use crate::decide::NotDirect;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{Link as _, SchedClassifier, TcAttachType};
use aya_obj::generated::bpf_attach_type;
use nix::net::if_::{if_indextoname, if_nameindex};
use std::mem;
use std::os::fd::BorrowedFd;

const HANDLE: TcHandle = TcHandle::new(0, 1);

/// The two programs, in the order of attachment: what forged packets are dropped by comes first.
const SIDES: [Side; 2] = [
    Side { program: "to_pod", tcx: bpf_attach_type::BPF_TCX_EGRESS, clsact: TcAttachType::Egress },
    Side { program: "from_pod", tcx: bpf_attach_type::BPF_TCX_INGRESS, clsact: TcAttachType::Ingress },
];

struct Side {
    program: &'static str,
    tcx: bpf_attach_type,
    clsact: TcAttachType,
}

/// How programs are attached to network devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficControl {
    /// Links of their own, beside other programs' (Linux 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl TrafficControl {
    /// The better one that this kernel has.
    pub fn of_this_kernel() -> Self {
        if preflight::has_tcx() { Self::Tcx } else { Self::Clsact }
    }
}

/// What is attached to the node's end of a pod's veth.
pub struct Path {
    pub device: PodDevice,
    /// None with clsact.
    links: Vec<Link>,
}

/// Why a path is not there.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error(transparent)]
    NoPath(#[from] NoPath),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl From<PathError> for NotDirect {
    fn from(error: PathError) -> Self {
        match error {
            PathError::NoPath(NoPath::Veth(why)) => Self::NoVeth { why },
            PathError::NoPath(NoPath::Program(program)) => Self::ForeignProgram { program },
            PathError::NoPath(NoPath::FurtherDevice(device)) => Self::FurtherDevice { device },
            PathError::NoPath(NoPath::Shaped(qdisc)) => Self::Shaped { qdisc },
            PathError::Kernel(e) => Self::NoGuard { why: e.to_string() },
        }
    }
}

impl Kernel {
    /// Attaches the programs to the node's end of a pod's veth, or mends them, and registers the device. Says what was
    /// wrong with those that were there.
    pub fn own_path(
        &mut self,
        cookie: u64,
        netns: BorrowedFd,
        device: PodDevice,
    ) -> Result<Option<&'static str>, PathError> {
        device::check(device, netns, &self.own_programs(cookie)?)?;
        let index = device.peer;
        let mut wrong = None;
        if self.traffic_control == TrafficControl::Clsact {
            wrong = self.attach_filters(index)?;
            self.paths.insert(cookie, Path { device, links: vec![] });
            return Ok(wrong);
        }
        let place = Place::Device(index);
        if let Some(path) = self.paths.get_mut(&cookie).filter(|path| path.device == device) {
            for (link, side) in path.links.iter_mut().zip(&SIDES) {
                wrong = link.mend(&program(&self.ebpf, side.program)?, &place)?.or(wrong);
            }
            return Ok(wrong);
        }
        let mut links = Vec::new();
        for side in &SIDES {
            let program = program(&self.ebpf, side.program)?;
            let (link, found) =
                Link::establish(&self.pins, &pin(side.program, cookie), &program, side.tcx, &place)?;
            links.push(link);
            wrong = found.or(wrong);
        }
        self.paths.insert(cookie, Path { device, links });
        Ok(wrong)
    }

    /// Takes the programs off again. The device may be gone already.
    pub(super) fn disown_path(&mut self, cookie: u64) -> Result<(), KernelError> {
        let path = self.paths.remove(&cookie);
        if self.traffic_control == TrafficControl::Clsact {
            // By the table: an earlier agent may have attached them.
            let registered = self.local.devices_of(cookie)?;
            let attached = path.map(|path| path.device.peer);
            registered.into_iter().chain(attached).filter_map(name).for_each(|name| detach_filters(&name));
        }
        for side in &SIDES {
            links::remove_named(&self.pins, &pin(side.program, cookie))?;
        }
        Ok(())
    }

    /// The ids of this agent's programs, and of those that an earlier one has left at the pod's veth.
    fn own_programs(&self, cookie: u64) -> Result<Vec<u32>, KernelError> {
        let mut ids = Vec::new();
        for side in &SIDES {
            ids.push(program(&self.ebpf, side.program)?.id);
            ids.extend(links::program_behind(&self.pins, &pin(side.program, cookie)));
        }
        Ok(ids)
    }

    fn attach_filters(&mut self, index: u32) -> Result<Option<&'static str>, KernelError> {
        let Some(name) = name(index) else { return Ok(None) };
        // There may be one already, of ours or of others.
        let _ = qdisc_add_clsact(&name);
        for side in &SIDES {
            let failed = |source| KernelError::Program { program: side.program, source: Box::new(source) };
            let classifier: &mut SchedClassifier = self
                .ebpf
                .program_mut(side.program)
                .ok_or(KernelError::Incomplete { what: "program", name: side.program })?
                .try_into()
                .map_err(failed)?;
            let there = SchedClassifierLink::attached(&name, side.clsact, FILTER_PRIORITY, HANDLE, None);
            let replaced = there.ok().map(|there| classifier.attach_to_link(there));
            let link = match replaced {
                Some(Ok(link)) => link,
                _ => {
                    let options = NlOptions { priority: FILTER_PRIORITY, handle: HANDLE, classid: None };
                    let options = TcAttachOptions::Netlink(options);
                    classifier.attach_with_options(&name, side.clsact, options).map_err(failed)?
                }
            };
            // It outlives this agent: dropping it would detach it.
            mem::forget(classifier.take_link(link).map_err(failed)?);
        }
        Ok(None)
    }
}

/// Takes our filters off all devices of the calling thread's network namespace: they have no pins to be found by.
pub fn detach_all_filters() -> Result<(), KernelError> {
    let devices = if_nameindex().map_err(|e| KernelError::Netlink(e.into()))?;
    devices.iter().filter_map(|device| device.name().to_str().ok()).for_each(detach_filters);
    Ok(())
}

/// What is not there, or went with its device, is what is wanted.
fn detach_filters(device: &str) {
    for side in &SIDES {
        if let Ok(link) = SchedClassifierLink::attached(device, side.clsact, FILTER_PRIORITY, HANDLE, None) {
            let _ = link.detach();
        }
    }
}

fn name(index: u32) -> Option<String> {
    if_indextoname(index).ok()?.into_string().ok()
}

fn pin(program: &str, cookie: u64) -> String {
    format!("{program}_{cookie}")
}
