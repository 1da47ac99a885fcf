//! Passes workers' signing requests on to the certificate authority.

use crate::identity::{CaError, CertificateAuthority, SigningRequest};
use crate::worker::SignCall;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Requests under way at once: enough to start a full node quickly, few enough to spare a remote authority.
const AT_ONCE: usize = 16;

/// Workers whose requests wait here wait in turn.
pub const QUEUE: usize = 256;

pub async fn run(ca: Arc<dyn CertificateAuthority>, mut calls: mpsc::Receiver<SignCall>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(call) = calls.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let ca = ca.clone();
        tokio::spawn(async move {
            let answer = sign(&*ca, &call).await;
            // A worker that ended in the meantime needs no certificate.
            let _ = call.reply.send(answer);
            drop(slot);
        });
    }
}

async fn sign(
    ca: &dyn CertificateAuthority,
    call: &SignCall,
) -> Result<crate::identity::IssuedCertificate, CaError> {
    let request =
        SigningRequest { identity: call.identity.clone(), csr: call.csr.clone(), lifetime: call.lifetime };
    ca.sign(request).await
}
