//! Starts and ends the servers.

use super::introspect::{Introspect, Probes, Vitals};
use super::listen::{ListenError, listen};
use super::routes::{Admin, Health, Metrics};
use super::server::{Route, serve};
use crate::telemetry::Logging;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How often an address that another process has is tried again.
const TRY_EVERY: Duration = Duration::from_secs(5);

/// Where the servers listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
}

/// Serves metrics and health, of a program that is no agent.
pub struct VitalsServers {
    _tasks: JoinSet<()>,
}

impl VitalsServers {
    /// # Errors
    /// When an address cannot be listened on; then none is.
    pub fn start<P: Vitals + Probes>(
        metrics: SocketAddr,
        health: SocketAddr,
        program: Arc<P>,
    ) -> Result<Self, ListenError> {
        let (metrics, _) = listen("--metrics-addr", metrics)?;
        let (health, _) = listen("--health-addr", health)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(metrics, Arc::new(Metrics { node: program.clone() })));
        tasks.spawn(serve(health, Arc::new(Health { process: program })));
        Ok(Self { _tasks: tasks })
    }
}

/// The servers of people and of Prometheus; they end when this is dropped. Health has a thread of its own
/// ([`HealthServer`](super::HealthServer)).
pub struct Servers {
    /// Where they listen in truth: port 0 has become a port.
    pub addresses: Addresses,
    _tasks: JoinSet<()>,
    _metrics: Option<OwnThread>,
}

/// A server on a thread of its own; it ends when this is dropped.
struct OwnThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Serves people on the caller's tokio runtime, and metrics on a thread of their own: to write down those of many pods takes time
    /// that the node core has not. An address that cannot be listened on is told in the log and tried again every
    /// 5 s: pods do not lose their agent for want of a port that only people look at.
    pub fn start(addresses: Addresses, node: Arc<dyn Introspect>, logging: Logging) -> Self {
        let mut tasks = JoinSet::new();
        let admin = Admin { node: node.clone(), logging };
        let admin = begin(&mut tasks, "--admin-addr", addresses.admin, admin);
        let own = OwnThread::serve("--metrics-addr", addresses.metrics, Metrics { node });
        let (metrics, own) = match own {
            Ok((local, own)) => (local, Some(own)),
            Err(error) => {
                tracing::error!("there is no thread for --metrics-addr: {error}; the agent goes on without");
                (addresses.metrics, None)
            }
        };
        Self { addresses: Addresses { admin, metrics }, _tasks: tasks, _metrics: own }
    }
}

impl OwnThread {
    /// Gives also where it listens, or will.
    fn serve<R: Route>(flag: &'static str, address: SocketAddr, routes: R) -> io::Result<(SocketAddr, Self)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut tasks = JoinSet::new();
        let local = {
            let _runtime = runtime.enter();
            begin(&mut tasks, flag, address, routes)
        };
        let (stop, stopped) = oneshot::channel();
        let serving = move || {
            // The sender says nothing; it is dropped.
            let _ = runtime.block_on(stopped);
            drop(tasks);
        };
        let thread = thread::Builder::new().name("metrics".into()).spawn(serving)?;
        Ok((local, Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked and said so.
            let _ = thread.join();
        }
    }
}

/// Gives where it listens, or will.
fn begin<R: Route>(
    tasks: &mut JoinSet<()>,
    flag: &'static str,
    address: SocketAddr,
    routes: R,
) -> SocketAddr {
    let first = listen(flag, address);
    let local = first.as_ref().map_or(address, |(_, local)| *local);
    tasks.spawn(keep(flag, address, first, Arc::new(routes)));
    local
}

/// Serves until dropped, as soon as the address can be listened on; `first` is the first try's outcome.
pub(super) async fn keep<R: Route>(
    flag: &'static str,
    address: SocketAddr,
    first: Result<(TcpListener, SocketAddr), ListenError>,
    routes: Arc<R>,
) {
    let mut tried = first;
    let mut is_told = false;
    loop {
        match tried {
            Ok((listener, _)) => return serve(listener, routes).await,
            Err(error) if !is_told => {
                tracing::error!("{error}; the agent goes on without, and tries again every {TRY_EVERY:?}");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(TRY_EVERY).await;
        tried = listen(flag, address);
    }
}
