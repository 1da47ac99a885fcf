//! The worker's own certificate: asked for, kept, renewed in time.

use super::WorkerError;
use crate::identity::{
    CaError, IssuedCertificate, LeafError, LeafKey, Retry, WorkloadCertificate, renewal_time,
};
use crate::mesh::{PodName, SpiffeId};
use crate::telemetry::WorkerMetrics;
use crate::tls;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateSigningRequestDer;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// The wall clock is looked at this often at least: a machine that slept must not oversleep a renewal.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A worker's way to the certificate authority. The node core made it for one identity, and no other can be
/// asked for through it.
#[derive(Clone)]
pub struct Signer {
    pub identity: SpiffeId,
    pub calls: mpsc::Sender<SignCall>,
}

/// A signing request on its way to the authority.
pub struct SignCall {
    pub identity: SpiffeId,
    pub csr: CertificateSigningRequestDer<'static>,
    pub lifetime: Duration,
    pub reply: oneshot::Sender<Result<IssuedCertificate, CaError>>,
}

/// What new connections are made under. Open ones keep what they were made under.
pub(super) struct Identity {
    signer: Signer,
    current: RefCell<Rc<Current>>,
}

pub(super) struct Current {
    pub certificate: WorkloadCertificate,
    pub issued: OffsetDateTime,
    pub server: Arc<ServerConfig>,
}

#[derive(Debug, thiserror::Error)]
enum ObtainError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error("the certificate is for {found}, not for {asked}")]
    OtherIdentity { asked: SpiffeId, found: SpiffeId },
    #[error("it does not serve TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the agent is ending")]
    Ending,
}

impl Identity {
    /// Asks until there is a certificate. A worker without one serves nobody.
    pub async fn obtain(signer: Signer, lifetime: Duration, pod: &PodName) -> Self {
        let mut retry = Retry::default();
        loop {
            match signer.obtain(lifetime).await {
                Ok(current) => return Self { signer, current: RefCell::new(Rc::new(current)) },
                Err(e) => {
                    let delay = retry.next_delay(rand::random());
                    tracing::warn!(%pod, "no certificate yet, asking again in {delay:.1?}: {e}");
                    sleep(delay).await;
                }
            }
        }
    }

    pub fn current(&self) -> Rc<Current> {
        self.current.borrow().clone()
    }

    pub fn client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, rustls::Error> {
        tls::client_config(&self.current().certificate, expected)
    }
}

impl Signer {
    async fn obtain(&self, lifetime: Duration) -> Result<Current, ObtainError> {
        let key = LeafKey::generate()?;
        let (reply, answer) = oneshot::channel();
        let call = SignCall {
            identity: self.identity.clone(),
            csr: key.signing_request(&self.identity)?,
            lifetime,
            reply,
        };
        self.calls.send(call).await.map_err(|_| ObtainError::Ending)?;
        let issued = answer.await.map_err(|_| ObtainError::Ending)??;
        let certificate = key.certificate(issued)?;
        if certificate.identity != self.identity {
            let (asked, found) = (self.identity.clone(), certificate.identity);
            return Err(ObtainError::OtherIdentity { asked, found });
        }
        let server = tls::server_config(&certificate)?;
        Ok(Current { certificate, issued: OffsetDateTime::now_utc(), server })
    }
}

/// Renews the certificate for as long as the worker lives.
pub(super) async fn renew(
    identity: Rc<Identity>,
    lifetime: Duration,
    pod: PodName,
    metrics: Arc<WorkerMetrics>,
) {
    loop {
        let current = identity.current();
        let expiry = current.certificate.not_after;
        metrics.set_certificate_expiry(expiry);
        sleep_until(renewal_time(current.issued, expiry, rand::random())).await;
        let mut retry = Retry::default();
        loop {
            match identity.signer.obtain(lifetime).await {
                Ok(renewed) => {
                    tracing::info!(%pod, serial = renewed.certificate.serial,
                        not_after = %renewed.certificate.not_after, "certificate renewed");
                    *identity.current.borrow_mut() = Rc::new(renewed);
                    break;
                }
                Err(e) => {
                    let delay = retry.next_delay(rand::random());
                    tracing::warn!(%pod, %expiry,
                        "the certificate could not be renewed, trying again in {delay:.1?}: {e}");
                    sleep(delay).await;
                }
            }
        }
    }
}

async fn sleep_until(when: OffsetDateTime) {
    loop {
        let left = when - OffsetDateTime::now_utc();
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => sleep(left.min(LONGEST_SLEEP)).await,
            _ => return,
        }
    }
}

impl From<rustls::Error> for WorkerError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}
