//! Many idle connections: opened, proven by a byte there and back, and held until standard input ends.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::args::at_least_one;
use crate::limits::allow_connections;
use crate::recorder::{Recorder, Window};
use crate::report::Report;

/// Opened at the same time: enough to keep both ends busy, few enough for any listener's backlog.
const OPENERS: usize = 64;
/// A connection that takes longer to open is an error.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// The kernel's setting of this network namespace.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

#[derive(clap::Args, Clone, Debug)]
pub struct HoldArgs {
    /// Echo servers (`serve --echo`), which get the connections in turn
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', required = true)]
    to: Vec<SocketAddr>,
    /// How many are opened
    #[arg(long, value_parser = at_least_one)]
    connections: usize,
    /// Ports that connections may come from: sets the network namespace's net.ipv4.ip_local_port_range, which allows
    /// 28,232 connections to one address unless changed
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    local_ports: Option<(u16, u16)>,
}

impl HoldArgs {
    /// Opens all, calls `ready`, and closes them when standard input has ended. The report's time is that of opening;
    /// its latencies are of connecting and the first byte there and back. One that cannot be opened is an error; one
    /// that has ended meanwhile is counted.
    pub async fn run(&self, ready: impl FnOnce()) -> Result<Report> {
        allow_connections(self.connections)?;
        if let Some((first, last)) = self.local_ports {
            let set = fs::write(LOCAL_PORTS, format!("{first} {last}"));
            set.with_context(|| format!("cannot set {LOCAL_PORTS}, which needs root"))?;
        }
        let begin = Instant::now();
        // Whatever opens is measured; how long that takes is known at its end.
        let forever = Window { begin, end: begin + Duration::from_secs(u32::MAX.into()) };
        let recorder = Arc::new(Mutex::new(Recorder::new(forever)));
        let held = self.open(&recorder).await?;
        let took = begin.elapsed();
        ready();
        spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink()))
            .await?
            .context("cannot read standard input")?;
        let mut recorder = Arc::into_inner(recorder)
            .context("an opener's task lives on")?
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        for connection in &held {
            if let Some(error) = ended(connection) {
                recorder.failed(error);
            }
        }
        Ok(Report { seconds: took.as_secs_f64(), ..recorder.report() })
    }

    async fn open(&self, recorder: &Arc<Mutex<Recorder>>) -> Result<Vec<TcpStream>> {
        let opening =
            Arc::new(Opening { to: self.to.clone(), all: self.connections, next: AtomicUsize::new(0) });
        let mut openers = JoinSet::new();
        for _ in 0..OPENERS.min(self.connections) {
            openers.spawn(opening.clone().work(recorder.clone()));
        }
        let mut held = Vec::with_capacity(self.connections);
        while let Some(opened) = openers.join_next().await {
            held.append(&mut opened.context("an opener's task has panicked")??);
        }
        Ok(held)
    }
}

/// What the openers share.
struct Opening {
    to: Vec<SocketAddr>,
    all: usize,
    next: AtomicUsize,
}

impl Opening {
    /// Opens one after the other until all are taken.
    async fn work(self: Arc<Self>, recorder: Arc<Mutex<Recorder>>) -> Result<Vec<TcpStream>> {
        let mut held = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.all {
                return Ok(held);
            }
            let (to, begin) = (self.to[number % self.to.len()], Instant::now());
            let opened = timeout(OPEN_WITHIN, open(to)).await.context("it takes too long");
            let opened = opened.flatten();
            held.push(opened.with_context(|| {
                format!("connection {} of {}, to {to}, does not open", number + 1, self.all)
            })?);
            let now = Instant::now();
            recorder.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).completed(now, now - begin, 1);
        }
    }
}

async fn open(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(b"1").await?;
    let mut echo = [0];
    stream.read_exact(&mut echo).await?;
    ensure!(echo == *b"1", "another byte came back than was sent");
    Ok(stream)
}

/// What has become of a connection that should be idle.
fn ended(connection: &TcpStream) -> Option<String> {
    match connection.try_read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(format!("a held connection has ended: {error}")),
        Ok(0) => Some("a held connection was closed by the server".to_owned()),
        Ok(_) => Some("a held connection got bytes that nobody asked for".to_owned()),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let range =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    range
        .filter(|(first, last)| 0 < *first && first <= last)
        .ok_or_else(|| format!("{text:?} is no range of ports like 1024-65535"))
}
