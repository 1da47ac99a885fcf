//! Who a pod is, and how it comes to prove it.
//!
//! A worker makes its own key and asks a [`CertificateAuthority`] to sign for it: the key never leaves the
//! worker's thread. The authority's interface is a certificate signing request in and a chain out, which is
//! what remote authorities (Istio's CA protocol, SPIRE) speak too.

mod authority;
mod embedded;
mod files;
mod leaf;
mod renewal;

pub use authority::{BoxFuture, CaError, CertificateAuthority, IssuedCertificate, SigningRequest};
pub use embedded::EmbeddedCa;
pub use leaf::{LeafError, LeafKey, WorkloadCertificate};
pub use renewal::{Retry, renewal_time};
