//! What an agent holds at one moment.

use std::time::Duration;

use anyhow::Result;
use pillion_tests::Agent;
use serde_json::{Value, json};

use super::stage::Stage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Before,
    Load,
    After,
}

/// What is measured, in the order of [`Holdings`].
pub const MEASURES: [&str; 5] = ["descriptors", "tasks", "open connections", "threads", "RSS, KiB"];

/// Indices into [`Holdings`].
pub const DESCRIPTORS: usize = 0;
pub const TASKS: usize = 1;
pub const OPEN: usize = 2;
pub const THREADS: usize = 3;
pub const RSS: usize = 4;

/// One number a measure.
pub type Holdings = [u64; MEASURES.len()];

#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the first one.
    pub at: Duration,
    pub phase: Phase,
    /// One an agent, in the order of [`Stage::agents`].
    pub agents: [Holdings; 2],
}

impl Sample {
    pub fn take(stage: &Stage, phase: Phase, at: Duration) -> Result<Self> {
        let [north, south] = &stage.agents;
        Ok(Self { at, phase, agents: [holdings(north)?, holdings(south)?] })
    }

    pub fn to_json(&self) -> Value {
        let phase = match self.phase {
            Phase::Before => "before",
            Phase::Load => "load",
            Phase::After => "after",
        };
        json!({"seconds": self.at.as_secs_f64(), "phase": phase, "agents": self.agents})
    }
}

fn holdings(agent: &Agent) -> Result<Holdings> {
    let dump = agent.config_dump()?;
    let workers = dump["workers"].as_array();
    // A worker on its way up has not counted yet.
    let sum = |key: &str| workers.into_iter().flatten().filter_map(|worker| worker[key].as_u64()).sum();
    let mut holdings = [0; MEASURES.len()];
    holdings[DESCRIPTORS] = agent.fds()? as u64;
    holdings[TASKS] = sum("tasks");
    holdings[OPEN] = sum("open_connections");
    holdings[THREADS] = agent.threads()?;
    holdings[RSS] = agent.rss()? / 1024;
    Ok(holdings)
}
