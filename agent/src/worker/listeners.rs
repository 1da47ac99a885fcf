//! The ports that a worker holds in its pod.

use super::dial::Dialer;
use super::socket::{IN_POD_CONGESTION, tune_app, tune_peer};
use super::{ListenerRepair, OUTBOUND_PORT, WorkerError};
use crate::hbone::HBONE_PORT;
use crate::kernel::{Tag, node_addresses};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::rc::Rc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// One listener and the task that accepts from it.
struct Slot {
    address: SocketAddr,
    listener: Rc<TcpListener>,
    accepting: JoinHandle<()>,
}

/// All listeners of a worker. Dropping them frees the ports.
pub(super) struct Listeners<F> {
    slots: Vec<Slot>,
    wanted: Vec<SocketAddr>,
    congestion: Option<String>,
    /// Has the sockets of captured connections' listeners tagged.
    dialer: Rc<Dialer>,
    /// Starts accepting from a listener.
    accept: F,
}

impl<F: Fn(Rc<TcpListener>, SocketAddr) -> JoinHandle<()>> Listeners<F> {
    pub fn new(congestion: Option<String>, dialer: Rc<Dialer>, accept: F) -> Self {
        Self { slots: vec![], wanted: vec![], congestion, dialer, accept }
    }

    /// Opens all listeners that are not open yet; on an error, none stays open. `own` are the pod's addresses that the mesh knows.
    pub fn open(&mut self, own: &[IpAddr]) -> Result<(), WorkerError> {
        self.wanted = wanted(Families::of_pod(own));
        for address in self.missing() {
            if let Err(e) = self.add(address) {
                self.close();
                return Err(e);
            }
        }
        Ok(())
    }

    /// Frees the ports. Connections that were accepted go on.
    pub fn close(&mut self) {
        self.wanted.clear();
        self.slots.clear();
    }

    /// Opens anew what should listen and does not, after asking again which families the pod has: addresses may come and go, and
    /// IPv6 may be switched on. `own` are the addresses that the mesh knows. Does nothing once the ports are freed.
    pub fn repair(&mut self, own: &[IpAddr]) -> Vec<ListenerRepair> {
        if self.wanted.is_empty() {
            return Vec::new();
        }
        let mut families = Families::of_pod(own);
        // The listener for peers of both families goes on where IPv6 is switched off: it takes IPv4, too.
        families.is_ipv6_on |= self.wanted.contains(&PEERS6);
        self.wanted = wanted(families);
        // A dead socket still holds its port, and so does one for IPv4 alone where one for both families is wanted.
        self.slots.retain(|slot| is_listening(&slot.listener) && self.wanted.contains(&slot.address));
        let missing = self.missing();
        let mend = |address| {
            let error = self.add(address).err().map(|e| e.to_string());
            ListenerRepair { address, error }
        };
        missing.into_iter().map(mend).collect()
    }

    /// By port: whether all its listeners listen.
    pub fn state(&self) -> BTreeMap<u16, bool> {
        let listens = |port: u16| {
            let mut wanted = self.wanted.iter().filter(|address| address.port() == port).peekable();
            wanted.peek().is_some() && wanted.all(|address| self.listens(*address))
        };
        [OUTBOUND_PORT, HBONE_PORT].map(|port| (port, listens(port))).into()
    }

    fn missing(&self) -> Vec<SocketAddr> {
        self.wanted.iter().copied().filter(|address| !self.listens(*address)).collect()
    }

    fn listens(&self, address: SocketAddr) -> bool {
        self.slots.iter().any(|slot| slot.address == address && is_listening(&slot.listener))
    }

    fn add(&mut self, address: SocketAddr) -> Result<(), WorkerError> {
        let congestion = match address.port() {
            HBONE_PORT => self.congestion.as_deref(),
            _ => Some(IN_POD_CONGESTION),
        };
        let listener = Rc::new(listen(address, congestion)?);
        // From now on hook and guard believe in this worker. They never do in another process's listener, which may have had
        // the port while no worker ran.
        let sockets = &self.dialer.sockets;
        let told = match address.port() {
            HBONE_PORT => sockets.take_peers(&*listener),
            _ => sockets.tag(&*listener, Tag::Listener),
        };
        told.map_err(|source| WorkerError::Listen { address, source })?;
        let accepting = (self.accept)(listener.clone(), address);
        self.slots.push(Slot { address, listener, accepting });
        Ok(())
    }
}

/// The listeners for peers: of IPv4 alone, and of both families.
const PEERS4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), HBONE_PORT);
const PEERS6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), HBONE_PORT);

/// The listeners for captured connections.
const OUTBOUND4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), OUTBOUND_PORT);
/// At every address: the hook sends IPv6 connections to the pod's own, which another pod can reach, too; without an original
/// destination they are reset. (Why not to ::1: `listener6` of the hook.)
const OUTBOUND6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), OUTBOUND_PORT);

fn wanted(families: Families) -> Vec<SocketAddr> {
    let Families { ipv4, ipv6, is_ipv6_on } = families;
    let listeners =
        [(ipv4, OUTBOUND4), (ipv6 && is_ipv6_on, OUTBOUND6), (!is_ipv6_on, PEERS4), (is_ipv6_on, PEERS6)];
    listeners.into_iter().filter_map(|(is_wanted, address)| is_wanted.then_some(address)).collect()
}

/// The address families that a pod's connections can go out by. The hook sends none of another family to its worker: such a
/// connect() fails as it does without a mesh (ENETUNREACH), and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Families {
    ipv4: bool,
    ipv6: bool,
    /// Whether the namespace has IPv6 at all; where it is switched off there are no sockets for it.
    is_ipv6_on: bool,
}

impl Families {
    /// Of the calling thread's network namespace. `own` are the pod's addresses that the mesh knows.
    fn of_pod(own: &[IpAddr]) -> Self {
        let is_ipv6_on = ipv6_is_on();
        match node_addresses() {
            Ok(present) => Self::of(own.iter().copied().chain(present), is_ipv6_on),
            // For want of descriptors, for example.
            Err(_) => Self { ipv4: true, ipv6: true, is_ipv6_on },
        }
    }

    /// Of a pod with these addresses. One that has none yet gets them any moment.
    fn of(addresses: impl Iterator<Item = IpAddr>, is_ipv6_on: bool) -> Self {
        let (mut ipv4, mut ipv6) = (false, false);
        for address in addresses {
            match address.to_canonical() {
                IpAddr::V4(_) => ipv4 = true,
                // Every device has a link-local address, which leads nowhere beyond its link.
                IpAddr::V6(ip) => ipv6 |= !ip.is_unicast_link_local(),
            }
        }
        let none = !(ipv4 || ipv6 && is_ipv6_on);
        Self { ipv4: ipv4 || none, ipv6: ipv6 || none, is_ipv6_on }
    }
}

fn ipv6_is_on() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.accepting.abort();
        // The task that accepts holds the listener until the loop comes to it, and with it the port, which another listener of
        // this worker may want now. A socket that does not listen leaves it to others with SO_REUSEADDR.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

fn listen(address: SocketAddr, congestion: Option<&str>) -> Result<TcpListener, WorkerError> {
    let open = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // Connections of an earlier worker may still be in TIME-WAIT.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(address.port() == OUTBOUND_PORT)?;
        }
        if let Some(congestion) = congestion {
            socket.set_tcp_congestion(congestion.as_bytes())?;
        }
        match address.port() {
            OUTBOUND_PORT => tune_app(&socket)?,
            _ => tune_peer(&socket)?,
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => WorkerError::PortTaken { port: address.port() },
        _ => WorkerError::Listen { address, source },
    })
}

fn is_listening(listener: &TcpListener) -> bool {
    SockRef::from(listener).is_listener().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_listens_for_the_families_that_its_pod_has_addresses_of() {
        const LINK: &str = "fe80::1";
        for (addresses, is_ipv6_on, expected) in [
            (&["10.0.0.1", "fd00::1", LINK][..], true, &[OUTBOUND4, OUTBOUND6, PEERS6][..]),
            (&["10.0.0.1", LINK], true, &[OUTBOUND4, PEERS6]),
            (&["::ffff:10.0.0.1", LINK], true, &[OUTBOUND4, PEERS6]),
            (&["fd00::1", LINK], true, &[OUTBOUND6, PEERS6]),
            (&["10.0.0.1", "fd00::1"], false, &[OUTBOUND4, PEERS4]),
            // What the pod has is not there yet, or cannot be used.
            (&[LINK], true, &[OUTBOUND4, OUTBOUND6, PEERS6]),
            (&[], false, &[OUTBOUND4, PEERS4]),
            (&["fd00::1"], false, &[OUTBOUND4, PEERS4]),
        ] {
            let own = addresses.iter().map(|ip| ip.parse().unwrap());
            assert_eq!(wanted(Families::of(own, is_ipv6_on)), expected, "{addresses:?}, {is_ipv6_on}");
        }
    }
}
