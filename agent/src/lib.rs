//! Pillion's node agent.

pub mod mesh;
