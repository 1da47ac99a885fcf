//! Certificates that are revoked while they are in use: the pod's own, and those of peers that it has connections with.

use super::certificate::Identity;
use crate::identity::{ChainId, Trust};
use crate::mesh::SpiffeId;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Resolves when an open connection is to be cut, because its peer's certificate is revoked; that is counted and logged.
/// What was revoked while hands were shaken counts, too.
pub(super) async fn peer_revoked(identity: &Identity, peer: &SpiffeId, address: SocketAddr, chain: ChainId) {
    let serial = revoked(identity.trust(), chain).await;
    let pod = &identity.applicant.pod;
    tracing::warn!(%pod, %peer, %address, serial, "cut an open connection: its peer's certificate is revoked");
    identity.applicant.metrics.direct().cut("revoked");
}

/// Resolves once `trust` says that a certificate of the chain is revoked, at once if it does so already; gives its serial
/// number.
pub(super) async fn revoked(mut trust: watch::Receiver<Arc<Trust>>, chain: ChainId) -> String {
    loop {
        let found = trust.borrow_and_update().revoked(&chain);
        match found {
            Some(serial) => return serial,
            None if trust.changed().await.is_ok() => {}
            // The agent ends, and with it the worker.
            None => pending().await,
        }
    }
}
