//! istiod as the certificate authority of Pillion's agents: a real istiod at a real API server. There is no kubelet: tests make
//! pods and say on which node they are.

mod agents;
mod callers;
mod stage;
