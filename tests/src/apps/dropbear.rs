//! dropbear: an SSH server, which speaks first. (Its package starts no service on the machine.)

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::pod::Pod;
use crate::process::{Command, Process};

/// An SSH server and the key that opens it.
pub struct Dropbear {
    pub process: Process,
    key: PathBuf,
    port: u16,
}

/// Starts dropbear on the port, both families.
pub fn dropbear(pod: &Pod, port: u16) -> Result<Dropbear> {
    let dir = pod.make_dir("dropbear")?;
    let (host_key, key) = (dir.join("host-key"), dir.join("key"));
    make_key(pod, &host_key)?;
    let public = make_key(pod, &key)?;
    let home = dir.join("home");
    let authorized = home.join(".ssh/authorized_keys");
    fs::create_dir_all(home.join(".ssh")).context("cannot make a home for dropbear")?;
    fs::write(&authorized, public).with_context(|| format!("cannot write {}", authorized.display()))?;
    // It looks into root's home, so it sees another there, in a mount namespace of its own. Mounts that the
    // machine takes away go away there too ("slave"): nothing of a bed is kept alive by it.
    let script = r#"mount --bind "$1" /root && exec dropbear -F -E -s -r "$2" -p "$3""#;
    let command =
        pod.command("unshare").args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"]);
    let process = command.arg(&home).arg(&host_key).arg(port.to_string()).log("dropbear").start()?;
    process.wait_listening(port)?;
    Ok(Dropbear { process, key, port })
}

impl Dropbear {
    /// The SSH client in `client`, which runs `remote` on the server.
    pub fn ssh(&self, client: &Pod, host: IpAddr, remote: &str) -> Command {
        let command = client.command("dbclient").args(["-y", "-y", "-T", "-i"]).arg(&self.key);
        command.args(["-l", "root", "-p", &self.port.to_string(), &host.to_string(), remote])
    }
}

/// Makes a key pair; gives the public line.
fn make_key(pod: &Pod, path: &Path) -> Result<String> {
    let said = pod.command("dropbearkey").args(["-t", "ed25519", "-f"]).arg(path).run()?;
    let public = said.lines().find(|line| line.starts_with("ssh-ed25519 "));
    Ok(public.with_context(|| format!("dropbearkey gave no public key: {said:?}"))?.to_owned() + "\n")
}
