//! CPU time of the whole machine and of the agents.

use anyhow::{Context, Result};
use pillion_tests::Agent;
use std::fs;

/// Clock ticks of /proc/stat are hundredths of a second on every Linux that runs here.
const TICKS: f64 = 100.0;

/// A reading.
pub struct Cpu {
    all: f64,
    agents: f64,
}

/// Seconds of CPU time between two readings.
pub struct Spent {
    /// Of everything on the machine: user, system, interrupts.
    pub all: f64,
    pub agents: f64,
}

impl Cpu {
    pub fn now(agents: &[Agent; 2]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal (proc_stat(5))
        let all = [0, 1, 2, 5, 6].iter().filter_map(|&i| ticks.get(i)).sum::<f64>() / TICKS;
        let agents = agents.iter().map(|agent| Ok(agent.cpu()?.as_secs_f64())).sum::<Result<f64>>()?;
        Ok(Self { all, agents })
    }

    pub fn until_now(&self, agents: &[Agent; 2]) -> Result<Spent> {
        let now = Self::now(agents)?;
        Ok(Spent { all: now.all - self.all, agents: now.agents - self.agents })
    }
}
