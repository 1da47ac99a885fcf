//! The health of this process, served from a thread of its own: a node core that computes answers its probes, too.

use super::introspect::Probes;
use super::listen::listen;
use super::routes::Health;
use super::server::serve;
use super::servers::keep;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long [`ask`] waits for each step. The answer is at hand; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than any answer has.
const MAX_ANSWER: u64 = 64 << 10;

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// Whether only a new process can help.
    Live,
    /// Whether the process does, or can take over, what it is there for.
    Ready,
}

/// The servers of health; they end when this is dropped.
pub struct HealthServer {
    addresses: Option<mpsc::UnboundedSender<SocketAddr>>,
    thread: Option<JoinHandle<()>>,
}

impl HealthServer {
    /// Serves on a Unix socket, which is this process's own, and is made anew; on addresses as [`HealthServer::listen`] says.
    /// A socket that cannot be made is told in the log: whoever probes there finds nobody, and pods keep their agent.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(socket: Option<&Path>, process: Arc<dyn Probes>) -> io::Result<Self> {
        let socket = socket.and_then(|path| match bind(path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::error!(
                    "--health-socket {}: {error}; give a path in a directory that is there: probes get no answer",
                    path.display()
                );
                None
            }
        });
        let (addresses, told) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = move || runtime.block_on(run(socket, told, process));
        let thread = thread::Builder::new().name("health".into()).spawn(serving)?;
        Ok(Self { addresses: Some(addresses), thread: Some(thread) })
    }

    /// Serves on this address, too, as soon as it can be listened on. What keeps it from that is told in the log.
    pub fn listen(&self, address: SocketAddr) {
        if let Some(addresses) = &self.addresses {
            // It fails only after the thread has panicked, and said so.
            let _ = addresses.send(address);
        }
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        drop(self.addresses.take());
        if let Some(thread) = self.thread.take() {
            // It panicked and said so.
            let _ = thread.join();
        }
    }
}

async fn run(
    socket: Option<std::os::unix::net::UnixListener>,
    mut addresses: mpsc::UnboundedReceiver<SocketAddr>,
    process: Arc<dyn Probes>,
) {
    let mut tasks = JoinSet::new();
    let routes = Arc::new(Health { process });
    match socket.map(UnixListener::from_std) {
        Some(Ok(socket)) => drop(tasks.spawn(serve(socket, routes.clone()))),
        Some(Err(error)) => tracing::error!("--health-socket cannot be served: {error}"),
        None => {}
    }
    while let Some(address) = addresses.recv().await {
        const FLAG: &str = "--health-addr";
        tasks.spawn(keep(FLAG, address, listen(FLAG, address), routes.clone()));
    }
}

fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = std::os::unix::net::UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Asks the process that serves on this socket: whether it says yes, and what it says.
///
/// # Errors
/// When nobody answers there.
pub fn ask(socket: &Path, probe: Probe) -> io::Result<(bool, String)> {
    let path = match probe {
        Probe::Live => "/healthz/live",
        Probe::Ready => "/healthz/ready",
    };
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: pillion\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let (head, said) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok((head.split(' ').nth(1) == Some("200"), said.trim_end().to_owned()))
}
