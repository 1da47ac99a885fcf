//! The test bed itself: what every other test stands on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use anyhow::Result;
use nix::sys::signal::Signal;
use pillion_tests::{Bed, Id, Pod, apps, leftovers, requirements, sweep};

/// A bed of two nodes with a pod each, and nginx in the second.
fn two_pods(name: &str) -> Result<(Bed, Pod, Pod)> {
    requirements::ensure(requirements::APPS)?;
    let bed = Bed::new(name)?;
    let client = bed.node("n1")?.pod("client").create()?;
    let web = bed.node("n2")?.pod("web").create()?;
    apps::nginx(&web, 80)?;
    Ok((bed, client, web))
}

fn url(ip: impl Into<IpAddr>, path: &str) -> String {
    format!("http://{}/{path}", SocketAddr::new(ip.into(), 80))
}

/// Everything on the machine that has to do with this bed.
fn traces(id: Id) -> Vec<PathBuf> {
    let mut traces: Vec<PathBuf> =
        leftovers().unwrap().into_iter().filter(|l| l.0 == id).map(|l| l.1).collect();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(&id.to_string())).map(PathBuf::from));
    traces
}

#[test]
fn pods_on_two_nodes_reach_each_other_and_see_true_addresses() {
    let (_bed, client, web) = two_pods("reach").unwrap();
    for (own, peer) in
        [(IpAddr::from(client.ip4()), IpAddr::from(web.ip4())), (client.ip6().into(), web.ip6().into())]
    {
        let saw = client.command("curl").args(["-sS", &url(peer, "addresses")]).run().unwrap();
        let (from, to) = saw.trim().split_once(' ').unwrap();
        assert_eq!(from.rsplit_once(':').unwrap().0, own.to_string());
        assert_eq!(to, format!("{peer}:80"));
    }
    let size = client.command("curl").args(["-sS", &url(web.ip4(), "16m")]).output().unwrap().stdout.len();
    assert_eq!(size, 16 << 20);
}

#[test]
fn pods_reach_their_node_and_neighbours_on_it() {
    let bed = Bed::new("neighbours").unwrap();
    let node = bed.node("n1").unwrap();
    let (a, b) = (node.pod("a").create().unwrap(), node.pod("b").namespace("shop").create().unwrap());
    apps::echo(&b, 7).unwrap();
    let ask = |host: &str| {
        let script = "import socket,sys; s=socket.create_connection((sys.argv[1],7)); s.sendall(b'ping'); \
                      s.shutdown(1); print(s.makefile().read())";
        apps::python(&a, script, [host]).run().unwrap()
    };
    assert_eq!(ask(&b.ip4().to_string()), "ping\n");
    assert_eq!(ask(&b.ip6().to_string()), "ping\n");
    let host =
        node.command("/usr/bin/python3").args(["-m", "http.server", "80", "--bind", "::"]).start().unwrap();
    host.wait_listening(80).unwrap();
    a.command("curl").args(["-sS", "-o", "/dev/null", &url(node.ip6(), "")]).run().unwrap();
}

#[test]
fn recorded_packets_show_what_passed_the_wire() {
    let (bed, client, web) = two_pods("record").unwrap();
    let recording = bed.node("n1").unwrap().record_wire("tcp").unwrap();
    client
        .command("curl")
        .args(["-sS", "-H", "X-Secret: plain-text-needle", &url(web.ip6(), "64k")])
        .run()
        .unwrap();
    let packets = recording.stop().unwrap();
    assert!(packets.contain(b"plain-text-needle"));
    let flows = packets.flows();
    assert_eq!(flows.len(), 2, "one connection, both directions");
    assert!(flows.iter().all(|flow| flow.whole && flow.tls_records().is_none()));
    assert!(flows.iter().any(|flow| flow.bytes.len() > 64 << 10));
}

/// Sends datagrams to RFC 863's port, and does not wait for anything.
const DATAGRAMS: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[2])): s.sendto(f'datagram {number};'.encode(), (sys.argv[1], 9))
";
/// The ring of a recording has some 500 places, for packets as long as the kernel makes them.
const COUNT: usize = 400;

#[test]
fn a_recording_has_every_packet_that_was_sent_before_its_end() {
    let (bed, client, web) = two_pods("complete").unwrap();
    let filter = "udp dst port 9";
    let recordings = [
        bed.node("n1").unwrap().record_wire(filter).unwrap(),
        client.record(filter).unwrap(),
        web.record(filter).unwrap(),
    ];
    // tcpdump has not read a single packet when the recording ends.
    recordings.iter().for_each(|recording| recording.signal(Signal::SIGSTOP).unwrap());
    apps::python(&client, DATAGRAMS, [web.ip4().to_string(), COUNT.to_string()]).run().unwrap();
    for recording in recordings {
        recording.signal(Signal::SIGCONT).unwrap();
        let packets = recording.stop().unwrap();
        assert_eq!(packets.0.len(), COUNT, "all of them, and nothing else");
        assert!(packets.contain(b"datagram 0;") && packets.contain(b"datagram 399;"));
    }
}

#[test]
fn a_recording_of_the_loopback_device_is_complete_and_has_each_packet_once() {
    let (_bed, client, _web) = two_pods("loopback").unwrap();
    let recording = client.record_device("lo", "udp").unwrap();
    apps::python(&client, DATAGRAMS, ["127.0.0.1".to_owned(), COUNT.to_string()]).run().unwrap();
    assert_eq!(recording.stop().unwrap().0.len(), COUNT);
}

#[test]
fn a_dropped_bed_leaves_nothing() {
    let (bed, _client, web) = two_pods("dropped").unwrap();
    let (id, dir) = (bed.id(), bed.dir().to_owned());
    let redis = apps::redis(&web, 6379).unwrap();
    assert!(traces(id).len() >= 7, "three sorts of things, a mount for each namespace: {:?}", traces(id));
    drop(bed);
    assert_eq!(traces(id), [] as [PathBuf; 0]);
    assert!(!dir.exists());
    assert!(!redis.wait(std::time::Duration::from_secs(1)).unwrap().success(), "killed with the bed");
}

#[test]
fn a_panic_in_the_middle_leaves_nothing() {
    let mut id = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let (bed, _client, _web) = two_pods("panic").unwrap();
        id = Some(bed.id());
        panic!("in the middle");
    }));
    assert!(result.is_err());
    assert_eq!(traces(id.unwrap()), [] as [PathBuf; 0]);
}

#[test]
fn half_a_bed_leaves_nothing() {
    let bed = Bed::new("half").unwrap();
    let (id, node) = (bed.id(), bed.node("n1").unwrap());
    node.pod("twin").create().unwrap();
    assert!(node.pod("twin").create().is_err(), "a namespace of that name is there");
    drop(bed);
    assert_eq!(traces(id), [] as [PathBuf; 0]);
}

#[test]
fn a_deleted_pod_gives_its_name_and_addresses_away() {
    let (bed, client, web) = two_pods("reuse").unwrap();
    let addresses = web.addresses().to_vec();
    web.delete().unwrap();
    assert!(!web.netns().exists() && !web.cgroup().exists());
    let heir = bed.node("n2").unwrap().pod("heir").addresses(&addresses).create().unwrap();
    apps::nginx(&heir, 80).unwrap();
    assert_eq!(client.command("curl").args(["-sS", &url(addresses[0], "hello")]).run().unwrap(), "hello\n");
}

#[test]
fn what_a_killed_owner_left_is_swept() {
    let mut owner = process::Command::new(env!("CARGO_BIN_EXE_bed-owner"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("bed: ")?.1.split(' ').map(str::to_owned).collect()))
        .expect("the owner says what it made");
    let (id, app): (Id, u32) = (said[0].parse().unwrap(), said[1].parse().unwrap());
    sweep().unwrap();
    assert!(!traces(id).is_empty(), "the living are left alone");
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(Path::new(&format!("/proc/{app}")).exists(), "the app has outlived the owner");
    // Another test's bed may sweep first.
    sweep().unwrap();
    assert_eq!(traces(id), [] as [PathBuf; 0]);
    let state = fs::read_to_string(format!("/proc/{app}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z"), "{state}");
}
