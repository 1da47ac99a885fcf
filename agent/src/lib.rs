//! Pillion's node agent. `ARCHITECTURE.md` has the map.

pub mod admin;
pub mod authz;
pub mod ca;
pub mod cli;
pub mod cluster;
pub mod cri;
pub mod decide;
pub mod direct;
mod fair;
pub mod fuzz;
mod grpc;
pub mod hbone;
pub mod identity;
pub mod istio_ca;
pub mod kernel;
mod lock;
pub mod manifest;
mod memory;
pub mod mesh;
pub mod node;
pub mod nri;
pub mod sandbox;
pub mod tally;
pub mod telemetry;
pub mod tls;
pub mod worker;
