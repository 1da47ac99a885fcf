//! Whether the agents stayed as they were. Pure.
//!
//! The rule, for each agent and measure:
//! - under load, the median of the last quarter of the samples is at most 10 % and a small constant above that of
//!   the second quarter (the first one is for warming up);
//! - afterwards, descriptors, tasks, open connections and threads go back to what they were before the load.
//!   Memory does not: an allocator keeps what it may need again.

use super::sample::{DESCRIPTORS, Holdings, MEASURES, OPEN, Phase, RSS, Sample, TASKS, THREADS};

/// How much of a measure is noise, besides 10 %: connections of one generator that ends while another begins; a
/// released worker that goes while its successor comes; what an allocator takes in one piece.
const NOISE: Holdings = {
    let mut noise = [0; MEASURES.len()];
    noise[DESCRIPTORS] = 64;
    noise[TASKS] = 64;
    noise[OPEN] = 64;
    noise[THREADS] = 2;
    noise[RSS] = 4 * 1024;
    noise
};

/// Measures that go back when everything is idle, and by how much they may miss it. A thread more or less is the one
/// on which tokio reads the manifests: it comes with a change and goes after ten idle seconds.
const RETURNING: [(usize, u64); 4] = [(DESCRIPTORS, 0), (TASKS, 0), (OPEN, 0), (THREADS, 1)];

/// One measure of one agent.
#[derive(Debug)]
pub struct Verdict {
    /// Its place in [`Sample::agents`].
    pub agent: usize,
    pub measure: usize,
    pub before: u64,
    /// Medians of the second and the last quarter under load.
    pub early: u64,
    pub late: u64,
    pub after: u64,
    pub stays: bool,
    /// `true` also where it need not.
    pub returns: bool,
}

/// What the agents held before the load: the most that was seen of each measure.
pub fn baseline(samples: &[Sample]) -> [Holdings; 2] {
    let mut most = [[0; MEASURES.len()]; 2];
    for sample in samples.iter().filter(|sample| sample.phase == Phase::Before) {
        for (most, held) in most.iter_mut().flatten().zip(sample.agents.iter().flatten()) {
            *most = (*most).max(*held);
        }
    }
    most
}

/// Whether all that goes back has gone back.
pub fn is_idle(sample: &Sample, baseline: &[Holdings; 2]) -> bool {
    let gone_back = |(held, before): (&Holdings, &Holdings)| {
        RETURNING.iter().all(|&(m, miss)| held[m] <= before[m] + miss)
    };
    sample.agents.iter().zip(baseline).all(gone_back)
}

pub fn judge(samples: &[Sample]) -> Vec<Verdict> {
    let before = baseline(samples);
    let load: Vec<&Sample> = samples.iter().filter(|sample| sample.phase == Phase::Load).collect();
    let after = samples.iter().rfind(|sample| sample.phase == Phase::After);
    let quarter = load.len() / 4;
    let pairs = (0..2).flat_map(|agent| (0..MEASURES.len()).map(move |measure| (agent, measure)));
    pairs
        .map(|(agent, measure)| {
            let median =
                |samples: &[&Sample]| median(samples.iter().map(|s| s.agents[agent][measure]).collect());
            let (early, late) = (median(&load[quarter..2 * quarter]), median(&load[load.len() - quarter..]));
            let before = before[agent][measure];
            let after = after.map_or(0, |sample| sample.agents[agent][measure]);
            let stays = late <= early + early / 10 + NOISE[measure];
            let miss = RETURNING.iter().find(|(returning, _)| *returning == measure);
            let returns = miss.is_none_or(|(_, miss)| after <= before + miss);
            Verdict { agent, measure, before, early, late, after, stays, returns }
        })
        .collect()
}

impl Verdict {
    pub fn is_flat(&self) -> bool {
        self.stays && self.returns
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Descriptors over time; everything else is 0.
    fn samples(before: u64, load: &[u64], after: u64) -> Vec<Sample> {
        let sample = |phase, descriptors| {
            let mut held = [0; MEASURES.len()];
            held[DESCRIPTORS] = descriptors;
            Sample { at: Duration::ZERO, phase, agents: [held, [0; MEASURES.len()]] }
        };
        let load = load.iter().map(|descriptors| sample(Phase::Load, *descriptors));
        [sample(Phase::Before, before)].into_iter().chain(load).chain([sample(Phase::After, after)]).collect()
    }

    fn is_flat(samples: &[Sample]) -> bool {
        judge(samples).iter().all(Verdict::is_flat)
    }

    #[test]
    fn a_warm_up_and_noise_are_flat() {
        assert!(is_flat(&samples(10, &[10, 500, 1000, 1000, 1100, 900, 1163, 1164], 10)));
    }

    #[test]
    fn growth_under_load_is_not_flat() {
        assert!(!is_flat(&samples(10, &[10, 500, 1000, 1000, 1100, 1200, 1300, 1400], 10)));
    }

    #[test]
    fn what_stays_behind_is_not_flat() {
        let samples = samples(10, &[100; 8], 11);
        assert!(!is_flat(&samples));
        assert!(!is_idle(&samples[9], &baseline(&samples)));
        assert!(is_idle(&samples[0], &baseline(&samples)));
    }
}
