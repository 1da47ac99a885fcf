//! Where the kernel tests run: a cgroup and a bpffs of their own, and pods that are network namespaces of a thread.
//!
//! Everything is removed again when it is dropped, after a panic too. The machine's other cgroups and pins are left
//! alone.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod foreign;
pub mod frame;
pub mod node;
pub mod permit;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use pillion_agent::kernel::{Kernel, KernelConfig, PodCapture, Probes, SocketTable, Tag, netns_cookie};
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{env, panic, process, thread};

pub const NODE: &str = "test-node";

pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// Where a plain connection gets to, on any port: these addresses are the pod's as well, under another name.
pub const ELSEWHERE4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
pub const ELSEWHERE6: Ipv6Addr = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1);
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);

/// The cgroup and the bpffs of one test.
pub struct Bed {
    pub bpffs: PathBuf,
    _cgroup: InTestCgroup,
}

impl Bed {
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test loads eBPF programs and makes network namespaces: run it as root"
        );
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bpffs = env::temp_dir().join(format!("pillion-kernel-{}-{number}", process::id()));
        Self { bpffs, _cgroup: InTestCgroup::enter() }
    }

    pub fn config(&self) -> KernelConfig {
        KernelConfig {
            node: NODE.to_owned(),
            bpffs: self.bpffs.clone(),
            mounts_bpffs: true,
            cgroup_root: Some(test_cgroup()),
            log_hooks: false,
            traffic_control: pillion_agent::kernel::TrafficControl::of_this_kernel(),
            probes: Probes::Attested,
            map_sizes: vec![],
        }
    }

    pub fn open(&self) -> Kernel {
        Kernel::open(&self.config()).unwrap()
    }

    pub fn pin(&self, name: &str) -> PathBuf {
        let layout = format!("v{}", pillion_ebpf_common::LAYOUT_VERSION);
        self.bpffs.join("pillion").join(NODE).join(layout).join(name)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = Kernel::uninstall(&self.bpffs, NODE);
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.bpffs);
    }
}

/// The test process is in its cgroup while any test needs it there. Tests share it: their pods tell them apart.
struct InTestCgroup;

/// How many tests need it, and where the process came from.
static USERS: Mutex<(usize, PathBuf)> = Mutex::new((0, PathBuf::new()));

impl InTestCgroup {
    fn enter() -> Self {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        if users.0 == 0 {
            users.1 = own_cgroup();
            fs::create_dir_all(test_cgroup()).unwrap();
            join(&test_cgroup()).unwrap();
        }
        users.0 += 1;
        Self
    }
}

impl Drop for InTestCgroup {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.0 -= 1;
        if users.0 == 0 {
            let _ = join(&users.1);
            let _ = fs::remove_dir(test_cgroup());
        }
    }
}

fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

fn own_cgroup() -> PathBuf {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 hierarchy");
    cgroup_mount().join(path)
}

fn test_cgroup() -> PathBuf {
    cgroup_mount().join(format!("pillion-test-{}", process::id()))
}

fn cgroup_mount() -> PathBuf {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(PathBuf::from)
        .into_iter()
        .find(|mount| mount.join("cgroup.procs").exists())
        .expect("a cgroup2 mount")
}

/// One test at a time: a child process that another one starts (`ip`) has copies of this one's sockets until it runs
/// its program, and a listener that was closed would still listen.
static ONE: Mutex<()> = Mutex::new(());

/// Runs a test on a thread in a network namespace of its own, with the addresses above. The namespace goes with the
/// thread and its sockets.
pub fn in_pod(test: impl FnOnce(&Pod) + Send) {
    in_new_netns(|| {
        set_up_addresses();
        let cookie = netns_cookie(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        test(&Pod { cookie });
    });
}

/// Runs a test on a thread in a network namespace of its own, alone.
fn in_new_netns(test: impl FnOnce() + Send) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
}

/// Runs `work` on a thread of its own, which may go to another network namespace.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let result = thread::scope(|scope| scope.spawn(work).join());
    result.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

fn set_up_addresses() {
    ip("link set lo up");
    ip("link add eth0 type veth peer name eth1");
    ip("link set eth0 up");
    ip("link set eth1 up");
    ip(&format!("addr add {POD4}/24 dev eth0"));
    ip(&format!("addr add {POD6}/64 dev eth0 nodad"));
    ip(&format!("addr add {LINK_LOCAL}/64 dev eth0 nodad"));
    ip(&format!("addr add {ELSEWHERE4}/32 dev eth0"));
    ip(&format!("addr add {ELSEWHERE6}/128 dev eth0 nodad"));
}

/// A child process inherits the thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As many lines as one wants, each as for [`ip`].
pub fn ip_batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The network namespace of the test's thread.
pub struct Pod {
    pub cookie: u64,
}

impl Pod {
    pub fn capture(&self) -> PodCapture {
        PodCapture { ipv4: Some(POD4), ipv6: Some(POD6), ..PodCapture::default() }
    }

    /// Captures the pod and opens the worker's listeners in it.
    pub fn captured(&self, kernel: &mut Kernel) -> Worker {
        kernel.capture(self.cookie, &self.capture()).unwrap();
        Worker::listen(kernel)
    }
}

/// What stands in for the worker: its two outbound listeners.
pub struct Worker {
    ipv4: TcpListener,
    ipv6: TcpListener,
    pub sockets: SocketTable,
}

impl Worker {
    pub fn listen(kernel: &Kernel) -> Self {
        Self::with(kernel.sockets().unwrap())
    }

    pub fn with(sockets: SocketTable) -> Self {
        let listen = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            if address.is_ipv6() {
                listener.set_only_v6(true).unwrap();
            }
            // Connections that an earlier worker has accepted may be open.
            listener.set_reuse_address(true).unwrap();
            listener.bind(&address.into()).unwrap();
            listener.listen(128).unwrap();
            listener.set_nonblocking(true).unwrap();
            sockets.tag(&listener, Tag::Listener).unwrap();
            listener.into()
        };
        Self { ipv4: listen("127.0.0.1:15001"), ipv6: listen("[::]:15001"), sockets }
    }

    /// The next captured connection and where it wanted to go. None when no connection has come: one that an app's
    /// connect() has returned from is in the queue.
    pub fn accept(&self) -> Option<(TcpStream, Option<SocketAddr>)> {
        let stream = [&self.ipv4, &self.ipv6].into_iter().find_map(|listener| match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        })?;
        stream.set_nonblocking(false).unwrap();
        let destination = self.sockets.original_destination(&stream).map(|destination| destination.asked);
        Some((stream, destination))
    }

    pub fn destination(&self) -> Option<SocketAddr> {
        self.accept().and_then(|(_, destination)| destination)
    }
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
