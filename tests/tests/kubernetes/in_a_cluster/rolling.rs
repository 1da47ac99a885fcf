//! A Deployment is rolled out anew under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::deployed::{Begun, Deployed, extent};

const SITE: &str = include_str!("../site.yaml");

/// Requests over kept connections and over new ones, and one long stream, while every pod that answers them is replaced.
pub fn loses_no_request(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let seconds = extent("PILLION_STREAM_SECONDS", 20)?;
    let site = SITE.replace("SECONDS", &(seconds + 5).to_string());
    standing.apply(&site.replace("GRACE", &(seconds + 8).to_string()))?;
    standing.rolled_out("deployment/site")?;
    standing.rolled_out("deployment/echo")?;
    deployed.captured("node1", "client", true)?;
    let load = Load::begin(deployed, "client", seconds)?;
    for deployment in ["deployment/site", "deployment/echo"] {
        standing.kubectl(&["rollout", "restart", deployment], "")?;
        standing.rolled_out(deployment)?;
    }
    load.end()?;
    standing.say("a rolling update under load lost no request");
    Ok(())
}

/// What a client does to the site and to echo.
pub struct Load<'a> {
    begun: Vec<(&'static str, Begun<'a>)>,
    seconds: usize,
}

impl<'a> Load<'a> {
    pub fn begin(deployed: &'a Deployed, client: &str, seconds: usize) -> Result<Self> {
        let address = |service: &str| deployed.standing.get(&["service", service], "{.spec.clusterIP}");
        let (site, echo) = (format!("{}:80", address("site")?), format!("{}:7", address("echo")?));
        let time = seconds.to_string();
        let begin = |what, args: &[&str]| {
            let command = [&["pillion-load"], args, &["--warm-up=0", "--seconds", &time]].concat();
            anyhow::Ok((what, deployed.begin(client, &command)?))
        };
        let http = ["http", "--path=/hello", "--to", &site];
        let begun = vec![
            begin("kept connections", &[&http[..], &["--connections=4", "--rate=100", "--resend"]].concat())?,
            begin("new connections", &[&http[..], &["--connections=2", "--rate=50", "--close"]].concat())?,
            begin("a stream", &["ping-pong", "--rate=20", "--to", &echo])?,
        ];
        Ok(Self { begun, seconds })
    }

    /// Waits for its end; one error is too much.
    pub fn end(self) -> Result<()> {
        let mut lost = Vec::new();
        for (what, begun) in self.begun {
            let said = begun
                .finish(Duration::from_secs(self.seconds as u64 + 20))
                .with_context(|| what.to_owned())?;
            let report: Value = serde_json::from_str(&said).with_context(|| format!("{what}: {said:?}"))?;
            let (done, errors) = (report["requests"].as_u64().unwrap_or(0), &report["errors"]);
            ensure!(done >= 15 * self.seconds as u64, "{what}: only {done} were answered: {said}");
            println!("         {what}: {done} answered, {errors} lost");
            if *errors != 0 {
                lost.push(format!("{what}: {errors} lost, {}", report["first_error"]));
            }
        }
        ensure!(lost.is_empty(), "{}", lost.join("; "));
        Ok(())
    }
}
