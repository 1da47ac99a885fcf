//! Passes workers' signing requests on to the certificate authority, and counts what comes of them.

use crate::identity::{CaError, CertificateAuthority, IssuedCertificate, SigningRequest};
use crate::telemetry::NodeMetrics;
use crate::worker::SignCall;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Requests under way at once: enough to start a full node quickly, few enough to spare a remote authority.
const AT_ONCE: usize = 16;

/// Workers whose requests wait here wait in turn.
pub const QUEUE: usize = 256;

/// An authority that does not answer must not keep the slots for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub async fn run(
    ca: Arc<dyn CertificateAuthority>,
    mut calls: mpsc::Receiver<SignCall>,
    metrics: Arc<NodeMetrics>,
) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(call) = calls.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (ca, metrics) = (ca.clone(), metrics.clone());
        tokio::spawn(async move {
            let answer = sign(&*ca, &call).await;
            metrics.ca_request(match &answer {
                Ok(_) => "ok",
                Err(CaError::Refused { .. }) => "refused",
                Err(CaError::Unavailable { .. }) => "unavailable",
            });
            // A worker that ended in the meantime needs no certificate.
            let _ = call.reply.send(answer);
            drop(slot);
        });
    }
}

async fn sign(ca: &dyn CertificateAuthority, call: &SignCall) -> Result<IssuedCertificate, CaError> {
    let request =
        SigningRequest { identity: call.identity.clone(), csr: call.csr.clone(), lifetime: call.lifetime };
    match timeout(ANSWER_WITHIN, ca.sign(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(CaError::Unavailable {
            identity: call.identity.clone(),
            reason: format!("it did not answer within {ANSWER_WITHIN:?}"),
        }),
    }
}
