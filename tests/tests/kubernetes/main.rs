//! Pillion on a real Kubernetes of two nodes, installed as a user installs it.
//!
//! The cluster is brought up once, and what is proven of it is proven in the order of a mesh's life: each part leaves it
//! as it has found it.

mod deployed;
mod in_a_cluster;
