//! The authority of a cluster, `pillion ca serve`, at a real API server: who gets which certificate, and what becomes of the
//! root. There is no kubelet: tests make pods and say on which node they are.

mod agent;
mod root;
mod stage;
mod tokens;

use pillion_tests::peers::istio_ca as ask;
