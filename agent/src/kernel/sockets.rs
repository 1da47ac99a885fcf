//! A worker's view of its sockets: where a captured connection wanted to go, which sockets are the agent's own, and which one takes
//! what peers open.

use super::address::{from_address, to_address};
use super::sys;
use pillion_ebpf_common::{Address, Manner, SocketRecord, kind};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// A handle on what the hooks know of sockets. Every worker has its own; dropping it closes descriptors, nothing else.
#[derive(Debug)]
pub struct SocketTable {
    storage: OwnedFd,
    hbone: OwnedFd,
}

/// What one of the agent's own sockets is for. The hooks leave all of them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// It connects to a peer or to the outside. The other end sees the true address.
    Agent,
    /// It connects to an app of the pod, which sees this address as its peer. Without the kernel's help to show it, the
    /// connection is refused: the app never sees loopback.
    ToApp(SocketAddr),
    /// It is a worker's listener for captured connections. The connect hook sends connections to no other listener on that
    /// port.
    Listener,
}

/// Where a captured connection wanted to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDestination {
    /// What the app asked for.
    pub asked: SocketAddr,
    /// The endpoint that the connect hook has chosen, where the app asked for a Service.
    pub chosen: Option<SocketAddr>,
    /// What the app had set on its socket.
    pub manner: Manner,
}

impl SocketTable {
    /// `storage` is a socket-local storage map of [`SocketRecord`]s, `hbone` the map of listeners by netns cookie.
    pub(super) fn new(storage: OwnedFd, hbone: OwnedFd) -> Self {
        Self { storage, hbone }
    }

    /// Has the guard of the socket's pod lead what comes to the port of the workers to this socket, which listens, until it
    /// closes. To no other one, and while there is none nothing gets in there.
    pub fn take_peers(&self, listener: impl AsFd) -> io::Result<()> {
        let listener = listener.as_fd();
        sys::socket_set(self.hbone.as_fd(), sys::netns_cookie(listener)?, listener)
    }

    /// Where the app's connect() wanted to go, for a socket accepted on the outbound port. None when nothing was
    /// handed over: somebody connected to the port by itself, and there is nowhere to go.
    pub fn original_destination(&self, socket: impl AsFd) -> Option<OriginalDestination> {
        let record: SocketRecord = sys::storage_get(self.storage.as_fd(), socket.as_fd()).ok()?;
        let chosen = (record.target.port != 0).then(|| from_address(&record.target));
        (record.kind == kind::ACCEPTED).then(|| OriginalDestination {
            asked: from_address(&record.address),
            chosen,
            manner: record.manner,
        })
    }

    /// Marks a socket as the agent's own, before its connect() or listen().
    pub fn tag(&self, socket: impl AsFd, tag: Tag) -> io::Result<()> {
        let (kind, address) = match tag {
            Tag::Agent => (kind::AGENT, Address::default()),
            Tag::ToApp(presented) => (kind::TO_APP, to_address(presented)),
            Tag::Listener => (kind::WORKER, Address::default()),
        };
        let record = SocketRecord { kind, address, ..SocketRecord::default() };
        sys::storage_set(self.storage.as_fd(), socket.as_fd(), &record)
    }
}
