//! Pillion's node agent. `ARCHITECTURE.md` has the map.

pub mod cli;
pub mod hbone;
pub mod identity;
pub mod kernel;
pub mod mesh;
pub mod node;
pub mod tls;
pub mod worker;
