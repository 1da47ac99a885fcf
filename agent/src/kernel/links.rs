//! The hooks' links at the cgroup root: attached once, pinned, taken over by the next agent.

use super::cgroup::Cgroup;
use super::pins::Pins;
use super::{KernelError, sys};
use aya_obj::generated::bpf_attach_type;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// One place in the kernel that runs one of our programs.
pub struct Hook {
    /// What the hook is called, and its pin `link_<name>`.
    pub name: &'static str,
    pub program: &'static str,
    attach_type: bpf_attach_type,
}

/// In the order of attachment: what redirects comes last, when all that makes sense of it is there.
pub const HOOKS: [Hook; 5] = [
    Hook { name: "sockops", program: "sock_ops", attach_type: bpf_attach_type::BPF_CGROUP_SOCK_OPS },
    Hook {
        name: "getpeername4",
        program: "getpeername4",
        attach_type: bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
    },
    Hook {
        name: "getpeername6",
        program: "getpeername6",
        attach_type: bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
    },
    Hook { name: "connect4", program: "connect4", attach_type: bpf_attach_type::BPF_CGROUP_INET4_CONNECT },
    Hook { name: "connect6", program: "connect6", attach_type: bpf_attach_type::BPF_CGROUP_INET6_CONNECT },
];

const PREFIX: &str = "link_";

/// A loaded program.
pub struct Program<'a> {
    pub fd: BorrowedFd<'a>,
    pub id: u32,
}

/// A hook's link. Its descriptor is held as well as its pin: a removed pin detaches nothing.
pub struct Link {
    hook: &'static Hook,
    fd: OwnedFd,
}

impl Link {
    /// Makes the hook run this program here: takes a pinned link over by swapping the program behind it, or
    /// attaches a new one.
    pub fn establish(
        hook: &'static Hook,
        program: &Program,
        cgroup: &Cgroup,
        pins: &Pins,
    ) -> Result<Self, KernelError> {
        let path = pins.path(&pin_name(hook));
        match sys::open_pin(&path) {
            Ok(fd) => {
                let mut link = Self { hook, fd };
                link.mend(program, cgroup, pins)?;
                Ok(link)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::attach(hook, program, cgroup, &path)
            }
            Err(source) => Err(KernelError::Link { hook: hook.name, action: "opened", source }),
        }
    }

    /// Puts right what is not: attached at this cgroup, running this program, pinned. Says what was wrong.
    pub fn mend(
        &mut self,
        program: &Program,
        cgroup: &Cgroup,
        pins: &Pins,
    ) -> Result<Option<&'static str>, KernelError> {
        let hook = self.hook;
        let failed = |action| move |source| KernelError::Link { hook: hook.name, action, source };
        let info = sys::link_info(self.fd.as_fd()).map_err(failed("asked about"))?;
        let path = pins.path(&pin_name(self.hook));
        if info.cgroup_id != cgroup.id() {
            detach(&path);
            remove(&path).map_err(failed("unpinned"))?;
            *self = Self::attach(hook, program, cgroup, &path)?;
            return Ok(Some(if info.cgroup_id == 0 { "was detached" } else { "was at another cgroup" }));
        }
        let is_ours = info.program_id == program.id;
        if !is_ours {
            sys::link_update(self.fd.as_fd(), program.fd).map_err(failed("given its program"))?;
        }
        let is_pinned = path.exists();
        if !is_pinned {
            sys::pin(self.fd.as_fd(), &path).map_err(failed("pinned"))?;
        }
        Ok(match (is_ours, is_pinned) {
            (true, true) => None,
            (true, false) => Some("was not pinned"),
            (false, _) => Some("ran another program"),
        })
    }

    pub fn hook(&self) -> &'static Hook {
        self.hook
    }

    fn attach(
        hook: &'static Hook,
        program: &Program,
        cgroup: &Cgroup,
        pin: &Path,
    ) -> Result<Self, KernelError> {
        let fd = sys::link_create(program.fd, cgroup.as_fd(), hook.attach_type).map_err(|source| {
            KernelError::Attach { hook: hook.name, cgroup: cgroup.path().to_owned(), source }
        })?;
        sys::pin(fd.as_fd(), pin).map_err(|source| KernelError::Link {
            hook: hook.name,
            action: "pinned",
            source,
        })?;
        Ok(Self { hook, fd })
    }
}

/// Detaches a pinned link, also when another process holds it. What cannot be detached is none, or gone.
pub fn detach(pin: &Path) {
    if let Ok(link) = sys::open_pin(pin) {
        let _ = sys::link_detach(link.as_fd());
    }
}

pub fn is_link(pin: &str) -> bool {
    pin.starts_with(PREFIX)
}

/// Sorts pins for removal: links against the order of attachment, then what is no link.
pub fn removal_order(pin: &str) -> usize {
    let position = HOOKS.iter().rev().position(|hook| pin == pin_name(hook));
    position.unwrap_or(if is_link(pin) { 0 } else { HOOKS.len() })
}

fn pin_name(hook: &Hook) -> String {
    format!("{PREFIX}{}", hook.name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
