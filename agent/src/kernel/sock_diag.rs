//! The TCP sockets of a network namespace, as `ss` sees them, and their end: NETLINK_SOCK_DIAG.

use super::netlink::Netlink;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_LISTEN,
    TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::io;
use std::net::SocketAddr;

/// Where `struct tcp_info` has its byte counters, since Linux 4.1.
const TCP_INFO_BYTES_ACKED: usize = 120;
const TCP_INFO_BYTES_RECEIVED: usize = 128;

/// Lists and ends the sockets of the namespace that the calling thread was in when it was opened.
pub struct SockDiag {
    netlink: Netlink,
}

/// A TCP socket, as it was when it was listed.
#[derive(Clone, Debug)]
pub struct OpenSocket {
    /// IPv4-mapped addresses are IPv4 here.
    pub local: SocketAddr,
    /// Of a listening socket: the unspecified address, port 0.
    pub remote: SocketAddr,
    pub stage: Stage,
    /// Where they were asked for; a connection whose socket its program has closed has none.
    pub bytes: Option<Bytes>,
    /// The socket's number; 0 where its program has closed it.
    pub inode: u32,
    family: u8,
    id: SocketId,
}

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Listening,
    /// The handshake is not done.
    Opening,
    /// It is done, and one side or none has ended.
    Open,
}

/// What went over a connection so far. The SYN of the end that opened it counts as a byte, as everywhere in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// That the peer has acknowledged.
    pub sent: u64,
    pub received: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    #[error(
        "the pod's sockets cannot be listed: {0}; the kernel needs CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG \
         (modprobe tcp_diag)"
    )]
    List(io::Error),
    #[error(
        "open connections cannot be cut, they go on until they end by themselves: the kernel is built without \
         CONFIG_INET_DIAG_DESTROY"
    )]
    NoDestroy,
    #[error("the connection of {local} and {remote} cannot be cut: {source}")]
    Destroy { local: SocketAddr, remote: SocketAddr, source: io::Error },
}

impl SockDiag {
    pub fn open() -> Result<Self, SockDiagError> {
        Ok(Self { netlink: Netlink::open(NETLINK_SOCK_DIAG).map_err(SockDiagError::List)? })
    }

    /// Listening sockets and connections, of both families. What is in TIME-WAIT is over.
    pub fn sockets(&mut self, with_bytes: bool) -> Result<Vec<OpenSocket>, SockDiagError> {
        let mut sockets = vec![];
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let mut request = request(family, any);
            if with_bytes {
                request.extensions = ExtensionFlags::INFO;
            }
            let add = |answer| {
                if let SockDiagMessage::InetResponse(response) = answer {
                    sockets.push(OpenSocket::new(&response));
                }
            };
            self.netlink
                .ask(SockDiagMessage::InetRequest(request), NLM_F_DUMP, add)
                .map_err(SockDiagError::List)?;
        }
        Ok(sockets)
    }

    /// Ends a connection: its program finds it aborted, the peer gets a RST. False when it was not there any more.
    pub fn destroy(&mut self, socket: &OpenSocket) -> Result<bool, SockDiagError> {
        // The id has the socket's cookie: a later connection between the same addresses is left alone.
        let request = SockDiagMessage::InetRequest(request(socket.family, socket.id.clone()));
        let nothing = |_: SockDiagMessage| {};
        match self.netlink.ask(SockDiagDestroy::new(request), NLM_F_ACK, nothing) {
            Ok(()) => Ok(true),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOENT | libc::ESTALE) => Ok(false),
                Some(libc::EOPNOTSUPP) => Err(SockDiagError::NoDestroy),
                _ => Err(SockDiagError::Destroy { local: socket.local, remote: socket.remote, source: e }),
            },
        }
    }
}

impl OpenSocket {
    fn new(response: &InetResponse) -> Self {
        let header = &response.header;
        let id = header.socket_id.clone();
        let bytes = response.nlas.iter().find_map(|attribute| match attribute {
            Nla::TcpInfo(info) => Bytes::of(info, header.state),
            _ => None,
        });
        Self {
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
            stage: match header.state {
                TCP_LISTEN => Stage::Listening,
                TCP_SYN_SENT | TCP_SYN_RECV => Stage::Opening,
                _ => Stage::Open,
            },
            bytes,
            inode: header.inode,
            family: header.family,
            id,
        }
    }
}

impl Bytes {
    /// A FIN counts as a byte in the kernel, too: once it is acknowledged, and once it has come.
    fn of(info: &[u8], state: u8) -> Option<Self> {
        let fin_acked = u64::from(state == TCP_FIN_WAIT2);
        let fin_received = u64::from(matches!(state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING));
        Some(Self {
            sent: counter(info, TCP_INFO_BYTES_ACKED)?.saturating_sub(fin_acked),
            received: counter(info, TCP_INFO_BYTES_RECEIVED)?.saturating_sub(fin_received),
        })
    }
}

/// The sockets that `id` names; zeroes name all of the family.
fn request(family: u8, id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all().difference(StateFlags::TIME_WAIT | StateFlags::CLOSE),
        socket_id: id,
    }
}

fn counter(info: &[u8], offset: usize) -> Option<u64> {
    info.get(offset..offset + 8)?.try_into().ok().map(u64::from_ne_bytes)
}
