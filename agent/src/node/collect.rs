//! Has the shared tables of attested connections hold open ones only.

use super::audit::Findings;
use super::supervisor::Supervisor;
use crate::kernel::{FlowEnd, KernelError};
use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;
use tokio::task::spawn_blocking;

/// A connection's end is told by the kernel; what is looked for here is rare, and reading the table takes 2 µs an entry.
const INTERVAL: Duration = Duration::from_secs(30);

impl Supervisor {
    /// At most every 30 s: takes out what dead pods have left, and has each worker look for the sockets of its pod's
    /// connections.
    pub(super) async fn collect(&mut self, findings: &mut Findings) {
        if self.collected.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        self.collected = Some(Instant::now());
        if let Err(e) = self.collect_flows().await {
            findings.errors.push(e.to_string());
        }
    }

    async fn collect_flows(&mut self) -> Result<(), KernelError> {
        self.kernel.collect()?;
        let workers: HashMap<u64, _> =
            self.pods.values().filter_map(|pod| Some((pod.cookie?, pod.worker.as_ref()?))).collect();
        let (flows, cookies) = (self.kernel.flows(), workers.keys().copied().collect::<Vec<u64>>());
        // Off this thread, which others wait for.
        let look = spawn_blocking(move || flows.ends(|netns| cookies.contains(&netns)));
        let Ok(ends) = look.await else { return Ok(()) };
        let mut by_pod: HashMap<u64, Vec<FlowEnd>> = HashMap::new();
        for end in ends? {
            by_pod.entry(end.netns).or_default().push(end);
        }
        for (netns, ends) in by_pod {
            if let Some(worker) = workers.get(&netns) {
                worker.collect(ends);
            }
        }
        Ok(())
    }
}
