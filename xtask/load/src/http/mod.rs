//! HTTP clients: a closed loop (the next request when the last is answered) or an open one (by a schedule).

mod answer;
mod connection;
mod http1;
mod http2;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::args::{Address, Timing, at_least_one, rate};
use crate::pacer::Pacer;
use crate::recorder::Recorder;
use crate::report::Report;
use crate::schedule::Schedule;
use connection::{Connection, Target};
use http1::ClosedBefore;

/// A first connection that takes longer is an error.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long after the end answers are waited for.
const GRACE: Duration = Duration::from_secs(2);
/// A refused connection costs microseconds: without a pause, a server that is gone would be asked by a busy loop.
const REFUSED: Duration = Duration::from_millis(10);

#[derive(clap::Args, Clone, Debug)]
pub struct HttpArgs {
    #[command(flatten)]
    address: Address,
    /// What to ask for, by GET
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    connections: usize,
    /// HTTP/2 with prior knowledge, instead of HTTP/1.1
    #[arg(long, conflicts_with = "close")]
    http2: bool,
    /// Requests a second over all connections, latency from the time they were due; as many as are answered unless
    /// given
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// A connection for every request
    #[arg(long)]
    close: bool,
    /// As browsers and libraries do (RFC 9110, section 9.2.2): where a server closes a connection that has been in use
    /// before it answers, ask again on another
    #[arg(long)]
    resend: bool,
    #[command(flatten)]
    timing: Timing,
}

impl HttpArgs {
    /// Runs it. A server that cannot be reached at the beginning is an error; later failures are counted.
    pub async fn run(&self) -> Result<Report> {
        let target = Arc::new(Target::new(self.address.to, &self.path, self.http2, self.close)?);
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            let connected = timeout(CONNECT_WITHIN, target.connect()).await.context("no answer").flatten();
            connections.push(connected.with_context(|| format!("cannot connect to {}", self.address.to))?);
        }
        let start = Instant::now();
        let shared = Arc::new(Shared {
            target,
            resend: self.resend,
            end: self.timing.window(start).end,
            pacer: self
                .rate
                .map(|rate| Pacer::new(Schedule::new(start, rate), self.timing.window(start).end)),
            recorder: Mutex::new(Recorder::new(self.timing.window(start))),
        });
        let mut tasks = JoinSet::new();
        for connection in connections {
            tasks.spawn(shared.clone().work(connection));
        }
        if let Some(pacer) = &shared.pacer {
            pacer.run(tasks.len()).await?;
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a connection's task has panicked")?;
        }
        if let Some(pacer) = &shared.pacer {
            let now = Instant::now();
            pacer.left().for_each(|due| {
                shared.recorder().unanswered(
                    due,
                    now,
                    "a request was due and could not be sent: all connections were busy",
                );
            });
        }
        let shared = Arc::into_inner(shared).context("a connection's task lives on")?;
        Ok(shared.recorder.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).report())
    }
}

/// What the connections of a run share.
struct Shared {
    target: Arc<Target>,
    resend: bool,
    end: Instant,
    /// Of an open loop.
    pacer: Option<Pacer>,
    recorder: Mutex<Recorder>,
}

impl Shared {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One connection, until the end. What is under way then has a while to be answered.
    async fn work(self: Arc<Self>, connection: Connection) {
        // When the request under way began. One timer for all requests: one each would be a tenth of their cost.
        let mut begin = Instant::now();
        if timeout_at((self.end + GRACE).into(), self.requests(connection, &mut begin)).await.is_err() {
            let error = format!("no answer within {} s of the end", GRACE.as_secs());
            self.recorder().unanswered(begin, Instant::now(), error);
        }
    }

    /// One request after the other.
    async fn requests(&self, connection: Connection, begin: &mut Instant) {
        let mut connection = Some(connection);
        // Of an open loop, the pacer tells when it is over.
        while self.pacer.is_some() || *begin < self.end {
            if let Some(pacer) = &self.pacer {
                let Some(due) = pacer.claim().await else { return };
                *begin = due;
            }
            let answer = self.request(&mut connection).await;
            let now = Instant::now();
            match answer {
                Ok(bytes) => {
                    // An open loop's requests count by the time they were due.
                    let moment = if self.pacer.is_some() { *begin } else { now };
                    self.recorder().completed(moment, now - *begin, bytes);
                }
                Err(error) => self.recorder().failed(format!("{error:#}")),
            }
            *begin = now;
        }
    }

    /// A request and its answer; gives the body's bytes. What failed leaves no connection.
    async fn request(&self, connection: &mut Option<Connection>) -> Result<u64> {
        let Some(used) = connection.take() else { return self.request_anew(connection).await };
        match self.exchange(used, connection).await {
            Err(error) if self.resend && error.is::<ClosedBefore>() => self.request_anew(connection).await,
            answered => answered,
        }
    }

    async fn request_anew(&self, connection: &mut Option<Connection>) -> Result<u64> {
        match self.target.connect().await {
            Ok(new) => self.exchange(new, connection).await,
            Err(error) => {
                tokio::time::sleep(REFUSED).await;
                Err(error.context("cannot connect again"))
            }
        }
    }

    /// Leaves in `kept` the connection that was used, if it is good for another request.
    async fn exchange(&self, mut used: Connection, kept: &mut Option<Connection>) -> Result<u64> {
        let answer = used.exchange(&self.target).await?;
        if answer.keep {
            *kept = Some(used);
        }
        answer.bytes()
    }
}
