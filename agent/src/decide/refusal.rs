//! Why a connection that an app opened goes nowhere.

use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("service {service} has no ready endpoint for port {port}")]
    NoEndpoint { service: String, port: u16 },
    #[error(
        "service {service} has no endpoint for port {port} on node {node}, and its internalTrafficPolicy is Local"
    )]
    NoEndpointOnNode { service: String, port: u16, node: String },
    #[error("service {service} is refused; manifests.errors in /config_dump says why")]
    RefusedService { service: String },
    #[error("service {service} has no TCP port {port}")]
    NoServicePort { service: String, port: u16 },
    #[error("port {} of pod {pod} is the mesh's own", target.port())]
    ReservedPort { pod: String, target: SocketAddr },
    #[error("the endpoint {target} is a Service's own address, and no pod's")]
    EndpointIsService { target: SocketAddr },
}

impl Refusal {
    /// The reason as access log and metrics give it (Envoy's response flags).
    pub fn response_flags(&self) -> &'static str {
        match self {
            Self::NoEndpoint { .. } | Self::NoEndpointOnNode { .. } => "UH",
            Self::RefusedService { .. }
            | Self::NoServicePort { .. }
            | Self::ReservedPort { .. }
            | Self::EndpointIsService { .. } => "NR",
        }
    }
}
