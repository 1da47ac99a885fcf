//! Pods that a real containerd makes, brought into the mesh before their first instruction. Each test has a machine of its
//! own, is the kubelet there, and writes the objects that the API server would have.

mod pods;

/// By this name `cargo xtask test` tells them from tests that need no container runtime: they go with the cluster's.
mod with_containerd {
    mod by_cri;
    mod first_act;
    mod handover;
    mod hold;
    mod refused;
}
