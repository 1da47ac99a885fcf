//! PostgreSQL: a protocol in which the client asks first for TLS, and bulk by COPY.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::unistd::{User, chown};

use crate::pod::Pod;
use crate::process::{Command, Process};

/// Its own user, from Debian's package; it refuses to run as root.
const USER: &str = "postgres";

/// A PostgreSQL server that trusts everybody on the bed.
pub struct Postgres {
    pub process: Process,
    programs: PathBuf,
    port: u16,
}

/// Makes a fresh data directory (a second's work) and starts a server on it.
pub fn postgres(pod: &Pod, port: u16) -> Result<Postgres> {
    let programs = programs()?;
    let dir = pod.make_dir("postgres")?;
    let user = User::from_name(USER)?.with_context(|| format!("no user {USER}: is postgresql installed?"))?;
    chown(&dir, Some(user.uid), Some(user.gid))
        .with_context(|| format!("cannot give {} away", dir.display()))?;
    let (data, port_text) = (dir.join("data"), port.to_string());
    let initdb = pod.command(&programs.join("initdb").display().to_string()).user(USER).current_dir(&dir);
    initdb.args(["--auth=trust", "--no-sync", "--no-instructions", "-D"]).arg(&data).run()?;
    let everybody = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
    let access = data.join("pg_hba.conf");
    fs::write(&access, everybody).with_context(|| format!("cannot write {}", access.display()))?;
    // No unix socket, no fsync: it is a peer, not a store.
    let settings = ["listen_addresses=*", "unix_socket_directories=", "fsync=off", "max_connections=300"];
    let server = pod.command(&programs.join("postgres").display().to_string()).user(USER).current_dir(&dir);
    let server = settings.iter().fold(server, |server, setting| server.args(["-c", setting]));
    let process = server.args(["-p", &port_text, "-D"]).arg(&data).start()?;
    process.wait_listening(port)?;
    process.wait_log("ready to accept connections", std::time::Duration::from_secs(30))?;
    Ok(Postgres { process, programs, port })
}

impl Postgres {
    /// One of PostgreSQL's programs, for a pipe of a shell's making.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// psql in `client`, connected to the server at `host`; it prints bare values and stops at the first error.
    pub fn psql(&self, client: &Pod, host: &str) -> Command {
        let psql = client.command(&self.program("psql").display().to_string());
        let flags = ["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", "postgres"];
        psql.args(flags).args(["-h", host, "-p", &self.port.to_string()])
    }
}

/// Debian keeps each major version's programs apart; the newest is taken.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("no /usr/lib/postgresql: is it installed?")?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(number);
    Ok(newest.context("/usr/lib/postgresql is empty")?.join("bin"))
}
