//! A node and its pods: network namespaces joined by veths on a bridge, as a simple CNI plugin joins them.

use super::{Worker, in_new_netns, ip, ip_batch, on_thread};
use nix::sched::{CloneFlags, setns, unshare};
use pillion_agent::kernel::{Kernel, NoPath, PodCapture, PodDevice, Unknown, netns_cookie, pod_device};
use socket2::{Domain, SockRef, Socket, Type};
use std::cell::Cell;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

pub const NODE4: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 1);

/// Long enough for whatever comes at all, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The network namespace of the test's thread, which plays the node.
pub struct Node {
    veths: Cell<u32>,
}

/// A network namespace at the node's bridge.
pub struct Pod {
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub cookie: u64,
    /// The name of its veth on the node.
    pub veth: String,
    netns: File,
}

/// Runs a test on a thread in a network namespace of its own: the node's.
pub fn on_node(test: impl FnOnce(&Node) + Send) {
    in_new_netns(|| {
        ip_batch(&format!(
            "link set lo up\n\
             link add br0 type bridge mcast_snooping 0\n\
             addr add {NODE4}/24 dev br0\naddr add {NODE6}/64 dev br0 nodad\n\
             link set br0 up\n"
        ));
        test(&Node { veths: Cell::new(0) });
    });
}

impl Node {
    /// A new pod at the addresses that end with `host`. Its link-layer address is `host`'s, so that neighbours need not
    /// learn another when an address is used again.
    pub fn pod(&self, host: u8) -> Pod {
        let number = self.veths.replace(self.veths.get() + 1);
        let veth = format!("veth{number}");
        let netns = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let path = format!("/proc/{}/fd/{}", process::id(), netns.as_raw_fd());
        ip_batch(&format!(
            "link add {veth} type veth peer name eth0 address {} netns {path}\n\
             link set {veth} master br0 up\n",
            mac(host).map(|byte| format!("{byte:02x}")).join(":")
        ));
        let (ipv4, ipv6) = addresses(host);
        let cookie = visit(&netns, || {
            ip_batch(&format!(
                "link set lo up\nlink set eth0 up\naddr add {ipv4}/24 dev eth0\naddr add {ipv6}/64 dev eth0 nodad\n"
            ));
            wait_up("eth0");
            wait_own(ipv6);
            netns_cookie(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
        });
        wait_up(&veth);
        Pod { ipv4, ipv6, cookie, veth, netns }
    }
}

impl Pod {
    /// Runs `work` in the pod: sockets that it makes are the pod's.
    pub fn visit<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        visit(&self.netns, work)
    }

    /// The link-layer address of its eth0.
    pub fn mac(&self) -> [u8; 6] {
        mac(self.ipv4.octets()[3])
    }

    /// A path to its network namespace.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.netns.as_raw_fd()).into()
    }

    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// What the pod's namespace says of the veth.
    pub fn device(&self) -> Result<PodDevice, NoPath> {
        self.visit(|| pod_device(&[self.ipv4.into(), self.ipv6.into()]))
    }

    pub fn capture(&self) -> PodCapture {
        PodCapture { ipv4: Some(self.ipv4), ipv6: Some(self.ipv6), direct: true, ..PodCapture::default() }
    }

    /// Guards the pod, owns its path and captures it, as the supervisor does.
    pub fn captured(&self, kernel: &mut Kernel, capture: &PodCapture) {
        kernel.guard(self.cookie, self.netns(), Unknown::Pass).unwrap();
        kernel.own_path(self.cookie, self.netns(), self.device().unwrap()).unwrap();
        kernel.capture(self.cookie, capture).unwrap();
    }

    pub fn worker(&self, kernel: &Kernel) -> Worker {
        let sockets = kernel.sockets().unwrap();
        self.visit(|| Worker::with(sockets))
    }

    /// An app that listens at all of the pod's addresses.
    pub fn listen(&self, port: u16) -> Listener {
        self.visit(|| Listener::at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)))
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.visit(|| TcpStream::connect_timeout(&to, PATIENCE))
    }

    /// The pod dies: its veth goes, the namespace once its last socket is closed.
    pub fn delete(self) {
        ip(&format!("link del {}", self.veth));
    }
}

/// The addresses that end with `host`.
pub fn addresses(host: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 79, 0, host), Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, host.into()))
}

/// Waits until what is found is what is expected: the last segments of a connection may still be on their way.
pub fn wait_for<T: PartialEq + Debug>(expected: &T, found: impl Fn() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = found();
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "found {found:?}, expected {expected:?}");
        thread::yield_now();
    }
}

/// Waits until the kernel has noticed that a device has a carrier, which it does in its own time. Until then a bridge drops
/// what comes, and IPv6 routes to the own address come and go.
fn wait_up(device: &str) {
    let deadline = Instant::now() + PATIENCE;
    let shown = || Command::new("ip").args(["-o", "link", "show", "dev", device]).output().unwrap().stdout;
    while !String::from_utf8_lossy(&shown()).contains(" state UP ") {
        assert!(Instant::now() < deadline, "{device} does not come up");
        thread::yield_now();
    }
}

/// The kernel makes an IPv6 address the calling thread's namespace's own in the background, on a busy machine well after it has
/// taken the address: until then it looks for a neighbour of that address.
fn wait_own(address: Ipv6Addr) {
    let local = address.octets().map(|byte| format!("{byte:02x}")).concat() + " 80 ";
    wait_for(&true, || {
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
        routes.lines().any(|route| route.starts_with(&local))
    });
}

fn mac(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, host]
}

fn visit<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// A listening socket of an app.
pub struct Listener(TcpListener);

impl Listener {
    /// At `::` it takes IPv4, too.
    fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(128).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket.into())
    }

    /// The next connection. None when none comes.
    pub fn accept(&self) -> Option<TcpStream> {
        self.0.accept().map(|(stream, _)| stream).map_err(nothing).ok()
    }

    /// The connection that is waiting, if there is one.
    pub fn accept_now(&self) -> Option<TcpStream> {
        self.0.set_nonblocking(true).unwrap();
        let accepted = self.accept();
        self.0.set_nonblocking(false).unwrap();
        let stream = accepted?;
        stream.set_nonblocking(false).unwrap();
        Some(stream)
    }
}

fn nothing(error: io::Error) {
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// Closes without a word about it: the other end finds the connection reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// An end's address, IPv4 also where the socket is of IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
