//! The agent's side: an authority that is asked over the network.

use super::address::CaAddr;
use super::channel::Channel;
use super::messages::{CertificateRequest, CertificateResponse};
use super::roots::Follower;
use crate::cluster::{ConnectError, ObjectName, connect};
use crate::grpc::{Code, Status};
use crate::identity::{
    BoxFuture, CaError, CertificateAuthority, IssuedCertificate, SigningRequest, Trust, is_self_issued,
};
use crate::mesh::{Mesh, SpiffeId};
use crate::tls;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509CertificationRequest};

pub struct RemoteOptions {
    pub address: CaAddr,
    /// Where the authority publishes what is trusted.
    pub config_map: ObjectName,
    /// Read anew for each request: the kubelet replaces it.
    pub token: PathBuf,
    /// How to reach the API server, outside of a pod.
    pub kubeconfig: Option<PathBuf>,
}

pub struct RemoteCa {
    channel: Channel,
    token: PathBuf,
    trust: watch::Receiver<Arc<Trust>>,
    errors: watch::Receiver<Vec<String>>,
    follower: JoinHandle<()>,
}

impl RemoteCa {
    /// Follows the trust on the caller's tokio runtime. Neither the API server nor the authority has to be there yet.
    ///
    /// # Errors
    /// When nothing says where the API server is, or how to speak with it.
    pub async fn start(
        options: RemoteOptions,
        mesh: watch::Receiver<Arc<Mesh>>,
    ) -> Result<Self, ConnectError> {
        let client = connect(options.kubeconfig.as_deref()).await?;
        let follower = Follower::new(options.config_map);
        Ok(Self {
            channel: Channel::new(options.address, mesh),
            token: options.token,
            trust: follower.trust(),
            errors: follower.errors(),
            follower: tokio::spawn(follower.run(client)),
        })
    }

    async fn ask(&self, request: &SigningRequest) -> Result<IssuedCertificate, Status> {
        let unavailable = |message| Status::new(Code::Unavailable, message);
        let trust = self.trust.borrow().clone();
        if trust.roots().next().is_none() {
            let why = self.errors.borrow().join(", ");
            return Err(unavailable(format!("the roots are not known yet: {why}")));
        }
        let token = read_token(&self.token).map_err(unavailable)?;
        let seconds = i64::try_from(request.lifetime.as_secs().max(1)).unwrap_or(i64::MAX);
        let csr = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", request.csr.to_vec()));
        let asked = CertificateRequest::for_identity(csr, seconds, request.identity.to_string());
        let answer = self.channel.create_certificate(&asked, &token, &trust).await?;
        let chain = chain(answer).map_err(|e| unavailable(format!("its answer is not usable: {e}")))?;
        check(&chain, request)
            .map_err(|e| unavailable(format!("its answer is not what was asked for: {e}")))?;
        // By the latest: it may have changed since.
        let trust = self.trust.borrow().clone();
        tls::verify_workload_chain(&trust, &chain)
            .map_err(|e| unavailable(format!("peers would not accept what it has signed: {e}")))?;
        Ok(IssuedCertificate { chain })
    }
}

impl CertificateAuthority for RemoteCa {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<IssuedCertificate, CaError>> {
        Box::pin(async move {
            let answer = self.ask(&request).await;
            answer.map_err(|status| self.error(request.identity, status))
        })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.clone()
    }

    fn errors(&self) -> watch::Receiver<Vec<String>> {
        self.errors.clone()
    }

    fn reach(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let trust = self.trust.borrow().clone();
            if trust.roots().next().is_none() {
                return Err(format!("its roots are not known yet: {}", self.errors.borrow().join(", ")));
            }
            read_token(&self.token)?;
            self.channel.reach(&trust).await
        })
    }
}

impl RemoteCa {
    fn error(&self, identity: SpiffeId, Status { code, message }: Status) -> CaError {
        let address = &self.channel.address;
        match code {
            Code::PermissionDenied | Code::InvalidArgument => {
                CaError::Refused { identity, reason: format!("{address} says: {message}") }
            }
            Code::Unavailable => CaError::Unavailable { identity, reason: format!("{address}: {message}") },
            code => CaError::Unavailable { identity, reason: format!("{address} says {code}: {message}") },
        }
    }
}

impl Drop for RemoteCa {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

fn read_token(file: &Path) -> Result<String, String> {
    let read = std::fs::read_to_string(file).map_err(|e| format!("--ca-token {}: {e}", file.display()))?;
    match read.trim() {
        "" => Err(format!("--ca-token {} is empty", file.display())),
        token => Ok(token.to_owned()),
    }
}

/// The chain for peers: without the root at its end, which they have.
fn chain(answer: CertificateResponse) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain = Vec::new();
    for pem in &answer.cert_chain {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            chain.push(certificate.map_err(|e| e.to_string())?);
        }
    }
    while chain.len() > 1 && chain.last().is_some_and(is_self_issued) {
        chain.pop();
    }
    if chain.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(chain) }
}

/// Whether the leaf is for the identity and the key of the request.
fn check(chain: &[CertificateDer<'_>], request: &SigningRequest) -> Result<(), String> {
    let leaf = chain.first().ok_or("it is empty")?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
    let (_, csr) = X509CertificationRequest::from_der(&request.csr).map_err(|e| e.to_string())?;
    if leaf.public_key().raw != csr.certification_request_info.subject_pki.raw {
        return Err("the certificate is for another key".to_owned());
    }
    let names = leaf.subject_alternative_name().map_err(|e| e.to_string())?;
    let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] if *uri == request.identity.to_string() => Ok(()),
        names => Err(format!("the certificate is for {names:?}")),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
