//! The root of the mesh, replaced again and again under load, as the documented procedure has it.

use std::time::Duration;

use anyhow::{Result, bail};
use pillion_tests::wait;
use serde_json::Value;

use super::stage::Stage;

/// All certificates are renewed in it, and then some.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(120);

/// Replaces it once. Waits for what the agents show instead of for the time that it may take: that is what `--force` is for.
pub fn rotate(stage: &Stage) -> Result<()> {
    let former = roots(&stage.agents[0].config_dump()?);
    ca(stage, &["rotate", "begin"])?;
    follow(stage, "the new root to be trusted", |dump| roots(dump).len() == former.len() + 1)?;
    ca(stage, &["rotate", "switch", "--force"])?;
    follow(stage, "certificates of the new root", |dump| {
        let mut workers = dump["workers"].as_array().into_iter().flatten();
        workers.all(|worker| {
            let issuer = worker["certificate"]["issuer"].as_str();
            issuer.is_some_and(|issuer| !former.iter().any(|root| root == issuer))
        })
    })?;
    ca(stage, &["rotate", "finish", "--force"])?;
    follow(stage, "the former root to be dropped", |dump| roots(dump).len() == former.len())
}

fn ca(stage: &Stage, args: &[&str]) -> Result<()> {
    stage.agents[0].node().ca_command(args)?.run().map(drop)
}

fn follow(stage: &Stage, what: &str, shows: impl Fn(&Value) -> bool) -> Result<()> {
    for agent in &stage.agents {
        wait::until(what, FOLLOWED_WITHIN, || {
            if let Some(status) = agent.process().exited() {
                bail!("the agent of {} ended with {status}", agent.node().name());
            }
            Ok(shows(&agent.config_dump()?).then_some(()))
        })?;
    }
    Ok(())
}

fn roots(dump: &Value) -> Vec<String> {
    let roots = dump["authority"]["roots"].as_array().into_iter().flatten();
    roots.filter_map(|root| root["subject"].as_str().map(str::to_owned)).collect()
}
