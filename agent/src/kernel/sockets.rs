//! A worker's view of its sockets: where a captured connection wanted to go, and which sockets are the agent's own.

use super::address::{from_address, to_address};
use super::sys;
use pillion_ebpf_common::{Address, SocketRecord, kind};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// A handle on the socket-local storage. Every worker has its own; dropping it closes a descriptor, nothing else.
#[derive(Debug)]
pub struct SocketTable {
    storage: OwnedFd,
}

/// Where a captured connection wanted to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDestination {
    /// What the app asked for.
    pub asked: SocketAddr,
    /// The endpoint that the connect hook has chosen, where the app asked for a Service.
    pub chosen: Option<SocketAddr>,
}

impl SocketTable {
    /// `storage` is a socket-local storage map of [`SocketRecord`]s.
    pub(super) fn new(storage: OwnedFd) -> Self {
        Self { storage }
    }

    /// Where the app's connect() wanted to go, for a socket accepted on the outbound port. None when nothing was
    /// handed over: somebody connected to the port by itself, and there is nowhere to go.
    pub fn original_destination(&self, socket: impl AsFd) -> Option<OriginalDestination> {
        let record: SocketRecord = sys::storage_get(self.storage.as_fd(), socket.as_fd()).ok()?;
        let chosen = (record.target.port != 0).then(|| from_address(&record.target));
        (record.kind == kind::ACCEPTED)
            .then(|| OriginalDestination { asked: from_address(&record.address), chosen })
    }

    /// Marks a socket as the agent's own, before its connect(): the hooks leave it alone. With `present`, an app in
    /// this pod that the socket connects to sees that address as its peer.
    pub fn tag(&self, socket: impl AsFd, present: Option<SocketAddr>) -> io::Result<()> {
        let address = present.map_or(Address::default(), to_address);
        let record = SocketRecord { kind: kind::AGENT, address, ..SocketRecord::default() };
        sys::storage_set(self.storage.as_fd(), socket.as_fd(), &record)
    }
}
