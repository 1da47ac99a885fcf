//! Istio's AuthorizationPolicy: what is written (`written`), compiled for layer 4 (`compile`), and whom it concerns
//! (`scope`). What a policy means for a connection is said elsewhere (`decide`).

mod compile;
mod scope;
mod written;

pub(super) use scope::Scopes;
pub use written::AuthorizationPolicy;

#[cfg(test)]
mod tests;
