//! How long an open connection between workers may carry new streams: for as long as a new one would come up between the
//! same certificates. What is open goes on: a stream is what it was when it was opened.

use super::certificate::{Identity, sleep_until};
use crate::identity::{ChainId, Trust};
use crate::tls::{PeerChain, PeerRole, explain};
use std::io;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::watch;

/// What both sides have proven of themselves when they shook hands.
pub(super) struct Proof {
    peer: PeerChain,
    role: PeerRole,
    /// When the first certificate of either side expires.
    not_after: OffsetDateTime,
    trust: watch::Receiver<Arc<Trust>>,
}

/// What was trusted, and what was shown, when hands began to be shaken.
pub(super) struct Before {
    trust: watch::Receiver<Arc<Trust>>,
    own_not_after: OffsetDateTime,
}

impl Before {
    /// To be called before the handshake: then no change of what is trusted is missed.
    pub fn now(identity: &Identity) -> Self {
        let mut trust = identity.trust();
        trust.mark_unchanged();
        Self { trust, own_not_after: identity.current().certificate.not_after }
    }

    /// The handshake has succeeded.
    pub fn proof(self, peer: PeerChain, role: PeerRole) -> Proof {
        let not_after =
            peer.not_after().map_or(self.own_not_after, |of_peer| of_peer.min(self.own_not_after));
        Proof { peer, role, not_after, trust: self.trust }
    }
}

impl Proof {
    pub fn peer(&self) -> ChainId {
        self.peer.id()
    }

    /// Whether a certificate has expired: to be asked before each new stream, since a machine that slept wakes no timer.
    pub fn has_expired(&self) -> bool {
        self.not_after <= OffsetDateTime::now_utc()
    }

    /// Resolves when the connection is not for new streams any more, to the reason: a certificate has expired, or no root
    /// that is trusted now vouches for the peer.
    pub async fn over(&self) -> String {
        let mut trust = self.trust.clone();
        loop {
            tokio::select! {
                () = sleep_until(self.not_after) => return "a certificate that it was made under has expired".into(),
                changed = trust.changed() => {
                    if changed.is_err() {
                        // The agent ends, and with it the worker.
                        return std::future::pending().await;
                    }
                    let now = trust.borrow_and_update().clone();
                    if let Err(e) = self.peer.verify(&now, self.role) {
                        return explain(&io::Error::other(e));
                    }
                }
            }
        }
    }
}
