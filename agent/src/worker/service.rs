//! A worker in service: what the node core tells it, and what follows from that.

use super::context::Context;
use super::judging::Judging;
use super::listeners::Listeners;
use super::{CertificateReport, Command, Inspection, PanicIn, Report, collect, tasks};
use crate::kernel::{SockDiag, SockDiagError};
use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Connections of a pod that is gone are reset, but no more than so many, which takes some 10 ms: the node's core waits.
const RESET_AT_MOST: usize = 1_000;

/// How far a worker is on its way out.
enum Phase {
    Serving,
    /// Still takes connections, until then.
    Retiring(Instant),
    /// Takes none; ends when the last one has, or at the deadline.
    Draining(Option<Instant>),
}

/// Returns when the worker is to end.
pub(super) async fn serve<F: Fn(Rc<TcpListener>, SocketAddr) -> JoinHandle<()>>(
    context: &Context,
    mut listeners: Listeners<F>,
    mut judging: Judging,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut phase = Phase::Serving;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Serve) => {
                    phase = Phase::Serving;
                    if let Err(e) = listeners.open(&context.addresses()) {
                        tracing::error!(pod = %context.name, "the pod cannot be served again: {e}");
                        return;
                    }
                }
                Some(Command::Retire { grace }) => phase = Phase::Retiring(Instant::now() + grace),
                Some(Command::Drain { deadline }) => {
                    stop_taking(context, &mut listeners);
                    phase = Phase::Draining(Some(Instant::now() + deadline));
                }
                Some(Command::Abort) => {
                    if let Err(e) = reset_all() {
                        tracing::debug!(pod = %context.name, "connections of a pod that is gone are left to end by themselves: {e}");
                    }
                    return;
                }
                Some(Command::Judge(terms)) => judging.begin(context, terms),
                Some(Command::Collect(ends)) => collect::collect(context, &ends),
                // Nobody waits for an answer any more when sending it fails.
                Some(Command::Audit(reply)) => drop(reply.send(inspect(context, &mut listeners))),
                Some(Command::Report(reply)) => drop(reply.send(report(context, &listeners))),
                Some(Command::Panic(PanicIn::Worker)) => panic!("a test has asked for a panic"),
                Some(Command::Panic(PanicIn::Task)) => {
                    tasks::spawn_vital(async { panic!("a test has asked for a panic in a task") });
                }
            },
            () = tasks::vital_panicked() => {
                return tracing::error!(pod = %context.name, "a task that the worker cannot do without has panicked");
            }
            () = judging.due() => judging.again(context),
            () = grace_is_over(&phase) => {
                stop_taking(context, &mut listeners);
                phase = Phase::Draining(None);
            }
            () = drained(&phase, context) => return,
        }
    }
}

/// Resets the connections in the network namespace of this thread.
fn reset_all() -> Result<(), SockDiagError> {
    let mut diag = SockDiag::open()?;
    for socket in diag.sockets(false)?.iter().take(RESET_AT_MOST) {
        diag.destroy(socket)?;
    }
    Ok(())
}

fn stop_taking<F: Fn(Rc<TcpListener>, SocketAddr) -> JoinHandle<()>>(
    context: &Context,
    listeners: &mut Listeners<F>,
) {
    listeners.close();
    context.tell_peers_to_go_away();
}

async fn grace_is_over(phase: &Phase) {
    match phase {
        Phase::Retiring(until) => sleep_until(*until).await,
        _ => pending().await,
    }
}

async fn drained(phase: &Phase, context: &Context) {
    let deadline = async {
        match phase {
            Phase::Draining(Some(deadline)) => sleep_until(*deadline).await,
            _ => pending().await,
        }
    };
    let empty = async {
        match phase {
            Phase::Draining(_) => context.open.none().await,
            _ => pending().await,
        }
    };
    tokio::select! {
        () = deadline => {
            tracing::warn!(pod = %context.name, open = context.open.count(), "drained no further: the deadline is here");
        }
        () = empty => {}
    }
}

fn inspect<F: Fn(Rc<TcpListener>, SocketAddr) -> JoinHandle<()>>(
    context: &Context,
    listeners: &mut Listeners<F>,
) -> Inspection {
    let expiry = context.identity.current().certificate.not_after;
    Inspection {
        listeners: listeners.repair(&context.addresses()),
        certificate_expired: expiry <= OffsetDateTime::now_utc(),
    }
}

fn report<F: Fn(Rc<TcpListener>, SocketAddr) -> JoinHandle<()>>(
    context: &Context,
    listeners: &Listeners<F>,
) -> Report {
    let current = context.identity.current();
    let certificate = &current.certificate;
    Report {
        listeners: listeners.state(),
        certificate: CertificateReport {
            identity: certificate.identity.to_string(),
            serial: certificate.serial.clone(),
            issuer: certificate.issuer.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            failing: context.identity.failing(),
        },
        open_connections: context.open.count(),
        pool: context.pool.report(),
        tasks: tasks::alive(),
    }
}
