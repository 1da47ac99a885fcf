//! Pillion's node agent. `ARCHITECTURE.md` has the map.

pub mod admin;
pub mod decide;
pub mod hbone;
pub mod identity;
pub mod kernel;
pub mod manifest;
pub mod mesh;
pub mod telemetry;
