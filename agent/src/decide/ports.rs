//! Ports that the mesh keeps to itself.

/// The ports that are a worker's own in a captured pod: outbound, inbound, HBONE (Istio's numbers).
const RESERVED_PORTS: [u16; 3] = [15001, 15006, 15008];

/// A tunnel to such a port would lead into the mesh again, without end.
pub fn is_reserved(port: u16) -> bool {
    RESERVED_PORTS.contains(&port)
}
