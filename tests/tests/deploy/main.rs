//! The Helm chart and the kustomization: what they make is what an API server takes, and gives each account no more than
//! it needs. That the pods run is for a cluster to show.

mod kinds;
mod kustomization;
mod objects;
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
        let install = standing.api.client(standing.chart.helm()).env("HOME", standing.bed.dir());
        let install =
            install.args(["install", "pillion", "--namespace", NAMESPACE]).arg(standing.chart.path());
        values.iter().fold(install, |install, value| install.args(["--set", value])).run()?;
        Ok(standing)
    }
}
