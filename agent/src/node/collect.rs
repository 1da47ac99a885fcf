//! Has the shared tables of attested connections hold open ones only.

use super::findings::Found;
use super::supervisor::Supervisor;
use crate::kernel::{FlowEnd, KernelError};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// A connection's end is told by the kernel; what is looked for here is rare, and reading the table takes 2 µs an entry.
const INTERVAL: Duration = Duration::from_secs(30);

impl Supervisor {
    /// At most every 30 s: looks through the tables, off the node core's thread. `None` where it is not time, or the agent ends.
    pub(super) fn look_for_leftovers(
        &mut self,
    ) -> impl Future<Output = Option<Result<Found, KernelError>>> + Send + use<> {
        let is_due = self.collected.is_none_or(|at| at.elapsed() >= INTERVAL);
        let look = is_due.then(|| {
            self.collected = Some(Instant::now());
            let served = self.pods.values().filter_map(|pod| pod.worker.as_ref().and(pod.cookie));
            let served: BTreeSet<u64> = served.collect();
            let collector = self.kernel.collector()?;
            Ok(spawn_blocking(move || collector.look(|netns| served.contains(&netns))))
        });
        async {
            match look? {
                Ok(look) => {
                    let found = look.await.ok()?;
                    Some(found.map(|(leftovers, ends)| Found { leftovers, ends }))
                }
                Err(e) => Some(Err(e)),
            }
        }
    }

    /// Takes out what dead pods have left, and has each worker look for the sockets of its pod's connections.
    pub(super) fn collect(&mut self, found: Result<Found, KernelError>) -> Result<(), KernelError> {
        let Found { leftovers, ends } = found?;
        self.kernel.take_out(&leftovers)?;
        let mut by_pod: HashMap<u64, Vec<FlowEnd>> = HashMap::new();
        for end in ends {
            by_pod.entry(end.netns).or_default().push(end);
        }
        for pod in self.pods.values() {
            if let (Some(cookie), Some(worker)) = (pod.cookie, &pod.worker)
                && let Some(ends) = by_pod.remove(&cookie)
            {
                worker.collect(ends);
            }
        }
        Ok(())
    }
}
