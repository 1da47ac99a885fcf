//! The TCP sockets of a network namespace, as `ss` sees them, and their end: NETLINK_SOCK_DIAG.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_LISTEN,
    TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use std::io;
use std::net::SocketAddr;

/// The kernel fills no more than this at a time (`netlink_recvmsg`), so no answer is ever cut.
const ANSWER: usize = 32 << 10;

/// Where `struct tcp_info` has its byte counters, since Linux 4.1.
const TCP_INFO_BYTES_ACKED: usize = 120;
const TCP_INFO_BYTES_RECEIVED: usize = 128;

/// Lists and ends the sockets of the namespace that the calling thread was in when it was opened.
pub struct SockDiag {
    socket: Socket,
    answer: Vec<u8>,
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
    #[error("the kernel's list of sockets cannot be read: {0}")]
    Answer(String),
    #[error(
        "open connections cannot be cut, they go on until they end by themselves: the kernel is built without \
         CONFIG_INET_DIAG_DESTROY"
    )]
    NoDestroy,
    #[error("the connection of {local} and {remote} cannot be cut: {source}")]
    Destroy { local: SocketAddr, remote: SocketAddr, source: io::Error },
}

type Payload = NetlinkPayload<SockDiagMessage>;

impl SockDiag {
    pub fn open() -> Result<Self, SockDiagError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            socket.connect(&NetlinkAddress::new(0, 0))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(SockDiagError::List)?, answer: vec![0; ANSWER] })
    }

    /// Listening sockets and connections, of both families. What is in TIME-WAIT is over.
    pub fn sockets(&mut self, with_bytes: bool) -> Result<Vec<OpenSocket>, SockDiagError> {
        let mut sockets = vec![];
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let mut request = request(family, any);
            if with_bytes {
                request.extensions = ExtensionFlags::INFO;
            }
            self.send(SockDiagMessage::InetRequest(request), NLM_F_DUMP).map_err(SockDiagError::List)?;
            while !self.receive_sockets(&mut sockets)? {}
        }
        Ok(sockets)
    }

    /// Ends a connection: its program finds it aborted, the peer gets a RST. False when it was not there any more.
    pub fn destroy(&mut self, socket: &OpenSocket) -> Result<bool, SockDiagError> {
        let (local, remote) = (socket.local, socket.remote);
        let failed = |source| SockDiagError::Destroy { local, remote, source };
        // The id has the socket's cookie: a later connection between the same addresses is left alone.
        let request = SockDiagMessage::InetRequest(request(socket.family, socket.id.clone()));
        self.send(SockDiagDestroy::new(request), NLM_F_ACK).map_err(failed)?;
        let answers = self.receive().map_err(failed)?;
        let [NetlinkPayload::Error(answer)] = &answers[..] else {
            return Err(SockDiagError::Answer("it is no acknowledgement".to_owned()));
        };
        match -answer.raw_code() {
            0 => Ok(true),
            libc::ENOENT | libc::ESTALE => Ok(false),
            libc::EOPNOTSUPP => Err(SockDiagError::NoDestroy),
            _ => Err(failed(answer.to_io())),
        }
    }

    fn send<M: NetlinkSerializable>(&self, message: M, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Adds a part of the list. True when it was the last.
    fn receive_sockets(&mut self, sockets: &mut Vec<OpenSocket>) -> Result<bool, SockDiagError> {
        for answer in self.receive().map_err(SockDiagError::List)? {
            match answer {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    sockets.push(OpenSocket::new(&response));
                }
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(true),
                NetlinkPayload::Done(done) => {
                    return Err(SockDiagError::List(io::Error::from_raw_os_error(-done.code)));
                }
                NetlinkPayload::Error(error) => return Err(SockDiagError::List(error.to_io())),
                other => return Err(SockDiagError::Answer(format!("nobody has asked for {other:?}"))),
            }
        }
        Ok(false)
    }

    /// What the kernel has answered; it has done so before the request's send() returned.
    fn receive(&mut self) -> io::Result<Vec<Payload>> {
        let length = self.socket.recv(&mut &mut self.answer[..], 0)?;
        let mut rest = &self.answer[..length];
        let mut answers = vec![];
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            // Each begins at a multiple of four.
            let next = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[next..];
            answers.push(message.payload);
        }
        Ok(answers)
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
