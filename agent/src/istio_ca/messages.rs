//! What is said, as far as it is read (`security/v1alpha1/ca.proto` of istio.io/api).

use std::collections::HashMap;

/// The one method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The field of a request's metadata by which a node's agent says for whom it asks.
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// In seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    #[prost(map = "string, message", tag = "1")]
    pub fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`, if it is a string.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    #[prost(string, optional, tag = "3")]
    pub string: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM, one certificate each: the leaf first, the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

impl CertificateRequest {
    pub fn for_identity(csr: String, validity_duration: i64, identity: String) -> Self {
        let fields = HashMap::from([(IMPERSONATED_IDENTITY.to_owned(), Value { string: Some(identity) })]);
        Self { csr, validity_duration, metadata: Some(Struct { fields }) }
    }

    /// Whom a node's agent asks for; an empty one says nothing, as in Istio.
    pub fn impersonated(&self) -> Option<&str> {
        let value = self.metadata.as_ref()?.fields.get(IMPERSONATED_IDENTITY)?;
        value.string.as_deref().filter(|identity| !identity.is_empty())
    }
}
