//! Connections that a worker makes. Every one is tagged as the agent's own before it connects, so that the
//! connect hook leaves it alone.

use super::Settings;
use super::socket::{IN_POD_CONGESTION, tune_app, tune_as, tune_peer};
use crate::kernel::{Manner, SocketTable, Tag};
use crate::mesh::Workload;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, TcpRepair};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// A peer that the mesh just announced may still be opening its port. Its refusal is taken for an answer only
/// after this long: label and listener come from two agents, and reach this one in either order.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// A SYN that was lost is sent again by the kernel after 1, 3 and 7 s. While a path is down, a new attempt every so often notices
/// at once that it is up again.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);

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
    /// The pod, as it was known last.
    own: Rc<RefCell<Arc<Workload>>>,
    loopback: Cell<u8>,
}

impl Dialer {
    pub fn new(sockets: SocketTable, settings: Arc<Settings>, own: Rc<RefCell<Arc<Workload>>>) -> Self {
        Self { sockets, settings, own, loopback: Cell::new(0) }
    }

    /// To the pod's own app. It will see `client` as the one who connected.
    pub async fn app(&self, target: SocketAddr, client: SocketAddr) -> Result<TcpStream, DialError> {
        let source = self.loopback_source(target);
        let congestion = Some(IN_POD_CONGESTION);
        self.connect(target, Options { present: Some(client), source, congestion, ..Options::default() })
            .await
    }

    /// Out of the pod, plain, on behalf of an app, as the app itself would connect.
    pub async fn plain(&self, target: SocketAddr, app: &App) -> Result<TcpStream, DialError> {
        self.connect(target, Options { app: Some(app), ..Options::default() }).await
    }

    /// To another pod's worker. As long as nothing is heard from there, it is tried again beside the attempts that wait.
    pub async fn peer(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        let mut attempts = FuturesUnordered::new();
        loop {
            attempts.push(self.try_peer(target));
            if let Ok(Some(dialled)) = timeout(ATTEMPT_INTERVAL, attempts.next()).await {
                return dialled;
            }
        }
    }

    async fn try_peer(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        let started = Instant::now();
        let congestion = self.settings.hbone_congestion.as_deref();
        // The peer, its policies and its apps know the pod by this address, whichever others the pod has.
        let source = self.own.borrow().address(target.is_ipv6());
        loop {
            match self
                .connect(target, Options { is_peer: true, source, congestion, ..Options::default() })
                .await
            {
                Err(DialError::Io(_, e))
                    if e.kind() == io::ErrorKind::ConnectionRefused
                        && started.elapsed() < REFUSAL_PATIENCE =>
                {
                    sleep(REFUSAL_PAUSE).await;
                }
                dialled => return dialled,
            }
        }
    }

    /// From the pod's own address, the kernel would have 28,000 ports for one app, each for a minute after a client
    /// that closed first (TIME-WAIT): 470 connections a second. From loopback it uses a port again after a second
    /// (`tcp_tw_reuse` is 2, "loopback only", by default), and there are 254 addresses of it. The app does not see
    /// it. IPv6 has one loopback address, which loses what the kernel answers without a socket: there it stays so.
    fn loopback_source(&self, target: SocketAddr) -> Option<IpAddr> {
        let last = self.loopback.get() % 254 + 1;
        self.loopback.set(last);
        target.is_ipv4().then_some(Ipv4Addr::new(127, 0, 0, last).into())
    }

    async fn connect(&self, target: SocketAddr, options: Options<'_>) -> Result<TcpStream, DialError> {
        let io_error = |e| DialError::Io(target, e);
        let (stream, connected) = self.begin(target, options).map_err(io_error)?;
        if connected {
            return Ok(stream);
        }
        let limit = self.settings.connect_timeout;
        match timeout(limit, stream.writable()).await {
            Ok(writable) => writable.map_err(io_error)?,
            Err(_) => return Err(DialError::Timeout(target, limit)),
        }
        match stream.take_error() {
            Ok(None) => Ok(stream),
            Ok(Some(e)) | Err(e) => Err(io_error(e)),
        }
    }

    /// Begins to connect, and says whether it is done: to an app of the pod it is, which saves a timer and a turn of
    /// the loop.
    fn begin(&self, target: SocketAddr, options: Options<'_>) -> io::Result<(TcpStream, bool)> {
        let socket = self.tagged_socket(target, options)?;
        match socket.connect(&target.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let connected = socket.peer_addr().is_ok();
        Ok((TcpStream::from_std(socket.into())?, connected))
    }

    fn tagged_socket(&self, target: SocketAddr, options: Options<'_>) -> io::Result<Socket> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
        self.sockets.tag(&socket, options.present.map_or(Tag::Agent, Tag::ToApp))?;
        // An app that listens on the port that the kernel chooses for this socket may do so: with SO_REUSEADDR, as servers do.
        socket.set_reuse_address(true)?;
        if options.is_peer {
            tune_peer(&socket)?;
        } else {
            tune_app(&socket)?;
        }
        if let Some(congestion) = options.congestion {
            socket.set_tcp_congestion(congestion.as_bytes())?;
        }
        if let Some(app) = options.app {
            tune_as(&socket, target, &app.manner)?;
        }
        let source = options.source.map(|ip| SocketAddr::new(ip, 0));
        match source.or_else(|| options.app?.source(target)) {
            Some(source) if source.port() == 0 => bind_address(&socket, source)?,
            Some(source) => bind_port(&socket, source)?,
            None => {}
        }
        Ok(socket)
    }
}

/// The port is chosen when the destination is known: one port serves many destinations.
fn bind_address(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    match socket.bind(&address.into()) {
        // An address that the mesh knows, and that the pod has no more, or not yet: it has what the kernel chooses.
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        bound => bound,
    }
}

/// Gives the socket the port that an app's own socket has, as well.
fn bind_port(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // The kernel lets two sockets have a port where both have SO_REUSEADDR, which is the app's to set, or where one of them is
    // under repair when it is bound. Their connections differ in their other end.
    setsockopt(socket, TcpRepair, &ON)?;
    let bound = socket.bind(&address.into());
    setsockopt(socket, TcpRepair, &OFF)?;
    // The end of repair has switched it off.
    socket.set_reuse_address(true)?;
    match bound {
        // A port below 1024, and the agent lacks CAP_NET_BIND_SERVICE: any other is better than no connection.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            bind_address(socket, SocketAddr::new(address.ip(), 0))
        }
        bound => bound,
    }
}

/// Values of TCP_REPAIR (tcp.h).
const ON: u32 = 1;
const OFF: u32 = 0;

/// The app on whose behalf a plain connection is opened.
pub(super) struct App {
    /// Its address and port, as they are without a mesh.
    pub client: SocketAddr,
    pub manner: Manner,
}

impl App {
    /// What a socket to the target is to be bound to, so that it is seen as the app's would be: to what the app itself has bound. The
    /// kernel chooses the rest for the way to the target. A port that it has chosen for the app may be in use there.
    fn source(&self, target: SocketAddr) -> Option<SocketAddr> {
        let (client, port) = (self.client.ip(), self.manner.port);
        let is_usable = client.is_ipv4() == target.is_ipv4() && !client.is_loopback();
        let unspecified = match target {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        match (self.manner.has_address != 0 && is_usable, port) {
            (true, port) => Some(SocketAddr::new(client, port)),
            (false, 0) => None,
            (false, port) => Some(SocketAddr::new(unspecified, port)),
        }
    }
}

/// What a connection differs in.
#[derive(Default)]
struct Options<'a> {
    /// To another pod's worker, not to an app.
    is_peer: bool,
    /// The address that an app sees as its peer.
    present: Option<SocketAddr>,
    /// Where it comes from, if not from where the kernel chooses.
    source: Option<IpAddr>,
    /// On whose behalf it goes out plain.
    app: Option<&'a App>,
    congestion: Option<&'a str>,
}
