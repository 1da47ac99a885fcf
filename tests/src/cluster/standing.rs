//! A cluster for one test, which is gone with it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Cluster;
use crate::{requirements, wait};

/// Two nodes, and how long they have stood.
pub struct Standing {
    pub cluster: Cluster,
    begun: Instant,
}

impl Standing {
    /// Brings the cluster up.
    pub fn begin() -> Result<Self> {
        requirements::ensure(&["curl", "iproute2"])?;
        let standing = Self { cluster: Cluster::of_tests()?, begun: Instant::now() };
        standing.cluster.up(2, None, &|what| standing.say(what))?;
        Ok(standing)
    }

    /// Makes these objects, or changes those that are there.
    pub fn apply(&self, objects: &str) -> Result<()> {
        self.kubectl(&["apply", "--filename=-"], objects).map(drop)
    }

    /// Waits until a Deployment, DaemonSet or StatefulSet is as it should be.
    pub fn rolled_out(&self, what: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", what, "--timeout=90s"], "").map(drop)
    }

    /// Waits until all pods of the default namespace are ready.
    pub fn all_ready(&self) -> Result<()> {
        self.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=90s"], "").map(drop)
    }

    /// Shown when the test fails, or is asked to show it.
    pub fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        Ok(self.cluster.kubectl(args, input)?.trim().to_owned())
    }

    /// What kubectl gets, by this template (kubectl's JSONPath).
    pub fn get(&self, what: &[&str], template: &str) -> Result<String> {
        let output = format!("--output=jsonpath={template}");
        self.kubectl(&[&["get"], what, &[&output]].concat(), "")
    }

    /// What a program in a pod says.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat(), "")
    }

    /// Waits until a look sees what it should.
    pub fn wait(&self, what: &str, look: impl FnMut() -> Result<bool>) -> Result<()> {
        self.wait_within(Duration::from_secs(40), what, look)
    }

    pub fn wait_within(
        &self,
        within: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let every = Duration::from_millis(200);
        wait::until_every(every, what, within, || Ok(look()?.then_some(())))?;
        self.say(what);
        Ok(())
    }

    /// Ends it, and looks whether something is left.
    pub fn end(self) -> Result<()> {
        let ended = self.cluster.down()?;
        ensure!(ended == ["node2", "node1", "cp"], "these were ended: {ended:?}");
        ensure!(self.cluster.down()?.is_empty(), "something was left to end");
        self.say("all is gone");
        Ok(())
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.down() {
            eprintln!("the cluster of the tests is not removed: {error:#}");
        }
    }
}
