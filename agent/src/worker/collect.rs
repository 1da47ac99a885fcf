//! Attested connections of the pod that are over, and whose end the kernel has not told: their entries would stay in a table
//! that the whole node shares.

use super::context::Context;
use super::direct::LookError;
use crate::kernel::{FlowEnd, SockDiag};
use std::collections::HashSet;
use std::net::SocketAddr;

/// `ends` were there before this was called: an end whose connection has no socket now is over.
pub(super) fn collect(context: &Context, ends: &[FlowEnd]) {
    match end_those_without_socket(context, ends) {
        Ok(0) => {}
        Ok(ended) => {
            tracing::info!(pod = %context.name, ended, "direct connections were over without a word of the kernel's");
        }
        Err(e) => {
            tracing::warn!(pod = %context.name, "direct connections that are over may still be noted: {e}")
        }
    }
}

fn end_those_without_socket(context: &Context, ends: &[FlowEnd]) -> Result<usize, LookError> {
    let sockets = SockDiag::open()?.sockets(false)?;
    let open: HashSet<(SocketAddr, SocketAddr)> =
        sockets.iter().map(|socket| (socket.local, socket.remote)).collect();
    let mut ended = 0;
    for end in ends.iter().filter(|end| !open.contains(&(end.local, end.remote))) {
        ended += usize::from(context.direct.flows.end(end)?);
    }
    Ok(ended)
}
