//! Istio's AuthorizationPolicy: what is written (`written`), compiled for layer 4 (`compile`), what of it can never
//! match (`never`), and whom it concerns (`scope`). What a policy means for a connection is said elsewhere (`decide`).

mod compile;
mod never;
mod pattern;
mod policy;
mod scope;
mod written;

pub use compile::{DRY_RUN, is_dry_run};
pub(super) use pattern::label as possible_label;
pub use policy::AuthorizationPolicy;
pub(super) use scope::Scopes;

#[cfg(test)]
mod tests;
