//! Programs in a pod or on a node: started there, watched, logged. A process belongs to its pod, as a container
//! does: it ends with it, not with the [`Process`] that stands for it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id as Waited, WaitPidFlag, waitid};
use nix::unistd::{Pid, User};

use crate::sys::{self, Place};
use crate::{cgroup, ending, wait};

/// How long a program that runs to its end may take, unless told otherwise: nothing hangs for ever.
const RUN_WITHIN: Duration = Duration::from_secs(60);
/// How long a server may take until it listens: PostgreSQL on a busy machine takes seconds.
const LISTEN_WITHIN: Duration = Duration::from_secs(30);

/// Where programs run and write their logs.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub netns: PathBuf,
    pub cgroup: PathBuf,
    pub logs: PathBuf,
    /// The pod's or node's name: logs begin with it.
    pub owner: String,
}

impl Spot {
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}.{name}.log", self.owner))
    }
}

/// A program to be run in a pod or on a node, built as [`std::process::Command`] is.
pub struct Command {
    inner: process::Command,
    program: String,
    spot: Spot,
    user: Option<String>,
    input: Option<Vec<u8>>,
    timeout: Duration,
    log: Option<String>,
    stdout_log: Option<String>,
}

/// What a program that ran to its end gave.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

/// A program that runs.
#[derive(Clone)]
pub struct Process {
    name: String,
    pid: u32,
    netns: PathBuf,
    cgroup: PathBuf,
    log: PathBuf,
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    exit: Arc<Exit>,
}

/// Filled by the thread that reaps.
#[derive(Default)]
struct Exit {
    status: Mutex<Option<ExitStatus>>,
    came: Condvar,
}

impl Command {
    pub(crate) fn new(program: &str, spot: Spot) -> Self {
        Self {
            inner: process::Command::new(program),
            program: program.to_owned(),
            spot,
            user: None,
            input: None,
            timeout: RUN_WITHIN,
            log: None,
            stdout_log: None,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Lets another program start this one: `under("setpriv", &["--bounding-set=-bpf"])`.
    pub fn under(mut self, program: &str, args: &[&str]) -> Self {
        let mut outer = process::Command::new(program);
        outer.args(args).arg(self.inner.get_program()).args(self.inner.get_args());
        outer.envs(self.inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        self.inner = outer;
        self
    }

    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// As a user of this machine: PostgreSQL refuses to be root.
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_owned());
        self
    }

    /// What the program reads from its standard input; nothing unless given.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// How long it may run before it is killed, which is an error; 60 s unless given. Of no effect on
    /// [`Command::start`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The log's name, for a program that is started more than once; the program's unless given.
    pub fn log(mut self, name: &str) -> Self {
        self.log = Some(name.to_owned());
        self
    }

    /// In a cgroup of its own, below the pod's or node's: what it costs can be told from what the others cost.
    pub fn own_cgroup(mut self, name: &str) -> Self {
        self.spot.cgroup.push(name);
        self
    }

    /// Keeps the standard output in a log of its own.
    pub(crate) fn stdout_log(mut self, name: &str) -> Self {
        self.stdout_log = Some(name.to_owned());
        self
    }

    /// Runs to the end and gives the standard output. A status other than 0 is an error that shows what the
    /// program said.
    pub fn run(self) -> Result<String> {
        let shown = self.shown();
        let output = self.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "`{shown}` ended with {}\n{}{}",
            output.status,
            tail(&output.stderr),
            tail(&said)
        );
        Ok(said.into_owned())
    }

    /// Runs to the end, whatever the end is.
    pub fn output(mut self) -> Result<Output> {
        let (shown, timeout, input) = (self.shown(), self.timeout, self.input.take());
        let begun = Instant::now();
        self.inner.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        // Each pipe has its own thread: a full one must not hold up the others.
        let stdin = child.stdin.take();
        thread::spawn(move || Some(stdin?.write_all(&input?)));
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let pid = child.id();
        let exit = reap(child);
        let Some(status) = exit.wait(timeout) else {
            exit.signal(pid, Signal::SIGKILL)?;
            bail!("`{shown}` did not end within {timeout:?}");
        };
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Output { status, stdout, stderr, took: begun.elapsed() })
    }

    /// Starts it; what it says goes to a log in the bed's directory (appended to, when there is one).
    pub fn start(mut self) -> Result<Process> {
        let name = self.log.clone().unwrap_or_else(|| file_name(&self.program));
        let log = self.spot.log(&name);
        let stderr = append(&log)?;
        let stdout = match &self.stdout_log {
            Some(name) => append(&self.spot.log(name))?,
            None => stderr.try_clone()?,
        };
        self.inner.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        let input = self.input.take();
        let mut child = self.spawn()?;
        if let (Some(stdin), Some(input)) = (&mut child.stdin, input) {
            stdin.write_all(&input)?;
        }
        let stdin = Arc::new(Mutex::new(child.stdin.take()));
        let (pid, Spot { netns, cgroup, .. }) = (child.id(), self.spot);
        Ok(Process { name, pid, netns, cgroup, log, stdin, exit: reap(child) })
    }

    /// The command line, for messages.
    fn shown(&self) -> String {
        let args = self.inner.get_args().map(|arg| arg.to_string_lossy());
        std::iter::once(self.program.as_str().into()).chain(args).collect::<Vec<_>>().join(" ")
    }

    fn spawn(&mut self) -> Result<Child> {
        ending::stand_still();
        use std::os::unix::process::CommandExt;
        let user = match &self.user {
            None => None,
            Some(name) => {
                let user =
                    User::from_name(name)?.with_context(|| format!("this machine has no user {name}"))?;
                Some((user.uid, user.gid))
            }
        };
        let netns = File::open(&self.spot.netns)
            .with_context(|| format!("no network namespace at {}", self.spot.netns.display()))?;
        cgroup::create(&self.spot.cgroup)?;
        let place = Place { netns, cgroup: cgroup::procs(&self.spot.cgroup)?, user };
        sys::start_in(&mut self.inner, place);
        // A Ctrl-C is for the bed's owner, who ends the others.
        self.inner.process_group(0);
        self.inner.spawn().with_context(|| format!("cannot run `{}`", self.shown()))
    }
}

impl Output {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The cgroup it was started in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Writes a line to its standard input.
    pub fn write_line(&self, line: &str) -> Result<()> {
        let mut stdin = self.stdin.lock().expect("no holder panics");
        let stdin = stdin.as_mut().with_context(|| format!("the input of {} is closed", self.name))?;
        writeln!(stdin, "{line}").with_context(|| format!("{} reads no more", self.name))
    }

    /// Closes its standard input.
    pub fn close_input(&self) {
        self.stdin.lock().expect("no holder panics").take();
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.exit.signal(self.pid, signal)
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.status.lock().expect("no holder panics")
    }

    /// Waits for its end.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        self.exit
            .wait(timeout)
            .with_context(|| format!("{} did not end within {timeout:?}{}", self.name, self.tail()))
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(RUN_WITHIN).map(drop)
    }

    /// Waits until something listens on the port in the process's network namespace.
    pub fn wait_listening(&self, port: u16) -> Result<()> {
        let what = format!("a listener on port {port}");
        self.wait_for(&what, LISTEN_WITHIN, || {
            sys::in_netns(&self.netns, || Ok(listens(port)?.then_some(())))
        })
    }

    /// Waits until the log holds `text`.
    pub fn wait_log(&self, text: &str, timeout: Duration) -> Result<()> {
        let said = || self.log().contains(text).then_some(());
        self.wait_for(&format!("{text:?} in its log"), timeout, || Ok(said()))
    }

    /// Waits for what this process shall do; its end ends the wait. Errors show the end of the log.
    pub fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut found: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        wait::until(what, timeout, || {
            // Looked at first: what it did before it ended counts.
            let exited = self.exited();
            match (found()?, exited) {
                (Some(value), _) => Ok(Some(value)),
                (None, Some(status)) => bail!("it ended with {status}, waited for {what}"),
                (None, None) => Ok(None),
            }
        })
        .with_context(|| format!("{} (pid {}){}", self.name, self.pid, self.tail()))
    }

    /// The end of the log, as errors show it.
    pub(crate) fn tail(&self) -> String {
        tail(&self.log())
    }
}

impl Exit {
    fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let status = self.status.lock().expect("no holder panics");
        *self.came.wait_timeout_while(status, timeout, |status| status.is_none()).expect("no holder panics").0
    }

    /// Signals the process unless it was reaped: the lock keeps its pid from being another's.
    fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        let status = self.status.lock().expect("no holder panics");
        if status.is_none() {
            kill(Pid::from_raw(pid as i32), signal)
                .with_context(|| format!("cannot send {signal} to {pid}"))?;
        }
        Ok(())
    }
}

/// Leaves the child to a thread that waits for its end, so that no zombie stays.
fn reap(mut child: Child) -> Arc<Exit> {
    let exit = Arc::new(Exit::default());
    let filled = exit.clone();
    thread::spawn(move || {
        // Sees the end without reaping: the pid stays the child's until the lock is held.
        let pid = Pid::from_raw(child.id() as i32);
        let ended = || waitid(Waited::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        while ended() == Err(nix::Error::EINTR) {}
        let mut status = filled.status.lock().expect("no holder panics");
        *status = child.wait().ok();
        filled.came.notify_all();
    });
    exit
}

type Drained = thread::JoinHandle<Vec<u8>>;

fn drain(pipe: Option<impl Read + Send + 'static>) -> Option<Drained> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has ended.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    }))
}

fn collect(drained: Option<Drained>) -> Vec<u8> {
    drained.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

fn append(path: &Path) -> Result<File> {
    let open = File::options().create(true).append(true).open(path);
    open.with_context(|| format!("cannot write {}", path.display()))
}

/// Whether this thread's network namespace has a TCP listener on the port (proc_pid_net(5): state 0A).
fn listens(port: u16) -> Result<bool> {
    let wanted = format!(":{port:04X}");
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        for line in fs::read_to_string(table)?.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            if fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn file_name(program: &str) -> String {
    Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last lines of what a program said, indented; long ones are cut.
pub(crate) fn tail(text: &str) -> String {
    const LINES: usize = 25;
    const WIDTH: usize = 400;
    let lines: Vec<&str> = text.lines().collect();
    let mut tail = String::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        let _ = write!(tail, "\n    {line:.WIDTH$}");
    }
    tail
}
