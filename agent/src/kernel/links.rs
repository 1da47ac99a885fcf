//! Links: programs attached once, pinned, and taken over by the next agent.

use super::KernelError;
use super::cgroup::Cgroup;
use super::pins::{self, Pins};
use super::sys::{self, LinkTarget};
use aya_obj::generated::bpf_attach_type;
use nix::sys::stat::fstat;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// One place at the cgroup root that runs one of our programs.
pub struct Hook {
    /// What the hook is called, and its pin `link_<name>`.
    pub name: &'static str,
    pub program: &'static str,
    attach_type: bpf_attach_type,
}

/// In the order of attachment: what redirects comes last, when all that makes sense of it is there.
pub const HOOKS: [Hook; 7] = [
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
    Hook {
        name: "getsockname4",
        program: "getsockname4",
        attach_type: bpf_attach_type::BPF_CGROUP_INET4_GETSOCKNAME,
    },
    Hook {
        name: "getsockname6",
        program: "getsockname6",
        attach_type: bpf_attach_type::BPF_CGROUP_INET6_GETSOCKNAME,
    },
    Hook { name: "connect4", program: "connect4", attach_type: bpf_attach_type::BPF_CGROUP_INET4_CONNECT },
    Hook { name: "connect6", program: "connect6", attach_type: bpf_attach_type::BPF_CGROUP_INET6_CONNECT },
];

const PREFIX: &str = "link_";

/// A loaded program.
pub struct Program<'a> {
    pub name: &'static str,
    pub fd: BorrowedFd<'a>,
    pub id: u32,
}

/// What a program is to be attached to.
pub enum Place<'a> {
    Cgroup(&'a Cgroup),
    /// A network namespace, by an open file of it, and the pod's cookie for it.
    Netns(BorrowedFd<'a>, u64),
    /// The index of a network device of the node.
    Device(u32),
}

/// A link. Its descriptor is held as well as its pin: a removed pin detaches nothing.
pub struct Link {
    fd: OwnedFd,
    pin: PathBuf,
    attach_type: bpf_attach_type,
}

impl Hook {
    /// Makes the hook run this program: takes a pinned link over, or attaches a new one.
    pub fn establish(&self, program: &Program, cgroup: &Cgroup, pins: &Pins) -> Result<Link, KernelError> {
        let (link, _) = Link::establish(pins, self.name, program, self.attach_type, &Place::Cgroup(cgroup))?;
        Ok(link)
    }
}

impl Link {
    /// Makes the place run this program: takes a pinned link over by swapping the program behind it, or attaches a new
    /// one. Says what was wrong with a pinned one.
    pub fn establish(
        pins: &Pins,
        name: &str,
        program: &Program,
        attach_type: bpf_attach_type,
        place: &Place,
    ) -> Result<(Self, Option<&'static str>), KernelError> {
        let pin = pins.path(&pin_name(name));
        match sys::open_pin(&pin) {
            Ok(fd) => {
                let mut link = Self { fd, pin, attach_type };
                let wrong = link.mend(program, place)?;
                Ok((link, wrong))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((Self::attach(pin, program, attach_type, place)?, None))
            }
            Err(source) => Err(KernelError::Link { program: program.name, action: "opened", source }),
        }
    }

    /// Puts right what is not: attached at this place, running this program, pinned. Says what was wrong.
    pub fn mend(&mut self, program: &Program, place: &Place) -> Result<Option<&'static str>, KernelError> {
        let failed = |action| move |source| KernelError::Link { program: program.name, action, source };
        let info = sys::link_info(self.fd.as_fd()).map_err(failed("asked about"))?;
        if info.target != place.id().map_err(failed("compared with its place"))? {
            self.remove().map_err(failed("unpinned"))?;
            *self = Self::attach(self.pin.clone(), program, self.attach_type, place)?;
            return Ok(Some(if info.target == 0 { "was detached" } else { "was attached elsewhere" }));
        }
        let is_ours = info.program_id == program.id;
        if !is_ours {
            sys::link_update(self.fd.as_fd(), program.fd).map_err(failed("given its program"))?;
        }
        let is_pinned = self.pin.exists();
        if !is_pinned {
            sys::pin(self.fd.as_fd(), &self.pin).map_err(failed("pinned"))?;
        }
        Ok(match (is_ours, is_pinned) {
            (true, true) => None,
            (true, false) => Some("was not pinned"),
            (false, _) => Some("ran another program"),
        })
    }

    /// What the kernel says of it.
    pub fn info(&self) -> io::Result<sys::LinkInfo> {
        sys::link_info(self.fd.as_fd())
    }

    /// Detaches the program, whoever else holds the link, and removes the pin.
    pub fn remove(&self) -> io::Result<()> {
        // What cannot be detached is gone with its place.
        let _ = sys::link_detach(self.fd.as_fd());
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn attach(
        pin: PathBuf,
        program: &Program,
        attach_type: bpf_attach_type,
        place: &Place,
    ) -> Result<Self, KernelError> {
        let attached = sys::link_create(program.fd, &place.target(), attach_type);
        let fd = attached.map_err(|source| KernelError::Attach {
            program: program.name,
            place: place.to_string(),
            source,
        })?;
        sys::pin(fd.as_fd(), &pin).map_err(|source| KernelError::Link {
            program: program.name,
            action: "pinned",
            source,
        })?;
        Ok(Self { fd, pin, attach_type })
    }
}

impl Place<'_> {
    fn target(&self) -> LinkTarget<'_> {
        match self {
            Self::Cgroup(cgroup) => LinkTarget::File(cgroup.as_fd()),
            Self::Netns(netns, _) => LinkTarget::File(*netns),
            Self::Device(index) => LinkTarget::Device(*index),
        }
    }

    /// What the kernel calls the place in a link's info.
    fn id(&self) -> io::Result<u64> {
        Ok(match self {
            Self::Cgroup(cgroup) => cgroup.id(),
            // Takes no descriptor: they may be short.
            Self::Netns(netns, _) => fstat(netns)?.st_ino,
            Self::Device(index) => u64::from(*index),
        })
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup(cgroup) => write!(
                f,
                "{0} (another program attached there without BPF_F_ALLOW_MULTI would be the reason: bpftool cgroup \
                 show {0})",
                cgroup.path().display()
            ),
            Self::Netns(_, cookie) => write!(f, "the network namespace with the cookie {cookie}"),
            Self::Device(index) => write!(f, "the network device with the index {index}"),
        }
    }
}

/// The id of the program that a pinned link runs; `None` where there is no such link.
pub fn program_behind(pins: &Pins, name: &str) -> Option<u32> {
    let link = sys::open_pin(&pins.path(&pin_name(name))).ok()?;
    sys::link_info(link.as_fd()).ok().map(|info| info.program_id)
}

/// Takes the links that another layout has under names which begin so over into this one, and makes them run this
/// program. Those whose place is gone stay there.
pub fn take_over(layout: &Path, pins: &Pins, prefix: &str, program: &Program) -> Result<(), KernelError> {
    let failed = |action| move |source| KernelError::Link { program: program.name, action, source };
    for entry in fs::read_dir(layout).map_err(pins::failed(layout, "read"))? {
        let old = entry.map_err(pins::failed(layout, "read"))?;
        let Ok(name) = old.file_name().into_string() else { continue };
        let new = pins.path(&name);
        if !name.starts_with(&pin_name(prefix)) || new.exists() {
            continue;
        }
        let link = sys::open_pin(&old.path()).map_err(failed("opened"))?;
        if sys::link_update(link.as_fd(), program.fd).is_ok() {
            sys::pin(link.as_fd(), &new).map_err(failed("pinned"))?;
            fs::remove_file(old.path()).map_err(pins::failed(&old.path(), "removed"))?;
        }
    }
    Ok(())
}

/// Removes a link of an agent's by its name. There may be none.
pub fn remove_named(pins: &Pins, name: &str) -> Result<(), KernelError> {
    let pin = pins.path(&pin_name(name));
    match remove(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pins::failed(&pin, "removed")(error)),
        _ => Ok(()),
    }
}

/// Removes a pinned link, detached first, also when another process holds it.
pub fn remove(pin: &Path) -> io::Result<()> {
    if let Ok(link) = sys::open_pin(pin) {
        // What cannot be detached is gone with its place.
        let _ = sys::link_detach(link.as_fd());
    }
    fs::remove_file(pin)
}

pub fn is_link(pin: &str) -> bool {
    pin.starts_with(PREFIX)
}

/// Sorts pins for removal: the pods' own links, those of the hooks against the order of attachment, what is no link.
pub fn removal_order(pin: &str) -> usize {
    let hook = HOOKS.iter().rev().position(|hook| pin == pin_name(hook.name));
    match hook {
        Some(position) => position + 1,
        None if is_link(pin) => 0,
        None => HOOKS.len() + 1,
    }
}

pub fn pin_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}
