//! Results that nobody measured, for tests of the report: every case and contestant, some missing, some noise.

use crate::bench::baseline;
use crate::bench::metric::Metric;
use crate::bench::results::{ALL_CASES, Disturbed, Machine, Mode, Results, Settings};

const ROUNDS: usize = 5;
/// Name, latency, cost of CPU (both as multiples of no mesh), KiB of a mesh without pods, of a pod, of a connection.
const CONTESTANTS: [(&str, [f64; 5]); 7] = [
    ("none", [1.0, 1.0, 0.0, 0.0, 0.0]),
    ("none-same-node", [0.9, 0.9, 0.0, 0.0, 0.0]),
    ("pillion", [1.6, 1.8, 20_000.0, 110.0, 6.0]),
    ("pillion-same-node", [1.3, 1.5, 10_000.0, 110.0, 6.0]),
    ("pillion-direct", [0.8, 0.7, 10_000.0, 110.0, 1.0]),
    ("envoy-sidecar", [5.3, 6.8, 0.0, 48_000.0, 27.0]),
    ("envoy-sidecar-c1", [5.0, 6.1, 0.0, 41_000.0, 25.0]),
];

/// The same every time.
pub fn results() -> Results {
    let mut results = Results::new("2026-01-02T03:04:05Z".into(), machine(), settings());
    let mut noise = Noise(1);
    for round in 0..ROUNDS {
        for contestant in CONTESTANTS {
            add_round(&mut results, contestant, round, &mut noise);
        }
    }
    results.miss("envoy-sidecar", "pods-250", "would need 250 × 47 MiB, and 9,800 MiB are free");
    results.miss("slow <mesh> & co", ALL_CASES, "its command ended with status 1 before it was ready");
    results.disturbed.push(Disturbed {
        case: "bulk-1".into(),
        contestant: "none".into(),
        round: 2,
        why: "the hypervisor took 6 % of the time".into(),
    });
    results.versions.insert("nginx".into(), "nginx/1.22.1".into());
    results.commands.insert("http1-c1".into(), "pillion-load http --path /hello --connections 1".into());
    results
}

fn add_round(
    results: &mut Results,
    (name, [latency, cpu, base, pod, open]): (&str, [f64; 5]),
    round: usize,
    noise: &mut Noise,
) {
    let mut add = |case: &str, metric, value: f64| results.add(name, case, metric, value * noise.next());
    for (case, p50) in [("http1-c1", 66.0), ("http1-rate", 240.0), ("ping-pong-64", 63.0)] {
        add(case, Metric::LatencyP50, p50 * latency);
        add(case, Metric::LatencyP99, p50 * latency * 1.5);
        add(case, Metric::LatencyP999, p50 * latency * 6.0);
    }
    add("http1-c32", Metric::Rate, 74_000.0 / cpu);
    for (case, total, all, [app, mesh, kernel]) in [
        (
            "http1-c32",
            25.0,
            Metric::CpuMsPerKreq,
            [Metric::AppCpuMsPerKreq, Metric::MeshCpuMsPerKreq, Metric::KernelCpuMsPerKreq],
        ),
        (
            "bulk-1",
            0.6,
            Metric::CpuSPerGb,
            [Metric::AppCpuSPerGb, Metric::MeshCpuSPerGb, Metric::KernelCpuSPerGb],
        ),
    ] {
        add(case, all, total * cpu);
        add(case, app, total * 0.8);
        add(case, mesh, total * (cpu - 1.0).max(0.0) * 0.8);
        add(case, kernel, total * (0.2 + (cpu - 1.0).max(0.0) * 0.2));
    }
    add("bulk-1", Metric::Throughput, 17.0 / cpu);
    add("bulk-8", Metric::Throughput, 18.0 / cpu);
    if pod > 0.0 {
        for pods in [1, 10, 50, 100, 250].into_iter().filter(|pods| pod < 1e4 || *pods < 250) {
            add(&format!("pods-{pods}"), Metric::MeshMemory, base + pod * f64::from(pods));
        }
        for connections in [1, 1000, 10_000, 30_000] {
            let memory = base + 2.0 * pod + open * f64::from(connections);
            add(&format!("open-{connections}"), Metric::MeshMemory, memory);
        }
        add("open-30000-closed", Metric::MeshMemory, base + 2.0 * pod + open * 3_000.0);
        add("start", Metric::ReadyMs, if pod > 1e4 { 310.0 } else { 6.0 });
    }
    if !baseline::is_on_one_node(name) && !name.ends_with("c1") {
        for (case, worse) in [("alone", 1.0), ("bulk", 9.0), ("connections", 14.0), ("handshakes", 6.0)] {
            let case = format!("neighbour-{case}");
            add(&case, Metric::LatencyP50, 90.0 * latency * f64::sqrt(worse));
            add(&case, Metric::LatencyP99, 300.0 * latency * worse);
            add(&case, Metric::LatencyP999, 900.0 * latency * worse);
        }
    }
    for (case, p50) in [("http1-c1", 66.0), ("http1-rate", 240.0)] {
        let slower = 1.0 + round as f64 * 0.02;
        let points: Vec<(f64, f64)> = (0..=200)
            .map(|step| {
                let nines = f64::from(step) / 50.0;
                let tail = 0.55 + 1.5 * (nines / 1.2) + 0.4 * (nines - 1.6).max(0.0).powi(2);
                (p50 * latency * slower * tail, 1.0 - 10_f64.powf(-nines))
            })
            .collect();
        results.add_distribution(name, case, &points);
    }
}

fn machine() -> Machine {
    Machine {
        kernel: "6.18.0".into(),
        cpu: "A processor of a well-known maker, 2.6 GHz".into(),
        cores: 2,
        memory_mib: 24_000,
        congestion_control: "bbr".into(),
        mtu: 1500,
        virtual_machine: true,
        steal_since_boot: 0.0012,
        load_before: [0.1, 0.4, 0.7],
    }
}

fn settings() -> Settings {
    Settings { mode: Mode::Full, rounds: ROUNDS, seconds: 3.0 }
}

/// A few percent up and down.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1.0 + (f64::from(self.0 >> 16) / 65_536.0 - 0.5) * 0.06
    }
}
