//! The agent's connection to the container runtime: one task, which comes back whenever the runtime does.

use super::session::{Event, Interest, Session, SessionError};
use crate::sandbox::{Answer, Call};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Before the plugin that holds, which is number 10: who can wait for a capture, or say why there is none, is asked first.
const INDEX: &str = "09";

/// How often a runtime that is not there is looked for. Looking costs a system call, and pods that it starts meanwhile wait.
const RETRY: Duration = Duration::from_millis(50);

/// A runtime that is there and does not take the plugin is asked again after this long, doubling up to the bound.
const FIRST_REFUSED: Duration = Duration::from_millis(200);
const LONGEST_REFUSED: Duration = Duration::from_secs(10);

/// What waits for the node. The runtime waits for an answer before it asks on.
const QUEUE: usize = 64;

/// The connection, kept up while this value lives.
pub struct Client {
    task: JoinHandle<()>,
}

impl Client {
    /// Connects on the caller's tokio runtime, now and whenever the container runtime was away.
    pub fn start(socket: PathBuf) -> (Self, mpsc::Receiver<Call>) {
        let (calls, received) = mpsc::channel(QUEUE);
        (Self { task: tokio::spawn(keep(socket, calls)) }, received)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("its socket {socket} cannot be connected to: {source}", socket = .socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("it has closed the connection")]
    Closed,
    #[error("the agent ends")]
    NodeEnded,
}

async fn keep(socket: PathBuf, calls: mpsc::Sender<Call>) {
    let mut refused = FIRST_REFUSED;
    let mut told = String::new();
    loop {
        let mut was_synchronized = false;
        let Err(error) = serve(&socket, &calls, &mut was_synchronized).await;
        if matches!(error, ClientError::NodeEnded) {
            return;
        }
        let reason = error.to_string();
        if was_synchronized || reason != told {
            tracing::warn!("the container runtime is away: {reason}");
            if calls.send(Call::Lost(reason.clone())).await.is_err() {
                return;
            }
            told = reason;
        }
        let is_there = !was_synchronized && !matches!(error, ClientError::Connect { .. });
        sleep(if is_there { refused } else { RETRY }).await;
        refused = if is_there { (refused * 2).min(LONGEST_REFUSED) } else { FIRST_REFUSED };
    }
}

/// One connection, to its end.
async fn serve(
    socket: &Path,
    calls: &mpsc::Sender<Call>,
    was_synchronized: &mut bool,
) -> Result<std::convert::Infallible, ClientError> {
    let connected = UnixStream::connect(socket).await;
    let mut stream =
        connected.map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
    let mut session = Session::new("pillion", INDEX, Interest::SandboxesAndContainers);
    let (answer, mut answers) = mpsc::unbounded_channel();
    let mut patience = Duration::ZERO;
    let mut buffer = vec![0; 16 << 10];
    loop {
        stream.write_all(&session.outgoing()).await?;
        let length = tokio::select! {
            read = stream.read(&mut buffer) => read?,
            Some((ticket, result)) = answers.recv() => {
                session.answer(&ticket, result);
                continue;
            }
        };
        if length == 0 {
            return Err(ClientError::Closed);
        }
        for event in session.receive(&buffer[..length])? {
            let call = match event {
                Event::Configured { runtime, timeout, .. } => {
                    // Meanwhile the runtime asks nobody about any other pod, and whoever is late is asked no more.
                    patience = timeout / 2;
                    tracing::info!(runtime, ?patience, "the container runtime asks before it starts pods");
                    Call::Connected { runtime }
                }
                Event::Synchronized(sandboxes) => {
                    *was_synchronized = true;
                    Call::All(sandboxes)
                }
                Event::Gone(id) => Call::Gone(id),
                Event::Asked(question, ticket) => {
                    let to = answer.clone();
                    let answer = Answer::new(move |result| {
                        // A connection that has ended has no answers any more.
                        let _ = to.send((ticket, result));
                    });
                    Call::Asked { question, deadline: Instant::now() + patience, answer }
                }
                // The end of the connection follows.
                Event::Shutdown => continue,
            };
            calls.send(call).await.map_err(|_| ClientError::NodeEnded)?;
        }
    }
}
