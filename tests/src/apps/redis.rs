//! Redis: short requests on long connections.

use anyhow::Result;

use crate::pod::Pod;
use crate::process::Process;

/// Starts redis-server on the port, IPv4 and IPv6, without persistence.
pub fn redis(pod: &Pod, port: u16) -> Result<Process> {
    let dir = pod.make_dir("redis")?;
    let command = pod.command("redis-server").args(["--bind", "0.0.0.0", "::", "--protected-mode", "no"]);
    let command = command.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    let redis = command.arg("--dir").arg(dir).start()?;
    redis.wait_listening(port)?;
    Ok(redis)
}
