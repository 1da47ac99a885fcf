//! What the cases are called and what is done in them, for who reads the report.

/// Cases that are shown as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub title: String,
    /// What is done; a sentence or two.
    pub about: &'static str,
}

/// The family that a case belongs to; a case unknown here is a family of its own.
pub fn of(case: &str) -> Family {
    let (title, about) = match case {
        "http1-c1" => ("HTTP/1.1, one connection", HTTP1_ONE),
        "http1-c16" | "http1-c32" | "http1-c64" | "http1-c256" => ("HTTP/1.1, many connections", HTTP1_MANY),
        "http2-c1" | "http2-c32" | "http2-c256" => ("HTTP/2", HTTP2),
        "http1-rate" => ("HTTP/1.1 at a fixed rate", HTTP1_RATE),
        "connections" => ("New connections", CONNECTIONS),
        "bulk-1" | "bulk-8" => ("Bulk, client to server", BULK_UP),
        "bulk-down-1" | "bulk-down-8" => ("Bulk, server to client", BULK_DOWN),
        "ping-pong-64" | "ping-pong-1k" | "ping-pong-16k" => ("TCP ping-pong", PING_PONG),
        "idle-10000" => ("Beside 10,000 idle connections", IDLE),
        "start" => ("Time to be ready", START),
        "hooks" => ("What the hooks cost", HOOKS),
        case if case.starts_with("pods-") => ("Memory over pods", PODS),
        case if case.starts_with("open-") => ("Memory over open connections", OPEN),
        case if case.starts_with("neighbour-") => ("Noisy neighbour", NEIGHBOUR),
        case => (case, ""),
    };
    Family { title: title.to_owned(), about }
}

const HTTP1_ONE: &str =
    "One keep-alive connection, one request at a time, 6 bytes back: what an app feels of a call.";
const HTTP1_MANY: &str = "Keep-alive connections, each with one request at a time, 1 KiB back, as fast as they go: \
    the CPU is full, so the rate tells the cost of a request.";
const HTTP2: &str =
    "The same over HTTP/2 without TLS of its own (h2c): one request at a time on each connection.";
const HTTP1_RATE: &str = "Requests at a fixed rate that every contestant can carry, over 32 connections. Latency counts \
    from the time a request was due, not from when it could be sent: no coordinated omission.";
const CONNECTIONS: &str = "A new connection for every request.";
const BULK_UP: &str = "As much as goes through, in 1 or 8 streams; bytes are counted where they arrive.";
const BULK_DOWN: &str = "The same, downloaded.";
const PING_PONG: &str =
    "Raw TCP: a message there, the same message back, one at a time; latency is of the round trip.";
const IDLE: &str = "10,000 connections are open and silent while requests come at a fixed rate.";
const START: &str = "A pod runs and shall be in the mesh: for Pillion from its label until the agent serves it, for a \
    sidecar from the first iptables rule until its listeners are there.";
const HOOKS: &str =
    "connect() in a process outside the mesh, on a node with Pillion's hooks and on one without.";
const PODS: &str = "Idle pods in the mesh: the memory of all agents or all sidecars.";
const OPEN: &str = "Idle connections of one pod, all held open; then closed, to see what stays. Memory of agents or sidecars.";
const NEIGHBOUR: &str = "A victim pod makes 1,000 requests a second; beside it, on the same nodes, another pod floods: with \
    bulk, with 1,000 busy connections, with new connections. The latencies are the victim's.";
