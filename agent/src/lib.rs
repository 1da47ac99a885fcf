//! Pillion's node agent.

pub mod kernel;
pub mod mesh;
