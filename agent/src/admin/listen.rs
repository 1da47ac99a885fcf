//! Listening sockets, and what to say when there is none to be had.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// An address that cannot be listened on. Its `Display` names the flag to change.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address}: {}", reason(.source))]
pub struct ListenError {
    pub flag: &'static str,
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Listens on `address`; `[::]` takes IPv4 too, and is `0.0.0.0` on a kernel without IPv6.
pub fn listen(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let any_v6 = address.is_ipv6() && address.ip().is_unspecified();
    let listener = open(address).or_else(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) if any_v6 => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        _ => Err(error),
    });
    let bound = listener.and_then(|listener| listener.local_addr().map(|local| (listener, local)));
    bound.map_err(|source| ListenError { flag, address, source })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of an agent that has ended must not keep the next one waiting.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "port taken by another process; give another address or stop that process".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; give another".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not allowed; a port below 1024 needs CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => format!("cannot listen: {error}"),
    }
}
