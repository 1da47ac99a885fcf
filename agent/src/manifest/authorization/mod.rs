//! Istio's AuthorizationPolicy: what is written (`written`), compiled for layer 4 (`compile`), and whom it concerns
//! (`scope`). What a policy means for a connection is said elsewhere (`decide`).

mod compile;
mod policy;
mod scope;
mod written;

pub use policy::AuthorizationPolicy;
pub(super) use scope::Scopes;

#[cfg(test)]
mod tests;
