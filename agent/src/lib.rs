//! Pillion's node agent.

pub mod admin;
pub mod decide;
pub mod manifest;
pub mod mesh;
pub mod telemetry;
