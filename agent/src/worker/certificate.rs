//! The worker's own certificate: asked for, kept, renewed in time.

use super::{Settings, WorkerError};
use crate::identity::{
    CaError, ChainId, IssuedCertificate, LeafError, LeafKey, Retry, Trust, WorkloadCertificate, overdue_time,
    renewal_time,
};
use crate::mesh::{PodName, SpiffeId};
use crate::telemetry::WorkerMetrics;
use crate::tls;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateSigningRequestDer;
use serde::Serialize;
use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

/// The wall clock is looked at this often at least: a machine that slept must not oversleep a renewal.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A worker's way to the certificate authority. The node core made it for one identity, and no other can be
/// asked for through it.
#[derive(Clone)]
pub struct Signer {
    pub identity: SpiffeId,
    pub calls: mpsc::Sender<SignCall>,
    /// What the authority has peers' certificates verified against.
    pub trust: watch::Receiver<Arc<Trust>>,
}

/// A signing request on its way to the authority.
pub struct SignCall {
    pub identity: SpiffeId,
    pub csr: CertificateSigningRequestDer<'static>,
    pub lifetime: Duration,
    pub reply: oneshot::Sender<Result<IssuedCertificate, CaError>>,
}

/// How a pod's certificate stands, for the node core and for people.
#[derive(Clone, Debug, Default)]
pub struct CertificateState {
    /// `None` before there is one.
    pub life: Option<Life>,
    /// Set while the last attempt to get one, or another one, has failed.
    pub failing: Option<Failing>,
}

/// How long a certificate is good for.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When a successor should have been there for long.
    pub overdue: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failing {
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// The last one's.
    pub error: String,
}

/// What new connections are made under. Open ones keep what they were made under.
pub(super) struct Identity {
    pub applicant: Applicant,
    current: RefCell<Rc<Current>>,
}

pub(super) struct Current {
    pub certificate: WorkloadCertificate,
    pub issued: OffsetDateTime,
    pub server: Arc<ServerConfig>,
}

/// Who asks for certificates, and whom it tells how that goes.
pub(super) struct Applicant {
    pub pod: PodName,
    pub signer: Signer,
    pub settings: Arc<Settings>,
    pub metrics: Arc<WorkerMetrics>,
    pub state: watch::Sender<CertificateState>,
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
    pub async fn obtain(applicant: Applicant) -> Self {
        let first = applicant.insist(applicant.settings.cert_lifetime).await;
        Self { applicant, current: RefCell::new(Rc::new(first)) }
    }

    pub fn current(&self) -> Rc<Current> {
        self.current.borrow().clone()
    }

    pub fn client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, rustls::Error> {
        let domains = &self.applicant.settings.trust_domains;
        tls::client_config(&self.current().certificate, self.trust().borrow().clone(), domains, expected)
    }

    /// What peers are verified against, now and at every change.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.applicant.signer.trust.clone()
    }

    /// Why there is no other certificate yet, if that was tried and failed.
    pub fn failing(&self) -> Option<Failing> {
        self.applicant.state.borrow().failing.clone()
    }

    /// Renews the certificate for as long as the worker lives.
    pub async fn renew(self: Rc<Self>) {
        loop {
            let current = self.current();
            let certificate = &current.certificate;
            tokio::select! {
                () = sleep_until(renewal_time(current.issued, certificate.not_after, rand::random())) => {}
                serial = revoked(self.trust(), certificate.chain_id()) => {
                    tracing::warn!(pod = %self.applicant.pod, serial, "the pod's own certificate is revoked: asking for another");
                }
            }
            // What was granted may be less than what was asked for.
            let lifetime = Duration::try_from(certificate.not_after - current.issued).unwrap_or_default();
            let renewed = self.applicant.insist(lifetime).await;
            tracing::info!(pod = %self.applicant.pod, serial = renewed.certificate.serial,
                not_after = %renewed.certificate.not_after, "certificate renewed");
            *self.current.borrow_mut() = Rc::new(renewed);
        }
    }
}

impl Applicant {
    /// Asks until there is a certificate that is good for now, as often as fits into a certificate's life. A refusal is tried
    /// again, too: the authority may not have heard of the pod yet.
    async fn insist(&self, lifetime: Duration) -> Current {
        let mut retry = Retry::within(lifetime);
        loop {
            let error = match self.obtain().await {
                Ok(current) => {
                    self.tell(&current);
                    return current;
                }
                Err(e) => e.to_string(),
            };
            let delay = retry.next_delay(rand::random());
            match self.state.borrow().life {
                Some(Life { not_after, .. }) => tracing::warn!(pod = %self.pod, expiry = %not_after,
                    "the certificate could not be renewed, trying again in {delay:.1?}: {error}"),
                None => {
                    tracing::warn!(pod = %self.pod, "no certificate yet, asking again in {delay:.1?}: {error}")
                }
            }
            self.tell_failure(error);
            sleep(delay).await;
        }
    }

    async fn obtain(&self) -> Result<Current, ObtainError> {
        let Signer { identity, calls, trust } = &self.signer;
        let key = LeafKey::generate()?;
        let (reply, answer) = oneshot::channel();
        let call = SignCall {
            identity: identity.clone(),
            csr: key.signing_request(identity)?,
            lifetime: self.settings.cert_lifetime,
            reply,
        };
        calls.send(call).await.map_err(|_| ObtainError::Ending)?;
        let issued = answer.await.map_err(|_| ObtainError::Ending)??;
        let certificate = key.certificate(issued)?;
        if certificate.identity != *identity {
            return Err(ObtainError::OtherIdentity { asked: identity.clone(), found: certificate.identity });
        }
        let server = tls::server_config(&certificate, trust.clone(), &self.settings.trust_domains)?;
        Ok(Current { certificate, issued: OffsetDateTime::now_utc(), server })
    }

    fn tell(&self, Current { certificate, issued, .. }: &Current) {
        let not_after = certificate.not_after;
        let life = Life { overdue: overdue_time(*issued, not_after), not_after };
        self.metrics.set_certificate_expiry(not_after);
        self.metrics.set_renewal_failing_since(None);
        self.state.send_replace(CertificateState { life: Some(life), failing: None });
    }

    fn tell_failure(&self, error: String) {
        self.state.send_modify(|state| {
            let since = state.failing.as_ref().map_or_else(OffsetDateTime::now_utc, |failing| failing.since);
            self.metrics.set_renewal_failing_since(Some(since));
            state.failing = Some(Failing { since, error });
        });
    }
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

/// Resolves when the wall clock says so, a minute late at the most where the machine slept.
pub(super) async fn sleep_until(when: OffsetDateTime) {
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
