//! Pods that a real containerd makes, brought into the mesh before their first instruction. Each test has a machine of its
//! own, is the kubelet there, and writes the objects that the API server would have.

mod first_act;
mod hold;
mod pods;
mod refused;
