//! The Helm chart and the kustomization: what they make is what an API server takes, and gives each account no more than
//! it needs. That the pods run is for a cluster to show.

mod admission;
mod kinds;
mod kustomization;
mod objects;
mod pod_monitor;
mod probes;
mod rights;
mod startup_taint;
mod values;

use anyhow::Result;
use pillion_tests::chart::{Chart, NAMESPACE};
use pillion_tests::cluster::Programs;
use pillion_tests::{ApiServer, Bed};

fn chart() -> Result<Chart> {
    Chart::new(&Programs::build()?)
}

/// An API server without controllers: what is installed stays as it was written.
struct Standing {
    api: ApiServer,
    chart: Chart,
    bed: Bed,
}

impl Standing {
    fn new(name: &str) -> Result<Self> {
        let bed = Bed::new(name)?;
        let api = ApiServer::start(&bed, &bed.node("n1")?, &[])?;
        api.kubectl(&["create", "namespace", NAMESPACE], "")?;
        Ok(Self { api, chart: chart()?, bed })
    }

    /// With a release of the chart, its hooks left out.
    fn installed(name: &str, values: &[&str]) -> Result<Self> {
        let standing = Self::new(name)?;
        standing.install(&[], values)?;
        Ok(standing)
    }

    /// Installs the chart with these flags of helm and these values.
    fn install(&self, flags: &[&str], values: &[&str]) -> Result<()> {
        let install = self.api.client(self.chart.helm()).env("HOME", self.bed.dir());
        let install = install.args(["install", "pillion", "--namespace", NAMESPACE]).arg(self.chart.path());
        let install = install.args(flags);
        values.iter().fold(install, |install, value| install.args(["--set", value])).run().map(drop)
    }
}
