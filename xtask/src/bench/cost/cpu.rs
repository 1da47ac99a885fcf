//! CPU time: of the machine by /proc/stat, of apps, mesh and bed by their cgroups (`cpu.stat` counts processes that
//! have ended, too, and needs no controller).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{outsiders, read};

/// Clock ticks of /proc/stat are hundredths of a second on every Linux that runs here.
const TICKS: f64 = 100.0;

/// Whose time is told apart.
pub struct Watched {
    /// That of the bed: everything that belongs to the run is in it.
    pub bed: PathBuf,
    pub apps: Vec<PathBuf>,
    /// What the mesh runs; a sidecar's cgroup is below its app's.
    pub mesh: Vec<PathBuf>,
}

/// A reading, in seconds since boot, or since the cgroup was made.
pub struct Reading {
    at: Instant,
    machine: Machine,
    others: f64,
    apps: f64,
    mesh: f64,
}

#[derive(Clone, Copy)]
struct Machine {
    /// For processes, for interrupts and for what those cause.
    busy: f64,
    /// Wanted, and given to other virtual machines.
    stolen: f64,
}

/// Seconds of CPU time between two readings, and of the clock.
pub struct Spent {
    pub wall: f64,
    /// Of everything on the machine.
    pub all: f64,
    /// Both apps, the load generator being one.
    pub apps: f64,
    pub mesh: f64,
    /// Of processes that are not of the bed.
    pub others: f64,
    pub stolen: f64,
}

impl Watched {
    pub fn read(&self) -> Result<Reading> {
        let mesh = used(&self.mesh)?;
        let sidecars = self.mesh.iter().filter(|mesh| self.apps.iter().any(|app| mesh.starts_with(app)));
        let apps = used(&self.apps)? - sidecars.map(|cgroup| used_in(cgroup)).sum::<Result<f64>>()?;
        let others = outsiders::used(&self.bed)?;
        Ok(Reading { at: Instant::now(), machine: Machine::read()?, others, apps, mesh })
    }
}

impl Reading {
    /// What was spent until `later`.
    pub fn until(&self, later: &Self) -> Spent {
        let (then, now) = (self.machine, later.machine);
        Spent {
            wall: (later.at - self.at).as_secs_f64(),
            all: now.busy - then.busy,
            apps: later.apps - self.apps,
            mesh: later.mesh - self.mesh,
            // A process that ends without a parent's wait takes its time with it.
            others: (later.others - self.others).max(0.0),
            stolen: now.stolen - then.stolen,
        }
    }
}

impl Spent {
    /// What neither apps nor mesh are charged for. Little, where the kernel charges interrupts to the process that was
    /// interrupted; clock ticks may then even make it less than nothing.
    pub fn kernel(&self) -> f64 {
        (self.all - self.apps - self.mesh).max(0.0)
    }
}

impl Machine {
    fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal (proc_stat(5))
        let seconds = |fields: &[usize]| fields.iter().filter_map(|&i| ticks.get(i)).sum::<f64>() / TICKS;
        Ok(Self { busy: seconds(&[0, 1, 2, 5, 6]), stolen: seconds(&[7]) })
    }
}

fn used(cgroups: &[PathBuf]) -> Result<f64> {
    cgroups.iter().map(|cgroup| used_in(cgroup)).sum()
}

/// Of a cgroup and all below it.
fn used_in(cgroup: &Path) -> Result<f64> {
    let stat = read(cgroup, "cpu.stat")?;
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let usage = usage.with_context(|| format!("{} tells no usage_usec", cgroup.display()))?;
    Ok(usage.parse::<f64>()? / 1e6)
}
