//! Memory of the mesh: with so many pods that do nothing, and with so many connections of one pod.
//!
//! Each contestant has a bed of its own, made anew for each round: nobody shares pages with another, and nothing is left
//! of an earlier round.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::Bed;

use super::contestant::{self, Contestant, Settings};
use super::cost::memory::{available, pss};
use super::load::{ECHO, Generator};
use super::metric::Metric;
use super::runner::Runner;
use super::stage::{Pair, Stage};

/// What is looked at after connections have closed is told of this moment after: an allocator that gives back what it
/// keeps has done so, and a pool that waits for the next connection has not.
const AFTER: Duration = Duration::from_secs(10);

/// Of the free memory, in all: the rest is for what pods themselves take.
const FILL: f64 = 0.8;

/// Open connections of one pod.
#[derive(Clone, Copy)]
pub struct Open {
    pub case: &'static str,
    pub connections: u32,
    /// The case of the memory afterwards.
    pub closed: Option<&'static str>,
}

/// Memory of one node's mesh with the pods of each case, ascending. What went wrong is an error of the cases that are not
/// measured yet.
pub fn pods(runner: &Runner, name: &str, settings: &Settings, cases: &[(&'static str, usize)]) {
    let mut left = cases;
    let mut measure = || -> Result<()> {
        if left.is_empty() {
            return Ok(());
        }
        let bed = Bed::new("bench")?;
        let contestant = contestant::stand_on_one_node(&bed, name, settings)?;
        let mut made = 0;
        while let Some((&(case, count), rest)) = left.split_first() {
            runner.progress.now(&format!("{case} · {name}"));
            room_for(count, made, &*contestant)?;
            for number in made..count {
                let pod = contestant.nodes()[0].pod(&format!("idle-{number}")).create()?;
                contestant.enter(&pod)?;
            }
            made = count;
            runner.results().add(name, case, Metric::MeshMemory, pss(&contestant.cgroups())?);
            left = rest;
        }
        Ok(())
    };
    if let Err(error) = measure() {
        left.iter().for_each(|(case, _)| runner.miss(case, name, &error));
    }
}

/// Whether more pods find room, judged by those that are there.
fn room_for(count: usize, made: usize, contestant: &dyn Contestant) -> Result<()> {
    if made == 0 {
        return Ok(());
    }
    let each = pss(&contestant.cgroups())? / made as f64;
    let free = available()? * FILL;
    ensure!(
        each * (count - made) as f64 <= free,
        "would need {count} × {:.0} MiB, and {:.0} MiB are free",
        each / 1024.0,
        free / 1024.0
    );
    Ok(())
}

/// Memory of both ends' mesh with the connections of each case, ascending.
pub fn open(runner: &Runner, name: &str, settings: &Settings, generator: &Generator, cases: &[Open]) {
    let mut left = cases;
    let mut measure = || -> Result<()> {
        if left.is_empty() {
            return Ok(());
        }
        let bed = Bed::new("bench")?;
        let stage = Stage::set(&bed, contestant::stand(&bed, name, settings)?, generator)?;
        let Pair { client, server } = &stage.pair;
        while let Some((open, rest)) = left.split_first() {
            runner.progress.now(&format!("{} · {name}", open.case));
            let held = generator.hold(client, &[(server, ECHO)], open.connections)?;
            let add = |case| -> Result<()> {
                runner.results().add(name, case, Metric::MeshMemory, pss(&stage.contestant.cgroups())?);
                Ok(())
            };
            add(open.case)?;
            held.close()?;
            if let Some(case) = open.closed {
                thread::sleep(AFTER);
                add(case)?;
            }
            left = rest;
        }
        Ok(())
    };
    if let Err(error) = measure() {
        let cases = left.iter().flat_map(|open| [Some(open.case), open.closed]).flatten();
        cases.for_each(|case| runner.miss(case, name, &error));
    }
}
