//! What has gone over the pod's direct connections so far, read off now and then: the kernel tells of a connection's
//! bytes by itself only when it ends.

use super::context::Context;
use super::direct::{DirectPath, LookError};
use crate::direct::{Sample, SampledSocket};
use crate::hbone;
use crate::kernel::{OpenSocket, SockDiag, Stage};
use crate::telemetry::WorkerMetrics;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Often enough for who scrapes every 15 s. 10,000 sockets take a worker 13 ms.
const INTERVAL: Duration = Duration::from_secs(5);

/// How near the pod is to its budget of memory.
pub(super) async fn memory(metrics: Arc<WorkerMetrics>) {
    loop {
        metrics.set_memory(hbone::held_by_pod(), hbone::pod_budget());
        sleep(INTERVAL).await;
    }
}

pub(super) async fn sample(context: Rc<Context>) {
    let direct = &context.direct;
    loop {
        sleep(INTERVAL).await;
        if context.metrics.direct().open() == 0 {
            continue;
        }
        match sockets(direct) {
            Ok(sockets) => direct.samples.send(Sample { netns: context.netns_cookie, sockets }),
            Err(e) => {
                tracing::warn!(pod = %context.name, "bytes of direct connections are counted when they end only: {e}");
                return;
            }
        }
    }
}

fn sockets(direct: &DirectPath) -> Result<Vec<SampledSocket>, LookError> {
    let sockets = SockDiag::open()?.sockets(true)?;
    sockets.iter().filter_map(|socket| sampled(direct, socket).transpose()).collect()
}

fn sampled(direct: &DirectPath, socket: &OpenSocket) -> Result<Option<SampledSocket>, LookError> {
    let (Stage::Open, Some(bytes)) = (socket.stage, socket.bytes) else { return Ok(None) };
    let OpenSocket { local, remote, .. } = *socket;
    // Those of the pod with itself: with its worker above all.
    if remote.ip().is_loopback() || remote.ip() == local.ip() {
        return Ok(None);
    }
    let flow = direct.flows.get(local, remote)?;
    Ok(Some(SampledSocket { local, remote, bytes, flow }))
}
