//! What a contestant is measured against.

/// Pods on two nodes, plain TCP.
pub const NONE: &str = "none";
/// Pods on one node, plain TCP.
pub const NONE_SAME_NODE: &str = "none-same-node";

/// Client and server share a node.
pub fn is_on_one_node(contestant: &str) -> bool {
    contestant == NONE_SAME_NODE || of(contestant) == Some(NONE_SAME_NODE)
}

/// The contestant without a mesh that has its pods in the same places; a baseline has none itself.
pub fn of(contestant: &str) -> Option<&'static str> {
    match contestant {
        NONE | NONE_SAME_NODE => None,
        "pillion-same-node" | "pillion-direct" => Some(NONE_SAME_NODE),
        _ => Some(NONE),
    }
}
