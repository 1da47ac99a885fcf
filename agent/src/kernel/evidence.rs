//! What the kernel itself says of a network namespace that an agent has captured: whether it is gone, and whose it is.
//!
//! A pod goes plain when somebody says that it is not to be captured, or when it is gone. That nobody speaks of a pod says
//! neither.

use super::{Kernel, KernelError, Unknown, guard, netns_cookie, sys};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use socket2::{Domain, Socket, Type};
use std::fs::{File, Metadata, OpenOptions, metadata};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;

/// What a pod's guard says of the pod's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetnsLife {
    Alive,
    /// The kernel has taken the guard off. It does so when nothing is left in the namespace and nothing holds it. Somebody
    /// with root may have done so, too: who knows a path that still leads into the namespace knows better.
    Gone,
    /// There is no guard: an agent ended between entering the namespace and guarding it.
    NotGuarded,
}

impl Kernel {
    /// Whether the network namespace with this cookie is gone, by the guard in it.
    pub fn netns_life(&self, cookie: u64) -> Result<NetnsLife, KernelError> {
        let failed = |action| move |source| KernelError::Link { program: "guard", action, source };
        let info = match self.guards.get(&cookie) {
            Some((link, _)) => link.info(),
            None => match sys::open_pin(&self.pins.path(&guard::pinned_as(cookie))) {
                Ok(link) => sys::link_info(link.as_fd()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NetnsLife::NotGuarded),
                Err(source) => return Err(failed("opened")(source)),
            },
        };
        let info = info.map_err(failed("asked about"))?;
        Ok(if info.target == 0 { NetnsLife::Gone } else { NetnsLife::Alive })
    }

    /// Closes a pod that has ended as far as anybody can tell: should anything still be in its network namespace, nothing gets
    /// out of it or in. Its addresses and its veth are free for other pods. Sockets that nobody owns any more keep a namespace
    /// for minutes.
    pub fn close(&mut self, cookie: u64, netns: BorrowedFd) -> Result<(), KernelError> {
        self.refuse(cookie)?;
        // Before the guard finds none of the pod's addresses any more.
        self.guard(cookie, netns, Unknown::Refuse)?;
        self.disown_path(cookie)?;
        self.local.remove_pod(cookie)
    }

    /// Whether the hooks capture or refuse the pod with this cookie. A pod that an agent has released is neither's, though
    /// other tables may still speak of it.
    pub fn is_in_the_mesh(&self, cookie: u64) -> Result<bool, KernelError> {
        Ok(self.tables.has_member(cookie)? || self.tables.has_pod(cookie)?)
    }
}

/// The cookie of the network namespace that a path leads to.
pub fn netns_cookie_at(path: &Path) -> io::Result<u64> {
    netns_at(path).map(|(cookie, _)| cookie)
}

/// Opens the network namespace of a pod that a path leads to. The path is somebody else's word: what is no namespace is not
/// opened, since to open a FIFO or a device may take for ever, and the node's own namespace is no pod's.
///
/// # Errors
/// There is no such file, it is none of a namespace, or it is the namespace of this process or of the machine's first one.
pub fn open_netns(path: &Path) -> io::Result<File> {
    // Opens nothing, and waits for nobody.
    let found = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path)?;
    if fstatfs(&found)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no network namespace"));
    }
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let is_nodes = |own: &str| metadata(own).map(id).ok() == found.metadata().map(id).ok();
    if ["/proc/self/ns/net", "/proc/1/ns/net"].into_iter().any(is_nodes) {
        let why = "it is the network namespace of the node itself, and no pod's";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// The network namespace that a path leads to, opened, and its cookie. Takes a thread for a moment.
pub fn netns_at(path: &Path) -> io::Result<(u64, File)> {
    let netns = open_netns(path)?;
    let visit = move || {
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        Ok((netns_cookie(Socket::new(Domain::IPV4, Type::STREAM, None)?)?, netns))
    };
    let visitor = thread::Builder::new().name("netns-cookie".to_owned()).spawn(visit)?;
    visitor.join().map_err(|_| io::Error::other("the thread that looked panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    // proves: SEC-3, ISO-3
    #[test]
    fn what_is_no_pods_network_namespace_is_not_opened() {
        let fifo = std::env::temp_dir().join(format!("pillion-fifo-{}", std::process::id()));
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        // To open it would wait for a writer.
        let of_fifo = open_netns(&fifo).unwrap_err();
        std::fs::remove_file(&fifo).unwrap();
        assert_eq!(of_fifo.to_string(), "it is no network namespace");
        for path in ["/dev/null", "/proc/version", "/tmp"] {
            assert_eq!(
                open_netns(path.as_ref()).unwrap_err().to_string(),
                "it is no network namespace",
                "{path}"
            );
        }
        assert_eq!(open_netns("/nowhere".as_ref()).unwrap_err().kind(), io::ErrorKind::NotFound);
        for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
            let error = open_netns(path.as_ref()).unwrap_err().to_string();
            assert_eq!(error, "it is the network namespace of the node itself, and no pod's", "{path}");
        }
    }
}
