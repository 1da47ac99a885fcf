//! Pillion's node agent.

pub mod hbone;
pub mod identity;
pub mod mesh;
pub mod tls;
