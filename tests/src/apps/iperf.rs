//! iperf3: bulk.

use anyhow::Result;

use crate::pod::Pod;
use crate::process::Process;

/// Starts an iperf3 server on the port, both families.
pub fn iperf3(pod: &Pod, port: u16) -> Result<Process> {
    let iperf3 = pod.command("iperf3").args(["-s", "-p", &port.to_string()]).start()?;
    iperf3.wait_listening(port)?;
    Ok(iperf3)
}
