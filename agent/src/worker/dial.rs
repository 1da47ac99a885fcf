//! Connections that a worker makes. Every one is tagged as the agent's own before it connects, so that the
//! connect hook leaves it alone.

use super::Settings;
use super::socket::{tune_app, tune_peer};
use crate::kernel::SocketTable;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
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
}

impl Dialer {
    /// To the pod's own app. It will see `client` as the one who connected.
    pub async fn app(&self, target: SocketAddr, client: SocketAddr) -> Result<TcpStream, DialError> {
        let stream = self.connect(target, Some(client), None).await?;
        tune_app(&stream).map_err(|e| DialError::Io(target, e))?;
        Ok(stream)
    }

    /// Out of the pod, plain, on behalf of an app.
    pub async fn plain(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        let stream = self.connect(target, None, None).await?;
        tune_app(&stream).map_err(|e| DialError::Io(target, e))?;
        Ok(stream)
    }

    /// To another pod's worker.
    pub async fn peer(&self, target: SocketAddr) -> Result<TcpStream, DialError> {
        let started = Instant::now();
        loop {
            match self.connect(target, None, self.settings.hbone_congestion.as_deref()).await {
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

    async fn connect(
        &self,
        target: SocketAddr,
        present: Option<SocketAddr>,
        congestion: Option<&str>,
    ) -> Result<TcpStream, DialError> {
        let io_error = |e| DialError::Io(target, e);
        let socket = self.tagged_socket(target, present, congestion).map_err(io_error)?;
        let limit = self.settings.connect_timeout;
        match timeout(limit, TcpSocket::from_std_stream(socket.into()).connect(target)).await {
            Ok(connected) => connected.map_err(io_error),
            Err(_) => Err(DialError::Timeout(target, limit)),
        }
    }

    fn tagged_socket(
        &self,
        target: SocketAddr,
        present: Option<SocketAddr>,
        congestion: Option<&str>,
    ) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        self.sockets.tag(&socket, present)?;
        if let Some(congestion) = congestion {
            socket.set_tcp_congestion(congestion.as_bytes())?;
        }
        Ok(socket)
    }
}
