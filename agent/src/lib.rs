//! Pillion's node agent.

pub mod decide;
pub mod manifest;
pub mod mesh;
