//! Pillion's node agent.

pub mod manifest;
pub mod mesh;
