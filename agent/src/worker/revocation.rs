//! Open connections whose peer's certificate is revoked: they are cut when the news arrives.

use super::certificate::{Identity, revoked};
use crate::identity::ChainId;
use crate::mesh::SpiffeId;
use std::net::SocketAddr;

/// Resolves when an open connection is to be cut, because its peer's certificate is revoked; that is counted and logged.
/// What was revoked while hands were shaken counts, too.
pub(super) async fn peer_revoked(identity: &Identity, peer: &SpiffeId, address: SocketAddr, chain: ChainId) {
    let serial = revoked(identity.trust(), chain).await;
    let pod = &identity.applicant.pod;
    tracing::warn!(%pod, %peer, %address, serial, "cut an open connection: its peer's certificate is revoked");
    identity.applicant.metrics.direct().cut("revoked");
}
