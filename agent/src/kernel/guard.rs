//! A pod's guard: the sk_lookup program in its namespace.

use super::links::{self, Link, Place, Program};
use super::{Kernel, KernelError, Pins, PodCapture, program, shares};
use aya_obj::generated::bpf_attach_type;
use std::os::fd::BorrowedFd;
use std::path::Path;

const PREFIX: &str = "guard_";

/// Whether plaintext gets in on addresses of a pod that the mesh does not know: link-local ones, further interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    Pass,
    Refuse,
}

impl Unknown {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Pass => "guard_open",
            Self::Refuse => "guard_closed",
        }
    }
}

impl Kernel {
    /// Puts the guard into a pod's namespace, or mends it. Says what was wrong with the one that was there.
    pub fn guard(
        &mut self,
        cookie: u64,
        netns: BorrowedFd,
        unknown: Unknown,
    ) -> Result<Option<&'static str>, KernelError> {
        let program = program(&self.ebpf, unknown.program())?;
        let place = Place::Netns(netns, cookie);
        if let Some((link, was)) = self.guards.get_mut(&cookie) {
            let is_changed = std::mem::replace(was, unknown) != unknown;
            return Ok(link.mend(&program, &place)?.filter(|_| !is_changed));
        }
        let (link, _) =
            Link::establish(&self.pins, &pin(cookie), &program, bpf_attach_type::BPF_SK_LOOKUP, &place)?;
        self.guards.insert(cookie, (link, unknown));
        Ok(None)
    }

    /// Guards a pod that is not served, or changes what plaintext it takes meanwhile. What it opens is another matter
    /// ([`Kernel::refuse`]). What an earlier agent has left of a pod that it captured, or led direct connections of, stays.
    pub fn guard_unserved(
        &mut self,
        cookie: u64,
        netns: BorrowedFd,
        pod: &PodCapture,
        unknown: Unknown,
    ) -> Result<(), KernelError> {
        if !self.tables.has_pod(cookie)? && self.local.devices_of(cookie)?.is_empty() {
            self.write_local(cookie, &shares::within(pod))?;
        }
        self.guard(cookie, netns, unknown).map(drop)
    }

    /// Takes the guard away: plaintext gets in again.
    pub(super) fn unguard(&mut self, cookie: u64) -> Result<(), KernelError> {
        match self.guards.remove(&cookie) {
            Some((link, _)) => link.remove().map_err(|source| KernelError::Link {
                program: "guard",
                action: "removed",
                source,
            }),
            None => links::remove_named(&self.pins, &pin(cookie)),
        }
    }
}

/// Has the guards of another layout, whose tables are about to go, let nothing in: what their pods take is not known before they are captured anew.
pub fn close(layout: &Path, pins: &Pins, closed: &Program) -> Result<(), KernelError> {
    links::take_over(layout, pins, PREFIX, closed)
}

fn pin(cookie: u64) -> String {
    format!("{PREFIX}{cookie}")
}

/// The name of a guard's pin.
pub fn pinned_as(cookie: u64) -> String {
    links::pin_name(&pin(cookie))
}
