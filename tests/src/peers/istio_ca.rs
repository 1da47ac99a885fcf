//! A client of Istio's certificate authority protocol that is none of ours: of `pillion ca serve`, and of istiod.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use prost::Message;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::grpc::{Refused, exchange};

/// Where authorities listen.
pub const PORT: u16 = 15012;
const METHOD: &str = "istio.v1.auth.IstioCertificateService/CreateCertificate";

/// `google.rpc.Code`.
pub const INVALID_ARGUMENT: u32 = 3;
pub const PERMISSION_DENIED: u32 = 7;
pub const UNAVAILABLE: u32 = 14;
pub const UNAUTHENTICATED: u32 = 16;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: std::collections::BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, optional, tag = "3")]
    string: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, repeated, tag = "1")]
    chain: Vec<String>,
}

/// What came back.
pub struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
}

/// What is asked. The CSR names somebody else altogether.
#[derive(Clone, Copy, Default)]
pub struct Question<'a> {
    pub token: Option<&'a str>,
    /// The caller's cluster, which only istiod looks at.
    pub cluster: Option<&'a str>,
    pub identity: Option<&'a str>,
    pub seconds: i64,
    pub csr: Option<&'a str>,
}

/// Asks the authority at this thread's loopback; its certificate has to be for `host`, and of one of the roots.
pub fn ask(host: &'static str, question: &Question, roots: &str) -> Result<Issued> {
    let csr = match question.csr {
        Some(csr) => csr.to_owned(),
        None => {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names =
                vec![SanType::URI("spiffe://cluster.local/ns/kube-system/sa/root".try_into()?)];
            params.serialize_request(&KeyPair::generate()?)?.pem()?
        }
    };
    let field = |identity: &str| {
        let value = Value { string: Some(identity.to_owned()) };
        Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
    };
    let request =
        Request { csr, validity_duration: question.seconds, metadata: question.identity.map(field) };
    let bearer = question.token.map(|token| format!("Bearer {token}"));
    let metadata = [("authorization", bearer.as_deref()), ("clusterid", question.cluster)];
    let metadata: Vec<_> = metadata.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store(roots)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer: Response = runtime.block_on(async {
        let ask = async {
            let stream = TcpStream::connect((IpAddr::V4(Ipv4Addr::LOCALHOST), PORT)).await?;
            let stream =
                TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host)?, stream).await?;
            exchange(stream, &format!("https://{host}/{METHOD}"), &metadata, &request).await
        };
        timeout(Duration::from_secs(20), ask).await.context("the authority does not answer")?
    })?;
    let chain = answer.chain.iter().map(|pem| Ok(CertificateDer::from_pem_slice(pem.as_bytes())?));
    Ok(Issued { chain: chain.collect::<Result<_>>()? })
}

/// The gRPC status of a refusal, and what is said with it.
pub fn refusal(answer: Result<Issued>) -> (u32, String) {
    match answer {
        Ok(issued) => panic!("a certificate for {:?}", issued.identity()),
        Err(error) => match error.downcast::<Refused>() {
            Ok(Refused { code, message }) => (code, message),
            Err(error) => panic!("no answer: {error:#}"),
        },
    }
}

impl Issued {
    /// Whom the leaf names.
    pub fn identity(&self) -> String {
        let leaf = &self.chain[0];
        let begin = leaf.windows(9).position(|part| part == b"spiffe://").expect("an identity");
        // A DER string has its length before it.
        let end = begin + usize::from(leaf[begin - 1]);
        String::from_utf8_lossy(&leaf[begin..end]).into_owned()
    }

    /// Whether these roots make the leaf one of the mesh.
    pub fn verify(&self, roots: &str) -> Result<()> {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(store(roots)?),
            Arc::new(default_provider()),
        );
        verifier.build()?.verify_client_cert(&self.chain[0], &[], UnixTime::now())?;
        Ok(())
    }
}

fn store(roots: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    if store.is_empty() {
        bail!("there are no roots");
    }
    Ok(store)
}
