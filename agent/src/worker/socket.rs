//! Socket options that every connection of a worker has. A listener hands its own on to the connections that it
//! accepts (tcp(7)), which saves five system calls for each.

use crate::kernel::Manner;
use nix::net::if_::if_indextoname;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::TcpStream;

/// Towards an app the peer is this kernel, and keep-alive finds an app that is gone without a word: an orphaned
/// socket leaves FIN-WAIT-2 after a minute and answers a probe with RST. So a stalled or vanished app holds
/// nothing for longer than about two minutes, and a silent one that lives may stay silent for days.
const APP_KEEPALIVE: TcpKeepalive = keepalive(60, 15);

/// Towards a peer, a node that vanished is noticed within half a minute, sooner than an app would mind.
const PEER_KEEPALIVE: TcpKeepalive = keepalive(15, 5);

/// Unacknowledged data gives a peer up after this long; the same bound as keep-alive gives when there is no data.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// Between an app and its worker no wire is shared, and nothing is lost. So these connections have the plainest
/// congestion control, which every kernel has; the node's own may pace by timers (bbr), which costs CPU and speed.
pub(super) const IN_POD_CONGESTION: &str = "reno";

/// Bytes that a socket takes and has not sent yet. The kernel would take up to `tcp_wmem` (4 MiB) for a reader that does not read.
/// What is sent and not acknowledged is not among it, so that a long path is filled all the same.
const UNSENT: u32 = 128 * 1024;

const fn keepalive(idle: u64, interval: u64) -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(idle))
        .with_interval(Duration::from_secs(interval))
        .with_retries(3)
}

/// A connection to or from an app of the pod, or a plain one on its behalf.
pub(super) fn tune_app(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_keepalive(&APP_KEEPALIVE)
}

/// A plain connection on an app's behalf, which has set this on its own socket: what it wants of the network is what it gets.
///
/// # Errors
/// Where the app's device is gone, for example: then there is no way that the app would want.
pub(super) fn tune_as(socket: &impl AsFd, target: SocketAddr, manner: &Manner) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if manner.mark != 0 {
        socket.set_mark(manner.mark)?;
    }
    if manner.device != 0 {
        let name = if_indextoname(manner.device)?;
        socket.bind_device(Some(name.to_bytes()))?;
    }
    match (manner.traffic_class, target) {
        (0, _) => {}
        (class, SocketAddr::V4(_)) => socket.set_tos_v4(class.into())?,
        (class, SocketAddr::V6(_)) => socket.set_tclass_v6(class.into())?,
    }
    if manner.user_timeout != 0 {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(manner.user_timeout.into())))?;
    }
    if manner.keepalive_idle != 0 {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(manner.keepalive_idle.into()))
            .with_interval(Duration::from_secs(manner.keepalive_interval.into()))
            .with_retries(manner.keepalive_probes.into());
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

/// An HBONE connection.
pub(super) fn tune_peer(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))?;
    socket.set_tcp_keepalive(&PEER_KEEPALIVE)
}

/// The connection ends with RST when it is dropped.
pub(super) fn reset_on_drop(stream: &TcpStream) {
    // Fails only on a socket that is no socket any more.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
