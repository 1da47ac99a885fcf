//! The TCP sockets of a network namespace, as `ss` sees them, and their end: NETLINK_SOCK_DIAG.

use super::netlink::Netlink;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1,
    TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::io;
use std::net::SocketAddr;

/// Where `struct tcp_info` has the connection's state, what is not acknowledged (in packets), and what was never sent.
const TCP_INFO_STATE: usize = 0;
const TCP_INFO_UNACKED: usize = 24;
const TCP_INFO_NOTSENT: usize = 144;

/// Where it has how many bytes of payload were sent, and how many of them again, since Linux 4.19.
const TCP_INFO_BYTES_SENT: usize = 200;
const TCP_INFO_BYTES_RETRANS: usize = 208;

/// Where it has its byte counters, since Linux 4.1.
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
    /// Which side opened it: where its bytes were asked for, and say so.
    pub opener: Option<Opener>,
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

/// Which side of a connection began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// This socket, by connect().
    Local,
    /// The peer: this socket was accepted.
    Remote,
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
        let opener = response.nlas.iter().find_map(|attribute| match attribute {
            Nla::TcpInfo(info) => Opener::of(info, header.send_queue),
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
            opener,
            inode: header.inode,
            family: header.family,
            id,
        }
    }
}

impl Opener {
    /// The kernel counts the SYN of the end that opened a connection among the bytes that were acknowledged, and the accepting
    /// end's not: `tcp_ack` counts from the first number on, an accepted socket begins behind it (`tcp_create_openreq_child`). So one
    /// byte more than was sent of payload was acknowledged, or none. `None` where something has moved between the two looks of the kernel at
    /// the socket (`queued`, then `info`), or where the counters do not fit.
    fn of(info: &[u8], queued: u32) -> Option<Self> {
        let sent = counter(info, TCP_INFO_BYTES_SENT)?.checked_sub(counter(info, TCP_INFO_BYTES_RETRANS)?)?;
        let not_sent = small_counter(info, TCP_INFO_NOTSENT)?;
        let in_flight = match small_counter(info, TCP_INFO_UNACKED)? {
            0 => 0,
            _ => u64::from(queued.checked_sub(not_sent)?),
        };
        // A FIN has a number, too, and is no payload. It is the last that is sent.
        let fins = match *info.get(TCP_INFO_STATE)? {
            TCP_ESTABLISHED | TCP_CLOSE_WAIT => 0,
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING | TCP_LAST_ACK => u64::from(not_sent == 0),
            _ => return None,
        };
        let acknowledged = counter(info, TCP_INFO_BYTES_ACKED)?;
        match (acknowledged + in_flight).checked_sub(sent + fins)? {
            0 => Some(Self::Remote),
            1 => Some(Self::Local),
            _ => None,
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

fn small_counter(info: &[u8], offset: usize) -> Option<u32> {
    info.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// What the kernel says of both ends, the client's first.
    fn openers(client: &TcpStream, server: &TcpStream) -> [Option<Opener>; 2] {
        let sockets = SockDiag::open().unwrap().sockets(true).unwrap();
        [client, server].map(|stream| {
            let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            sockets.iter().find(|socket| (socket.local, socket.remote) == ends).unwrap().opener
        })
    }

    // proves: POL-2, SEC-3
    #[test]
    fn the_kernel_says_which_side_opened_a_connection_whatever_went_over_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        drop(listener);
        let said = [Some(Opener::Local), Some(Opener::Remote)];
        assert_eq!(openers(&client, &server), said, "nothing was sent");
        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(b"the answer").unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
        assert_eq!(openers(&client, &server), said, "something was");
        for (writer, what) in [(&client, "client"), (&server, "server")] {
            writer.set_nonblocking(true).unwrap();
            while (&mut &*writer).write(&[0; 65_536]).is_ok() {}
            assert_eq!(openers(&client, &server), said, "the {what}'s bytes wait");
        }
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(openers(&client, &server), said, "the server has an end behind them");
        let mut left = vec![0; 65_536];
        client.set_nonblocking(false).unwrap();
        while client.read(&mut left).unwrap() > 0 {}
        assert_eq!(openers(&client, &server), said, "the server has ended");
    }
}
