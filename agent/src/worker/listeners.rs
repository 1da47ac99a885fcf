//! The ports that a worker holds in its pod.

use super::dial::Dialer;
use super::socket::{IN_POD_CONGESTION, tune_app, tune_peer};
use super::{ListenerRepair, OUTBOUND_PORT, WorkerError};
use crate::hbone::HBONE_PORT;
use crate::kernel::Tag;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
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

    /// Opens all listeners that are not open yet; on an error, none stays open.
    pub fn open(&mut self) -> Result<(), WorkerError> {
        self.wanted = wanted(ipv6_is_on());
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

    /// Opens anew what should listen and does not. IPv6 may have come to the namespace since the listeners were opened: a worker
    /// may enter before the network is laid out.
    pub fn repair(&mut self) -> Vec<ListenerRepair> {
        if self.wanted == wanted(false) && ipv6_is_on() {
            self.wanted = wanted(true);
        }
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

fn wanted(ipv6: bool) -> Vec<SocketAddr> {
    let outbound4 = SocketAddr::from((Ipv4Addr::LOCALHOST, OUTBOUND_PORT));
    if !ipv6 {
        return vec![outbound4, (Ipv4Addr::UNSPECIFIED, HBONE_PORT).into()];
    }
    // The hook sends IPv6 connections to the pod's own address, which another pod can reach, too: without an original
    // destination it is reset. (Why not to ::1: `listener6` of the hook.) For HBONE the wildcard takes IPv4 too.
    vec![outbound4, (Ipv6Addr::UNSPECIFIED, OUTBOUND_PORT).into(), (Ipv6Addr::UNSPECIFIED, HBONE_PORT).into()]
}

/// Whether this namespace has IPv6 at all; where it is switched off there is none to capture either.
fn ipv6_is_on() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.accepting.abort();
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
