//! Connections that a worker makes. Every one is tagged as the agent's own before it connects, so that the
//! connect hook leaves it alone.

use super::Settings;
use super::socket::{tune_app, tune_peer};
use crate::kernel::SocketTable;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// A peer that the mesh just announced may still be opening its port. Its refusal is taken for an answer only
/// after this long: label and listener come from two agents, and reach this one in either order.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

const REFUSAL_PAUSE: Duration = Duration::from_millis(25);

/// Why a connection did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("no answer from {0} within {1:?}")]
    Timeout(SocketAddr, Duration),
    #[error("{0}: {1}")]
    Io(SocketAddr, io::Error),
}

impl DialError {
    pub fn response_flags(&self) -> &'static str {
        match self {
            Self::Timeout(..) => "UT",
            Self::Io(..) => "UF",
        }
    }
}

/// Makes connections in the worker's pod.
pub(super) struct Dialer {
    pub sockets: SocketTable,
    pub settings: Arc<Settings>,
    loopback: Cell<u8>,
}

impl Dialer {
    pub fn new(sockets: SocketTable, settings: Arc<Settings>) -> Self {
        Self { sockets, settings, loopback: Cell::new(0) }
    }

    /// To the pod's own app. It will see `client` as the one who connected.
    pub async fn app(&self, target: SocketAddr, client: SocketAddr) -> Result<TcpStream, DialError> {
        let options =
            Options { present: Some(client), source: self.loopback_source(target), congestion: None };
        let stream = self.connect(target, options).await?;
        tune_app(&stream).map_err(|e| DialError::Io(target, e))?;
        Ok(stream)
    }

    /// Out of the pod, plain, on behalf of an app.
    pub async fn plain(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        let stream = self.connect(target, Options::default()).await?;
        tune_app(&stream).map_err(|e| DialError::Io(target, e))?;
        Ok(stream)
    }

    /// To another pod's worker.
    pub async fn peer(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        let started = Instant::now();
        loop {
            let congestion = self.settings.hbone_congestion.as_deref();
            match self.connect(target, Options { congestion, ..Options::default() }).await {
                Err(DialError::Io(_, e))
                    if e.kind() == io::ErrorKind::ConnectionRefused
                        && started.elapsed() < REFUSAL_PATIENCE =>
                {
                    sleep(REFUSAL_PAUSE).await;
                }
                Err(e) => return Err(e),
                Ok(stream) => {
                    tune_peer(&stream).map_err(|e| DialError::Io(target, e))?;
                    return Ok(stream);
                }
            }
        }
    }

    /// From the pod's own address, the kernel would have 28,000 ports for one app, each for a minute after a client
    /// that closed first (TIME-WAIT): 470 connections a second. From loopback it uses a port again after a second
    /// (`tcp_tw_reuse` is 2, "loopback only", by default), and there are 254 addresses of it. The app does not see
    /// it. IPv6 has one loopback address, which loses what the kernel answers without a socket: there it stays so.
    fn loopback_source(&self, target: SocketAddr) -> Option<Ipv4Addr> {
        let last = self.loopback.get() % 254 + 1;
        self.loopback.set(last);
        target.is_ipv4().then_some(Ipv4Addr::new(127, 0, 0, last))
    }

    async fn connect(&self, target: SocketAddr, options: Options<'_>) -> Result<TcpStream, DialError> {
        let io_error = |e| DialError::Io(target, e);
        let socket = self.tagged_socket(target, options).map_err(io_error)?;
        let limit = self.settings.connect_timeout;
        match timeout(limit, TcpSocket::from_std_stream(socket.into()).connect(target)).await {
            Ok(connected) => connected.map_err(io_error),
            Err(_) => Err(DialError::Timeout(target, limit)),
        }
    }

    fn tagged_socket(&self, target: SocketAddr, options: Options<'_>) -> io::Result<Socket> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
        self.sockets.tag(&socket, options.present)?;
        if let Some(congestion) = options.congestion {
            socket.set_tcp_congestion(congestion.as_bytes())?;
        }
        if let Some(source) = options.source {
            // The port is chosen when the destination is known: one port serves many destinations.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        Ok(socket)
    }
}

/// What a connection differs in.
#[derive(Default)]
struct Options<'a> {
    /// The address that an app sees as its peer.
    present: Option<SocketAddr>,
    /// Where it comes from, if not from where the kernel chooses.
    source: Option<Ipv4Addr>,
    congestion: Option<&'a str>,
}
