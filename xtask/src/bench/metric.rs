//! What is measured: names, units, which way is better, and what each number means.

/// A metric of `results.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    LatencyP50,
    LatencyP99,
    LatencyP999,
    Rate,
    Throughput,
    CpuSPerGb,
    AppCpuSPerGb,
    MeshCpuSPerGb,
    KernelCpuSPerGb,
    CpuMsPerKreq,
    AppCpuMsPerKreq,
    MeshCpuMsPerKreq,
    KernelCpuMsPerKreq,
    MeshMemory,
    ReadyMs,
    Connect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

impl Metric {
    /// All, in the order in which a table shows them.
    pub const ALL: [Self; 16] = [
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::Rate,
        Self::Throughput,
        Self::CpuSPerGb,
        Self::AppCpuSPerGb,
        Self::MeshCpuSPerGb,
        Self::KernelCpuSPerGb,
        Self::CpuMsPerKreq,
        Self::AppCpuMsPerKreq,
        Self::MeshCpuMsPerKreq,
        Self::KernelCpuMsPerKreq,
        Self::MeshMemory,
        Self::ReadyMs,
        Self::Connect,
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::LatencyP50 => "latency_p50",
            Self::LatencyP99 => "latency_p99",
            Self::LatencyP999 => "latency_p999",
            Self::Rate => "rate",
            Self::Throughput => "throughput",
            Self::CpuSPerGb => "cpu_s_per_gb",
            Self::AppCpuSPerGb => "app_cpu_s_per_gb",
            Self::MeshCpuSPerGb => "mesh_cpu_s_per_gb",
            Self::KernelCpuSPerGb => "kernel_cpu_s_per_gb",
            Self::CpuMsPerKreq => "cpu_ms_per_kreq",
            Self::AppCpuMsPerKreq => "app_cpu_ms_per_kreq",
            Self::MeshCpuMsPerKreq => "mesh_cpu_ms_per_kreq",
            Self::KernelCpuMsPerKreq => "kernel_cpu_ms_per_kreq",
            Self::MeshMemory => "mesh_memory",
            Self::ReadyMs => "ready_ms",
            Self::Connect => "connect",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::LatencyP50 | Self::LatencyP99 | Self::LatencyP999 | Self::Connect => "µs",
            Self::Rate => "1/s",
            Self::Throughput => "Gb/s",
            Self::CpuSPerGb | Self::AppCpuSPerGb | Self::MeshCpuSPerGb | Self::KernelCpuSPerGb => "s",
            Self::CpuMsPerKreq
            | Self::AppCpuMsPerKreq
            | Self::MeshCpuMsPerKreq
            | Self::KernelCpuMsPerKreq
            | Self::ReadyMs => "ms",
            Self::MeshMemory => "KiB",
        }
    }

    pub fn better(self) -> Better {
        match self {
            Self::Rate | Self::Throughput => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// In a line, for who reads the report.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::LatencyP50 => "half of all requests or round trips took no longer",
            Self::LatencyP99 => "99 of 100 took no longer",
            Self::LatencyP999 => "999 of 1,000 took no longer",
            Self::Rate => "requests, round trips or connections completed in a second",
            Self::Throughput => "payload that arrived, in 10⁹ bits a second",
            Self::CpuSPerGb => "CPU time of everything on the machine for 10⁹ bytes of payload",
            Self::AppCpuSPerGb => "the part of it that both apps and the load generator used",
            Self::MeshCpuSPerGb => "the part of it that agents or sidecars used",
            Self::KernelCpuSPerGb => "the rest of it: interrupts and whatever no process is charged for",
            Self::CpuMsPerKreq => "CPU time of everything on the machine for 1,000 requests",
            Self::AppCpuMsPerKreq => "the part of it that both apps and the load generator used",
            Self::MeshCpuMsPerKreq => "the part of it that agents or sidecars used",
            Self::KernelCpuMsPerKreq => "the rest of it: interrupts and whatever no process is charged for",
            Self::MeshMemory => "proportional set size of all agents or sidecars",
            Self::ReadyMs => {
                "until a pod is in the mesh: from its label, or from its sidecar's first iptables rule"
            }
            Self::Connect => "what connect() to a listening socket takes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_found_by_its_name() {
        for metric in Metric::ALL {
            assert_eq!(Metric::named(metric.name()), Some(metric));
        }
        assert_eq!(Metric::named("latency_p51"), None);
    }
}
