//! Who a pod is, how it comes to prove it, and whose proofs count.
//!
//! A worker makes its own key and asks a [`CertificateAuthority`] to sign for it: the key never leaves the
//! worker's thread. The authority's interface is a certificate signing request in and a chain out, which is
//! what remote authorities (Istio's CA protocol, SPIRE) speak too. What certificates are verified against is the
//! authority's to say, too, and apart from signing: it changes while certificates live.

mod authority;
pub(crate) mod ca_dir;
mod crl;
mod embedded;
mod error;
mod follow;
mod leaf;
pub(crate) mod mint;
pub(crate) mod place;
mod renewal;
mod trust;

pub use authority::{BoxFuture, CaError, CertificateAuthority, IssuedCertificate, SigningRequest};
pub(crate) use crl::{Crl, Revoked};
pub use embedded::EmbeddedCa;
pub(crate) use embedded::issue_to_server;
pub use error::CaDirError;
pub use leaf::{LeafError, LeafKey, WorkloadCertificate};
pub use renewal::{Retry, overdue_time, renewal_time};
pub use trust::{ChainId, ForgedCrl, Root, Trust, Trusted};
pub(crate) use trust::{certificate_pem, is_self_issued, serial_text};
