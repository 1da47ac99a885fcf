//! `--keep`: the stage stays, with the commands to play on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use pillion_tests::interrupt;

use super::stage::Stage;
use crate::terminal::Colours;

/// Joins the pod's cgroup and network namespace: a process that is in both is the pod's, to the hooks too.
const ENTER: &str = r#"#!/bin/sh
# pod NAME [COMMAND…]: runs a command (a shell unless given) in a pod of this demo.
set -eu
pod=$1; shift
for procs in CGROUP/*/pods/"$pod"/cgroup.procs; do echo $$ > "$procs"; done
exec nsenter --net="/run/netns/ID-$pod" -- "${@:-${SHELL:-sh}}"
"#;

/// Says what there is to try, and waits for Ctrl-C.
pub fn keep(stage: &Stage, colours: Colours) -> Result<()> {
    stage.join(&[&stage.alice, &stage.store, &stage.web])?;
    stage.leave(&[&stage.bob])?;
    eprintln!("{}", instructions(stage, colours)?);
    interrupt::wait();
    eprintln!();
    Ok(())
}

fn instructions(stage: &Stage, colours: Colours) -> Result<String> {
    let dir = stage.bed.dir();
    let cgroup = stage.north.node().cgroup();
    let cgroup = cgroup.parent().context("a node's cgroup is below the bed's")?;
    let enter = dir.join("pod");
    let script =
        ENTER.replace("CGROUP", &cgroup.display().to_string()).replace("ID", &stage.bed.id().to_string());
    fs::write(&enter, script).with_context(|| format!("cannot write {}", enter.display()))?;
    fs::set_permissions(&enter, fs::Permissions::from_mode(0o755))?;

    let (enter, dir) = (enter.display(), dir.display());
    let manifest = stage.bed.manifest_dir().join("pod-bob.yaml");
    let manifest = manifest.display();
    let [north, south] =
        stage.agents().map(|agent| format!("nsenter --net=/run/netns/{}", agent.node().netns_name()));
    let (web4, web6, store) = (stage.web.ip4(), stage.web.ip6(), stage.store.ip4());
    let part = |title: &str| colours.bold(title);
    Ok(format!(
        "
{title}
  node north: pods alice and store (Redis, SSH); node south: pods bob and web (nginx). All but bob are in the mesh.

{pods}
  {enter} alice curl http://{web4}/addresses
  {enter} alice curl -g 'http://[{web6}]/addresses'
  {enter} bob redis-cli -h {store} PING
  {enter} alice            # a shell in the pod

{labels}
  sed -i 's/^  labels:/&\\n    pillion.dev\\/capture: enabled/' {manifest}     # captures bob
  sed -i '/pillion.dev.capture/d' {manifest}     # lets him go

{agents}
  {north} curl -s http://127.0.0.1:15000/config_dump
  {north} curl -s http://127.0.0.1:15020/metrics
  {south} curl -s http://127.0.0.1:15021/healthz/ready
  {north} curl -s -X POST 'http://127.0.0.1:15000/logging?level=debug'
  tail -f {dir}/logs/north.agent.log {dir}/logs/north.access.log

{wire}
  {north} tcpdump -ni any port 15008

Ctrl-C removes all of it. (If this program is killed: cargo xtask sweep.)",
        title = part("The demo stands. Things to try, as root in another terminal:"),
        pods = part("In a pod (its network and its cgroup):"),
        labels = part("Into the mesh and out of it:"),
        agents = part("What the agents say:"),
        wire = part("Between the nodes:"),
    ))
}
