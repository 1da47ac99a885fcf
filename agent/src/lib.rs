//! Pillion's node agent.

pub mod identity;
pub mod mesh;
pub mod tls;
