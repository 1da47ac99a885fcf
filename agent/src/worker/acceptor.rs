//! Accepts connections on a worker's listeners, each into a task of its own.

use super::context::Context;
use super::{OUTBOUND_PORT, inbound, outbound, tasks};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Out of descriptors or memory: connections wait in the backlog meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn accept(context: Rc<Context>, listener: Rc<TcpListener>, address: SocketAddr) -> JoinHandle<()> {
    tasks::spawn_vital(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let context = context.clone();
                    if address.port() == OUTBOUND_PORT {
                        tasks::spawn(outbound::connection(context, stream, peer));
                    } else {
                        tasks::spawn(inbound::connection(context, stream, peer));
                    }
                }
                Err(e) if is_of_one_connection(&e) => {}
                Err(e) if is_exhaustion(&e) => {
                    if let Some(left_out) = context.strangers.exhaustion.next() {
                        tracing::warn!(pod = %context.name, left_out = (left_out > 0).then_some(left_out), "cannot accept connections for now: {e}");
                    }
                    sleep(EXHAUSTED_PAUSE).await;
                }
                Err(e) => {
                    // The socket listens no more. The audit opens it anew; until then connections are refused.
                    tracing::error!(pod = %context.name, %address, "the listener is broken: {e}");
                    return;
                }
            }
        }
    })
}

/// accept(2): these belong to the connection that would have been accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
