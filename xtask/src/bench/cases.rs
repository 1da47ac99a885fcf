//! The cases, as data: what is done in each, and what is told of it.

use super::load::{Http, Load, Version};
use super::metric::Metric;
use Metric::{
    AppCpuMsPerKreq, AppCpuSPerGb, CpuMsPerKreq, CpuSPerGb, KernelCpuMsPerKreq, KernelCpuSPerGb, LatencyP50,
    LatencyP99, LatencyP999, MeshCpuMsPerKreq, MeshCpuSPerGb, MeshMemory, Rate, Throughput,
};

pub struct Case {
    pub name: &'static str,
    pub quick: Quick,
    pub what: What,
}

/// Whether `--quick` has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Quick {
    No,
    /// For contestants on two nodes.
    Apart,
    /// For those on one node.
    Together,
    All,
}

#[derive(Clone, Copy)]
pub enum What {
    Traffic(Traffic),
    /// Memory of the mesh on a node with so many idle pods.
    Pods(usize),
    /// Memory of the mesh with so many open connections of one pod; where it says so, after they have closed, too.
    Open {
        connections: u32,
        closed: Option<&'static str>,
    },
    /// The time until a pod is in the mesh.
    Start,
    /// connect() of a process outside of the mesh.
    Hooks,
    /// The latency of a pair of pods while another pair on the same nodes is flooded with this.
    Neighbour(Option<Load>),
}

#[derive(Clone, Copy)]
pub struct Traffic {
    pub load: Load,
    pub metrics: &'static [Metric],
    /// All latencies are kept, for a plot.
    pub distribution: bool,
    /// Connections that are open and idle all the while.
    pub idle: u32,
}

/// Requests a second of the open loop on 32 connections. It has to be one rate for all, for latency at different loads
/// cannot be compared, and one that all carry without a queue: with sidecars a request costs about 0.11 ms of CPU time
/// when they are busy, and more when they are not, so that 4,000 a second take a third of two cores at most.
pub const RATE: u32 = 4_000;

/// The victim of a noisy neighbour: a service with little to do, which notices every wait.
pub const VICTIM: Load = Load::Http(Http { rate: Some(1_000), ..keep_alive(8, "/1k") });

pub const CASES: &[Case] = &[
    http("http1-c1", Quick::All, keep_alive(1, "/hello"), &[LatencyP50, LatencyP99, LatencyP999, Rate]),
    http("http1-c16", Quick::Together, keep_alive(16, "/1k"), BUSY),
    http("http1-c32", Quick::Apart, keep_alive(32, "/1k"), BUSY),
    http("http1-c64", Quick::Together, keep_alive(64, "/1k"), BUSY),
    http("http1-c256", Quick::No, keep_alive(256, "/1k"), BUSY),
    http("http2-c1", Quick::No, http2(1, "/hello"), &[LatencyP50, LatencyP99, LatencyP999, Rate]),
    http("http2-c32", Quick::No, http2(32, "/1k"), BUSY),
    http("http2-c256", Quick::No, http2(256, "/1k"), BUSY),
    http("http1-rate", Quick::Apart, Http { rate: Some(RATE), ..keep_alive(32, "/1k") }, LATENCY),
    http("connections", Quick::All, Http { close: true, ..keep_alive(8, "/hello") }, CONNECTIONS),
    bulk("bulk-1", Quick::All, 1, "up"),
    bulk("bulk-8", Quick::No, 8, "up"),
    bulk("bulk-down-1", Quick::No, 1, "down"),
    bulk("bulk-down-8", Quick::No, 8, "down"),
    ping_pong("ping-pong-64", Quick::Apart, 64),
    ping_pong("ping-pong-1k", Quick::No, 1 << 10),
    ping_pong("ping-pong-16k", Quick::No, 16 << 10),
    Case {
        name: "idle-10000",
        quick: Quick::No,
        what: What::Traffic(Traffic {
            load: Load::Http(Http { rate: Some(RATE), ..keep_alive(32, "/1k") }),
            metrics: &[LatencyP50, LatencyP99, LatencyP999, MeshMemory],
            distribution: false,
            idle: 10_000,
        }),
    },
    neighbour("neighbour-alone", Quick::Apart, None),
    neighbour("neighbour-bulk", Quick::Apart, Some(Load::Bulk { streams: 4, direction: "up" })),
    neighbour("neighbour-connections", Quick::No, Some(Load::Http(keep_alive(1_000, "/1k")))),
    neighbour(
        "neighbour-handshakes",
        Quick::No,
        Some(Load::Http(Http { close: true, ..keep_alive(64, "/hello") })),
    ),
    Case { name: "start", quick: Quick::Apart, what: What::Start },
    Case { name: "hooks", quick: Quick::Apart, what: What::Hooks },
    pods("pods-1", Quick::Apart, 1),
    pods("pods-10", Quick::Apart, 10),
    pods("pods-50", Quick::No, 50),
    pods("pods-100", Quick::No, 100),
    pods("pods-250", Quick::No, 250),
    open("open-1", Quick::Apart, 1, None),
    open("open-1000", Quick::Apart, 1_000, None),
    open("open-10000", Quick::No, 10_000, Some("open-10000-closed")),
    open("open-30000", Quick::No, 30_000, Some("open-30000-closed")),
];

const LATENCY: &[Metric] = &[LatencyP50, LatencyP99, LatencyP999];
const BUSY: &[Metric] = &[
    Rate,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    CpuMsPerKreq,
    AppCpuMsPerKreq,
    MeshCpuMsPerKreq,
    KernelCpuMsPerKreq,
];
const CONNECTIONS: &[Metric] = &[Rate, CpuMsPerKreq, AppCpuMsPerKreq, MeshCpuMsPerKreq, KernelCpuMsPerKreq];
const BULK: &[Metric] = &[Throughput, CpuSPerGb, AppCpuSPerGb, MeshCpuSPerGb, KernelCpuSPerGb];

const fn keep_alive(connections: u32, path: &'static str) -> Http {
    Http { version: Version::Http1, path, connections, rate: None, close: false }
}

const fn http2(connections: u32, path: &'static str) -> Http {
    Http { version: Version::Http2, ..keep_alive(connections, path) }
}

const fn http(name: &'static str, quick: Quick, http: Http, metrics: &'static [Metric]) -> Case {
    // The plots are of latencies that are not the load's own doing: one request at a time, or a fixed rate.
    let distribution = http.connections == 1 || http.rate.is_some();
    let traffic = Traffic { load: Load::Http(http), metrics, distribution, idle: 0 };
    Case { name, quick, what: What::Traffic(traffic) }
}

const fn bulk(name: &'static str, quick: Quick, streams: u32, direction: &'static str) -> Case {
    let load = Load::Bulk { streams, direction };
    let traffic = Traffic { load, metrics: BULK, distribution: false, idle: 0 };
    Case { name, quick, what: What::Traffic(traffic) }
}

const fn ping_pong(name: &'static str, quick: Quick, size: u32) -> Case {
    let traffic =
        Traffic { load: Load::PingPong { size }, metrics: LATENCY, distribution: size == 64, idle: 0 };
    Case { name, quick, what: What::Traffic(traffic) }
}

const fn neighbour(name: &'static str, quick: Quick, flood: Option<Load>) -> Case {
    Case { name, quick, what: What::Neighbour(flood) }
}

const fn pods(name: &'static str, quick: Quick, count: usize) -> Case {
    Case { name, quick, what: What::Pods(count) }
}

const fn open(name: &'static str, quick: Quick, connections: u32, closed: Option<&'static str>) -> Case {
    Case { name, quick, what: What::Open { connections, closed } }
}
