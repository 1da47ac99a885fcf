//! What outlives the agent in the kernel, how the next one takes it over, and how all of it goes.

mod common;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use common::node::on_node;
use common::{Bed, NODE, Worker, exists, in_pod};
use pillion_agent::kernel::{Claim, Kernel, KernelConfig, KernelError, PodCapture};
use pillion_ebpf_common::PodEntry;
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

/// A node beside the bed's own, on the same kernel and BPF file system.
const OTHER: &str = "other-node";

const NOWHERE: &str = "10.99.0.9:4444";
/// How many maps are pinned.
const MAPS: usize = 27;
const LINKS: [&str; 7] = [
    "link_sockops",
    "link_getpeername4",
    "link_getpeername6",
    "link_getsockname4",
    "link_getsockname6",
    "link_connect4",
    "link_connect6",
];

fn link_and_program(bed: &Bed, link: &str) -> (u32, u32) {
    let info = FdLink::from(PinnedLink::from_pin(bed.pin(link)).unwrap()).info().unwrap();
    (info.id(), info.program_id())
}

fn map<V: aya::Pod>(bed: &Bed, name: &str) -> BpfHashMap<MapData, u64, V> {
    Map::HashMap(MapData::from_pin(bed.pin(name)).unwrap()).try_into().unwrap()
}

fn repairs(kernel: &mut Kernel, wanted: &HashMap<u64, PodCapture>) -> Vec<&'static str> {
    kernel.audit(wanted).unwrap().into_iter().map(|repair| repair.what).collect()
}

// proves: LIF-1
#[test]
fn the_hooks_outlive_the_agent() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let worker = pod.captured(&mut kernel);
        drop(kernel);
        let _client = TcpStream::connect(NOWHERE).unwrap();
        assert_eq!(worker.destination(), Some(NOWHERE.parse().unwrap()));
        drop(worker);
        // Without its listener: refused, not plain.
        TcpStream::connect(NOWHERE).unwrap_err();
    });
}

// proves: LIF-2
#[test]
fn the_next_agent_takes_links_and_entries_over() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut first = bed.open();
        let worker = pod.captured(&mut first);
        let before = LINKS.map(|link| link_and_program(&bed, link));
        drop(first);
        let second = bed.open();
        for ((link, program), name) in before.into_iter().zip(LINKS) {
            let (link_now, program_now) = link_and_program(&bed, name);
            assert_eq!(link_now, link, "{name} is the same link");
            assert_ne!(program_now, program, "{name} runs the new agent's program");
        }
        assert_eq!(second.captured().unwrap(), [pod.cookie]);
        TcpStream::connect(NOWHERE).unwrap();
        assert!(worker.destination().is_some());
    });
}

#[test]
fn the_audit_mends_entries() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let capture = PodCapture { excluded_ports: [1, 2].into(), ..pod.capture() };
        let wanted = HashMap::from([(pod.cookie, capture.clone())]);
        kernel.capture(pod.cookie, &capture).unwrap();
        assert_eq!(repairs(&mut kernel, &wanted), [""; 0]);

        map::<PodEntry>(&bed, "PODS").remove(&pod.cookie).unwrap();
        assert_eq!(repairs(&mut kernel, &wanted), ["pod_entry"]);
        map::<u8>(&bed, "MEMBERS").remove(&pod.cookie).unwrap();
        assert_eq!(repairs(&mut kernel, &wanted), ["member"]);
        let changed = HashMap::from([(pod.cookie, PodCapture { excluded_ports: [2, 3].into(), ..capture })]);
        assert_eq!(repairs(&mut kernel, &changed), ["exclusion"]);
        assert_eq!(repairs(&mut kernel, &changed), [""; 0]);

        kernel.refuse(7).unwrap();
        assert_eq!(repairs(&mut kernel, &changed), [""; 0], "a refused pod stays refused");
        // Nobody speaks of the pod any more: that is no reason to let it go.
        assert_eq!(repairs(&mut kernel, &HashMap::new()), [""; 0]);
        assert_eq!(kernel.captured().unwrap(), [pod.cookie]);
        assert_eq!(kernel.strangers(|_| false).unwrap(), [pod.cookie].into());
        assert_eq!(kernel.strangers(|cookie| cookie == pod.cookie).unwrap(), [].into());
        kernel.forget(pod.cookie).unwrap();
        assert!(kernel.captured().unwrap().is_empty());
        assert_eq!(map::<u8>(&bed, "MEMBERS").keys().flatten().collect::<Vec<_>>(), [7]);
    });
}

#[test]
fn the_audit_mends_links() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let worker = pod.captured(&mut kernel);
        let wanted = HashMap::from([(pod.cookie, pod.capture())]);

        fs::remove_file(bed.pin("link_connect4")).unwrap();
        let mended = kernel.audit(&wanted).unwrap();
        assert_eq!(mended.len(), 1);
        assert_eq!((mended[0].what, mended[0].detail.as_str()), ("link", "connect4 was not pinned"));
        assert!(exists(&bed.pin("link_connect4")));

        // The same links under another node's name: what removes them there detaches them, although this agent holds them.
        move_pins(&bed, NODE, OTHER);
        Kernel::uninstall(&bed.bpffs, OTHER).unwrap();
        assert!(
            TcpStream::connect_timeout(&NOWHERE.parse().unwrap(), std::time::Duration::from_millis(50))
                .is_err()
        );
        assert_eq!(
            repairs(&mut kernel, &wanted),
            [vec!["pin"; 1 + MAPS], vec!["link"; LINKS.len()]].concat()
        );
        TcpStream::connect(NOWHERE).unwrap();
        assert!(worker.destination().is_some());

        move_pins(&bed, NODE, OTHER);
        let other = Kernel::open(&KernelConfig { node: OTHER.to_owned(), ..bed.config() }).unwrap();
        let repaired = repairs(&mut kernel, &wanted);
        assert_eq!(
            repaired,
            [vec!["pin"; 1 + MAPS], vec!["link"; LINKS.len()]].concat(),
            "another agent's programs ran"
        );
        drop(other);
        Kernel::uninstall(&bed.bpffs, OTHER).unwrap();
    });
}

// proves: SEC-3, LIF-1
#[test]
fn the_audit_pins_again_what_somebody_has_removed() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        pod.captured(&mut kernel);
        let wanted = HashMap::from([(pod.cookie, pod.capture())]);
        fs::remove_file(bed.pin("MEMBERS")).unwrap();
        let mended = kernel.audit(&wanted).unwrap();
        assert_eq!((mended[0].what, mended[0].detail.as_str()), ("pin", "the map MEMBERS was not pinned"));
        assert_eq!(mended.len(), 1);

        // Everything, and the directory that is locked.
        let node = bed.bpffs.join("pillion").join(NODE);
        remove_pins(&bed, |_| true);
        [bed.pin(""), node].iter().for_each(|directory| fs::remove_dir(directory).unwrap());
        assert_eq!(
            repairs(&mut kernel, &wanted),
            [vec!["pin"; 1 + MAPS], vec!["link"; LINKS.len()]].concat()
        );
        let second = Kernel::open(&bed.config()).err().expect("the pins are this agent's");
        assert!(matches!(second, KernelError::Held { .. }), "{second}");
        drop(kernel);
        assert_eq!(bed.open().captured().unwrap(), [pod.cookie]);
    });
}

// proves: SEC-3, LIF-1
#[test]
fn pods_that_were_captured_are_refused_when_the_kernel_has_lost_its_tables() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let worker = pod.captured(&mut kernel);
        TcpStream::connect(NOWHERE).unwrap();
        assert!(worker.destination().is_some());
        drop(kernel);
        remove_pins(&bed, |pin| !pin.starts_with("link_"));

        let claim = Claim::take(&bed.bpffs, NODE, false).unwrap();
        let kernel = Kernel::open_claimed(&bed.config(), claim, &[pod.cookie]).unwrap();
        assert_eq!(kernel.captured().unwrap(), [0_u64; 0], "its tables are new");
        let refused = TcpStream::connect(NOWHERE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        drop(kernel);

        // The tables are what counts where there are any: a pod that was let go meanwhile is nobody's.
        let mut kernel = bed.open();
        kernel.release(pod.cookie).unwrap();
        drop(kernel);
        let claim = Claim::take(&bed.bpffs, NODE, false).unwrap();
        let kernel = Kernel::open_claimed(&bed.config(), claim, &[pod.cookie]).unwrap();
        assert!(!kernel.is_in_the_mesh(pod.cookie).unwrap());
    });
}

fn remove_pins(bed: &Bed, which: impl Fn(&str) -> bool) {
    for pin in fs::read_dir(bed.pin("")).unwrap() {
        let pin = pin.unwrap();
        if which(pin.file_name().to_str().unwrap()) {
            fs::remove_file(pin.path()).unwrap();
        }
    }
}

// proves: SEC-3
#[test]
fn a_nodes_pins_are_one_agents_until_it_ends() {
    let bed = Bed::new();
    let kernel = bed.open();
    let before = LINKS.map(|link| link_and_program(&bed, link));
    let own = format!("process {}, ", std::process::id());
    for error in [
        Kernel::open(&bed.config()).err().expect("the pins are in use"),
        Kernel::uninstall(&bed.bpffs, NODE).expect_err("the pins are in use"),
    ] {
        let said = error.to_string();
        assert!(matches!(error, KernelError::Held { .. }) && said.contains(&own), "{said}");
    }
    assert_eq!(LINKS.map(|link| link_and_program(&bed, link)), before, "nothing was touched");
    // Another node's are others.
    let config = KernelConfig { node: OTHER.to_owned(), ..bed.config() };
    drop(Kernel::open(&config).unwrap());
    Kernel::uninstall(&bed.bpffs, OTHER).unwrap();
    drop(kernel);
    drop(bed.open());
}

#[test]
fn a_rehearsal_loads_the_programs_and_leaves_nothing() {
    let bed = Bed::new();
    let kernel = bed.open();
    let pins = || fs::read_dir(bed.pin("")).unwrap().count();
    let (before, links) = (pins(), LINKS.map(|link| link_and_program(&bed, link)));
    Kernel::rehearse(&bed.config()).unwrap();
    assert_eq!((pins(), LINKS.map(|link| link_and_program(&bed, link))), (before, links));
    drop(kernel);
    let error = Kernel::rehearse(&KernelConfig { cgroup_root: Some("/tmp".into()), ..bed.config() });
    assert!(matches!(error, Err(KernelError::NotCgroup2 { .. })), "{error:?}");
}

/// Gives this layout's pins of one node to another.
fn move_pins(bed: &Bed, from: &str, to: &str) {
    let layout = |node: &str| {
        let pins = bed.pin("");
        bed.bpffs.join("pillion").join(node).join(pins.file_name().expect("the layout's name"))
    };
    fs::create_dir_all(layout(to).parent().expect("the node's directory")).unwrap();
    fs::rename(layout(from), layout(to)).unwrap();
}

// proves: LIF-5
#[test]
fn uninstall_leaves_nothing() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let pod = node.pod(2);
        pod.captured(&mut kernel, &pod.capture());
        let pods_links = ["from_pod", "guard", "to_pod"].map(|name| format!("link_{name}_{}", pod.cookie));
        let mut pinned: Vec<String> = fs::read_dir(bed.pin(""))
            .unwrap()
            .map(|pin| pin.unwrap().file_name().into_string().unwrap())
            .collect();
        pinned.sort();
        let links: Vec<&str> =
            pinned.iter().filter(|pin| pin.starts_with("link_")).map(String::as_str).collect();
        assert_eq!(links.len(), LINKS.len() + pods_links.len(), "{links:?}");
        let ids: Vec<u32> = links.iter().map(|link| link_and_program(&bed, link).0).collect();
        drop(kernel);
        let mut removed = Kernel::uninstall(&bed.bpffs, NODE).unwrap();
        removed[..3].sort();
        assert_eq!(removed[..3], pods_links);
        assert_eq!(
            removed[3..5],
            ["link_connect6", "link_connect4"],
            "what redirects goes before the other hooks"
        );
        removed.sort();
        assert_eq!(removed, pinned);
        assert!(!exists(&bed.bpffs.join("pillion")));
        let alive: Vec<u32> = aya::programs::loaded_links().flatten().map(|link| link.id()).collect();
        assert!(ids.iter().all(|link| !alive.contains(link)));
        assert!(Kernel::uninstall(&bed.bpffs, NODE).unwrap().is_empty(), "nothing is left for a second one");
    });
}

// proves: LIF-2
#[test]
fn another_layouts_pods_are_refused_until_they_are_captured() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        drop(kernel);
        let old = bed.pin("").parent().unwrap().join("v0");
        fs::rename(bed.pin(""), &old).unwrap();

        let mut kernel = bed.open();
        assert!(!exists(&old));
        let worker = Worker::listen(&kernel);
        assert_eq!(TcpStream::connect(NOWHERE).unwrap_err().raw_os_error(), Some(libc::EPERM));
        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        TcpStream::connect(NOWHERE).unwrap();
        assert!(worker.destination().is_some());
    });
}

// proves: LIF-2
#[test]
fn another_layouts_guards_let_nothing_in_until_their_pods_are_captured() {
    let bed = Bed::new();
    on_node(|node| {
        let [server, client] = [2, 3].map(|host| node.pod(host));
        let app = server.listen(80);
        let to = SocketAddr::new(server.ipv4.into(), 80);
        let is_refused =
            || client.connect(to).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        server.captured(&mut bed.open(), &server.capture());
        let old = bed.pin("").parent().unwrap().join("v0");
        fs::rename(bed.pin(""), &old).unwrap();

        let mut kernel = bed.open();
        assert!(!exists(&old) && is_refused());
        server.captured(&mut kernel, &server.capture());
        assert!(!is_refused() && app.accept().is_some());
        drop(kernel);

        // Of a pod that has left the mesh meanwhile nothing stays.
        fs::rename(bed.pin(""), &old).unwrap();
        bed.open().forget(server.cookie).unwrap();
        assert!(!is_refused() && !exists(&bed.pin(&format!("link_guard_{}", server.cookie))));
    });
}

#[test]
fn mistakes_are_told_before_anything_is_loaded() {
    let bed = Bed::new();
    let open = |config: KernelConfig| Kernel::open(&config).err().expect("an error");
    let error = open(KernelConfig { cgroup_root: Some("/tmp".into()), ..bed.config() });
    assert!(matches!(error, KernelError::NotCgroup2 { .. }), "{error}");
    let error = open(KernelConfig { node: "a/b".to_owned(), ..bed.config() });
    assert!(matches!(error, KernelError::NodeName { .. }), "{error}");
    let error = open(KernelConfig { mounts_bpffs: false, ..bed.config() });
    assert!(matches!(error, KernelError::NoBpffs { .. }), "{error}");
    #[cfg(not(feature = "bpf-log"))]
    {
        let error = open(KernelConfig { log_hooks: true, ..bed.config() });
        assert!(matches!(error, KernelError::LogNotBuilt), "{error}");
    }
    assert!(!exists(&bed.bpffs));
}
