//! A machine: a process that holds network, mount, uts, ipc, cgroup and pid namespaces, with a `/var` and a `/run` of
//! its own, so that every program there uses its usual paths. Killing that one process ends all that runs there, as
//! pulling the plug does; its disk, which is `/var`, stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::boot;
use super::cgroups::Cgroups;
use crate::process::tail;
use crate::{id, sys, wait};

/// The namespaces of a machine, but for the cgroups' (which begins when its first process is in its cgroup).
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWPID);

pub struct Machine {
    name: String,
    /// Its disk, its logs, its configuration.
    dir: PathBuf,
    cgroups: Cgroups,
}

impl Machine {
    /// The machine of that name, whether it is on or not. `cluster` is in its cgroups' names.
    pub(super) fn new(state: &Path, cluster: &str, name: &str) -> Self {
        let cgroups = Cgroups(format!("{cluster}-{name}"));
        Self { name: name.to_owned(), dir: state.join(name), cgroups }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the program of that name says what it has to say.
    pub fn log(&self, program: &str) -> PathBuf {
        self.dir.join("log").join(program)
    }

    pub fn is_on(&self) -> bool {
        self.first_process().is_some()
    }

    /// Begins it; `pause` is its first process.
    pub(super) fn power_on(&self, pause: &Path) -> Result<()> {
        ensure!(!self.is_on(), "the machine {} is on already", self.name);
        self.cgroups.remove()?;
        for dir in ["var/lib", "var/log", "var/tmp", "log", "etc"].map(|dir| self.dir.join(dir)) {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        if !self.dir.join("var/run").is_symlink() {
            symlink("/run", self.dir.join("var/run"))?;
        }
        self.cgroups.create()?;
        let booted = on_thread(|| {
            let mut first = self.begin(pause)?;
            let laid_out = boot::lay_out(&self.name, &self.dir, first.id());
            Ok((laid_out, move || first.wait()))
        });
        let laid_out = booted.and_then(|(laid_out, wait)| {
            // Reaped when it ends, for as long as this process lives.
            thread::spawn(wait);
            laid_out
        });
        if let Err(error) = laid_out {
            self.power_off()?;
            return Err(error).with_context(|| format!("cannot begin the machine {}", self.name));
        }
        Ok(())
    }

    /// Runs on a thread of its own, which is in the machine's namespaces afterwards.
    fn begin(&self, pause: &Path) -> Result<Child> {
        let (roots, systems) = (self.cgroups.root_procs()?, self.cgroups.system_procs()?);
        unshare(NAMESPACES).context("cannot make namespaces: this needs root")?;
        let mut command = Command::new(pause);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        sys::start_in_cgroups(&mut command, roots, true);
        let first = command.spawn().with_context(|| format!("cannot run {}", pause.display()))?;
        let pid = first.id();
        let start = id::start_time(pid).context("a machine's first process ended at once")?;
        fs::write(self.record(), format!("{pid} {start}"))?;
        // Its cgroups are the roots now, by its namespace; it makes room for others there.
        for mut procs in systems {
            procs.write_all(pid.to_string().as_bytes()).context("cannot move a machine's first process")?;
        }
        Ok(first)
    }

    /// Ends it the hard way, with all that runs on it. Gives whether there was anything to end.
    pub(super) fn power_off(&self) -> Result<bool> {
        if let Some(pid) = self.first_process() {
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL)
                .with_context(|| format!("cannot kill the machine {}", self.name))?;
            let what = format!("the end of the machine {}", self.name);
            wait::until(&what, Duration::from_secs(20), || Ok((!self.is_on()).then_some(())))?;
        }
        let there = self.cgroups.remove()?;
        match fs::remove_file(self.record()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(there),
        }
    }

    /// Removes what it has written but for its logs.
    pub(super) fn remove_disk(&self) -> Result<()> {
        ["var", "etc"].map(|dir| self.dir.join(dir)).iter().try_for_each(|dir| remove_dir(dir))
    }

    /// Removes its logs, too.
    pub(super) fn remove_all(&self) -> Result<()> {
        remove_dir(&self.dir)
    }

    /// A file with its first process: its pid, and when it started, which tells it from another that came to have the
    /// pid.
    fn record(&self) -> PathBuf {
        self.dir.join("first-process")
    }

    /// The pid of the first process, if it lives.
    pub(super) fn first_process(&self) -> Option<u32> {
        let record = fs::read_to_string(self.record()).ok()?;
        let (pid, start) = record.split_once(' ')?;
        let (pid, start) = (pid.parse().ok()?, start.parse::<u64>().ok()?);
        (id::start_time(pid) == Some(start)).then_some(pid)
    }

    /// Starts a program on the machine. It is this process's child, and has to be waited for.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let off = || format!("the machine {} is off", self.name);
        let pid = self.first_process().with_context(off)?;
        let raw = rustix::process::Pid::from_raw(pid as i32).with_context(off)?;
        let first = pidfd_open(raw, PidfdFlags::empty()).with_context(off)?;
        // Looked at again: now it can be nobody else's.
        ensure!(self.is_on(), off());
        sys::start_in_cgroups(command, self.cgroups.system_procs()?, false);
        let shown = command.get_program().to_string_lossy().into_owned();
        on_thread(|| {
            unshare(CloneFlags::CLONE_FS)?;
            setns(&first, NAMESPACES | CloneFlags::CLONE_NEWCGROUP)
                .with_context(|| format!("cannot enter the machine {}", self.name))?;
            command.spawn().with_context(|| format!("cannot run {shown} on {}", self.name))
        })
    }

    /// Runs a program to its end, with this input.
    pub fn output(&self, command: &mut Command, input: &str) -> Result<Output> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        let stdin = child.stdin.take();
        thread::scope(|scope| {
            // A program that does not read all has its reasons.
            scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            child.wait_with_output().context("cannot read what a program says")
        })
    }

    /// Runs a program to its end and gives what it says; a status other than 0 is an error.
    pub fn run(&self, command: &mut Command, input: &str) -> Result<String> {
        let output = self.output(command, input)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            let program = command.get_program().to_string_lossy().into_owned();
            bail!(
                "on {}, `{program} {}` ended with {}{}",
                self.name,
                args.join(" "),
                output.status,
                tail(&(said + &error))
            );
        }
        Ok(said)
    }

    /// Starts a program that stays: its parent is the machine's first process, which reaps it.
    pub(super) fn start(&self, command: &Command) -> Result<()> {
        let program = Path::new(command.get_program());
        let log = self.log(&program.file_name().unwrap_or_default().to_string_lossy());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut daemon = Command::new("setsid");
        daemon.arg("--fork").arg(program).args(command.get_args());
        daemon.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = self.spawn(&mut daemon)?.wait()?;
        ensure!(
            status.success(),
            "cannot start {} on {}: setsid ended with {status}",
            program.display(),
            self.name
        );
        Ok(())
    }

    /// Waits for what a program that was started does; errors show the end of its log.
    pub(super) fn wait_for(
        &self,
        program: &str,
        what: &str,
        mut found: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        const EVERY: Duration = Duration::from_millis(50);
        const WITHIN: Duration = Duration::from_secs(120);
        let what = format!("{what} on {}", self.name);
        let waited = wait::until_every(EVERY, &what, WITHIN, || {
            if found()? {
                return Ok(Some(()));
            }
            // "setsid" is one that was started a moment ago.
            let running = self.running()?;
            ensure!(
                running.contains(program) || running.contains("setsid"),
                "{program} on {} has ended",
                self.name
            );
            Ok(None)
        });
        waited.with_context(|| {
            let log = fs::read_to_string(self.log(program)).unwrap_or_default();
            format!("{}:{}", self.log(program).display(), tail(&log))
        })
    }

    /// The names of the programs that run on it.
    pub fn running(&self) -> Result<BTreeSet<String>> {
        Ok(self.cgroups.processes()?.into_iter().filter_map(program_of).collect())
    }

    /// Kills a program that runs on it, and waits for its end.
    pub fn kill(&self, program: &str) -> Result<()> {
        for pid in
            self.cgroups.processes()?.into_iter().filter(|pid| program_of(*pid).as_deref() == Some(program))
        {
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL)
                .with_context(|| format!("cannot kill {program} on {}", self.name))?;
        }
        wait::until(&format!("the end of {program} on {}", self.name), Duration::from_secs(20), || {
            Ok((!self.running()?.contains(program)).then_some(()))
        })
    }
}

/// The name of the program that a process runs.
fn program_of(pid: u32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let program = Path::new(line.split('\0').next()?);
    Some(program.file_name()?.to_string_lossy().into_owned())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Runs `work` on a thread whose namespaces may change.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
