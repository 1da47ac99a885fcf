//! istiod as the certificate authority of Pillion's agents: a real istiod at a real API server, asked as agents ask. There is no
//! kubelet: tests make pods and say on which node they are.

mod callers;
mod captured;
mod stage;
