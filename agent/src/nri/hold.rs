//! The plugin that the runtime itself starts, before anything can ask it for a container: it refuses containers of pods that
//! are to be in the mesh until they have a pass.
//!
//! The agent is a plugin, too, but one that comes after the runtime: whatever the runtime starts before, at boot or while the
//! agent is replaced, would run plain. This one has no state but the files that it reads, and ends with the runtime.

use super::install::{Holding, Installation};
use super::passes::Passes;
use super::session::{Event, Interest, Session};
use crate::kernel;
use crate::sandbox::{Question, Sandbox};
use anyhow::{Context as _, ensure};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// By which the runtime names the socket that a plugin inherits.
const SOCKET: &str = "NRI_PLUGIN_SOCKET";

/// Whether a program of that name is to be this plugin: the runtime runs what is in its folder without arguments.
pub fn is_plugin(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(Installation::PLUGIN))
}

/// Runs until the runtime ends. `program` is the file in the runtime's folder.
pub fn run(program: &Path) -> anyhow::Result<()> {
    let socket = env::var(SOCKET).ok().and_then(|fd| fd.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    let socket = socket.with_context(|| {
        format!("{SOCKET} names no socket: the container runtime starts this plugin, nobody else does")
    })?;
    let mut stream = UnixStream::from(kernel::inherited(socket).context("the runtime's socket")?);
    let mut session = Session::new(Installation::NAME, Installation::INDEX, Interest::Containers);
    let mut holder = Holder { program: program.to_owned(), holding: Holding::default() };
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&session.outgoing())?;
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        for event in session.receive(&buffer[..length])? {
            match event {
                Event::Configured { config, .. } => holder.holding = Holding::read(&config)?,
                Event::Asked(Question::Create { sandbox, .. }, ticket) => {
                    session.answer(&ticket, holder.may_create(&sandbox));
                }
                Event::Asked(Question::Run(_), ticket) => session.answer(&ticket, Ok(())),
                Event::Shutdown => return Ok(()),
                Event::Synchronized(_) | Event::Gone(_) => {}
            }
        }
    }
}

struct Holder {
    program: PathBuf,
    holding: Holding,
}

impl Holder {
    fn may_create(&self, sandbox: &Sandbox) -> Result<(), String> {
        let is_captured = |namespace: &str| {
            let listed = fs::read_to_string(&self.holding.namespaces).unwrap_or_default();
            listed.lines().any(|line| line == namespace)
        };
        // Removed by `pillion uninstall`, which cannot end what the runtime has started.
        let is_removed = !self.program.exists();
        let opts_in = sandbox.opts_in(is_captured(&sandbox.pod.namespace));
        if is_removed || !opts_in || Passes::at(&self.holding.passes).has(&sandbox.id) {
            return Ok(());
        }
        Err(format!(
            "pod {} is to be in the mesh, and the Pillion agent of this node does not have it yet: its containers \
             wait until the agent runs and has captured it",
            sandbox.pod
        ))
    }
}

/// The name under which the runtime has started this, checked: it is how the plugin finds out that it was removed.
pub fn program() -> anyhow::Result<PathBuf> {
    let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    ensure!(program.is_absolute(), "the container runtime starts this plugin by its path, nobody else does");
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_pods_of_the_mesh_that_have_no_pass() {
        let dir = env::temp_dir().join(format!("pillion-hold-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let holding = Holding { passes: dir.join("passes"), namespaces: dir.join("namespaces") };
        let holder = Holder { program: dir.join("10-pillion"), holding };
        let (web, plain) = (Sandbox::of_test("a", "web"), Sandbox::of_test("b", "plain").without_label());
        let passes = Passes::at(&holder.holding.passes);

        holder.may_create(&web).expect("it is not installed");
        fs::write(&holder.program, "").unwrap();
        let reason = holder.may_create(&web).unwrap_err();
        assert!(reason.starts_with("pod shop/web is to be in the mesh"), "{reason}");
        holder.may_create(&plain).unwrap();
        fs::write(&holder.holding.namespaces, "bank\nshop\n").unwrap();
        holder.may_create(&plain).expect_err("its namespace is captured");
        for sandbox in [&web, &plain] {
            passes.give(&sandbox.id).unwrap();
            holder.may_create(sandbox).unwrap();
        }
        passes.take(&web.id).unwrap();
        holder.may_create(&web).unwrap_err();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn it_is_known_by_the_name_in_the_runtimes_folder() {
        assert!(is_plugin(OsStr::new("/opt/nri/plugins/10-pillion")));
        assert!(!is_plugin(OsStr::new("/usr/bin/pillion")) && !is_plugin(OsStr::new("")));
    }
}
