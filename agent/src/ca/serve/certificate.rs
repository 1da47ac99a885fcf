//! The server's own certificate: signed by what it signs with, for its host names, and never written down.

use crate::identity::{EmbeddedCa, issue_to_server, renewal_time};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::sleep;

const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The wall clock is looked at this often at least: a machine that slept must not oversleep a renewal.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct OwnCertificate(RwLock<Option<Arc<CertifiedKey>>>);

impl OwnCertificate {
    /// Keeps one on the caller's tokio runtime: another before it ends, and when another root signs.
    pub fn keep(ca: Arc<EmbeddedCa>, names: Vec<String>) -> Arc<Self> {
        let own = Arc::new(Self::default());
        tokio::spawn(renew(own.clone(), ca, names));
        own
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn renew(own: Arc<OwnCertificate>, ca: Arc<EmbeddedCa>, names: Vec<String>) {
    let mut signing = ca.signing();
    loop {
        let root = signing.borrow_and_update().clone();
        let now = OffsetDateTime::now_utc();
        // Without a good root the former certificate stays.
        let mut due = now + LONGEST_SLEEP;
        if let Ok(root) = root {
            match issue_to_server(&root, &names, LIFETIME) {
                Ok((certificate, not_after)) => {
                    *own.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
                    due = renewal_time(now, not_after, rand::random());
                }
                Err(e) => tracing::error!("the server's own certificate: {e}"),
            }
        }
        loop {
            let left = Duration::try_from(due - OffsetDateTime::now_utc()).unwrap_or_default();
            if left.is_zero() {
                break;
            }
            tokio::select! {
                changed = signing.changed() => if changed.is_err() { return } else { break },
                () = sleep(left.min(LONGEST_SLEEP)) => {}
            }
        }
    }
}
