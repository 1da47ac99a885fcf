//! What the path of a pod has to be before the kernel owns it: the pod's only one, nobody else's, and free of shapers.

mod common;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use aya::programs::tc::{NlOptions, SchedClassifier, TcAttachOptions, TcAttachType, qdisc_add_clsact};
use aya::programs::{LinkOrder, Xdp, XdpMode};
use common::node::{Pod, on_node};
use common::permit::permit;
use common::{Bed, foreign, ip, ip_batch};
use pillion_agent::decide::NotDirect;
use pillion_agent::kernel::{
    Kernel, KernelConfig, NoPath, PathError, PodCapture, PodDevice, TrafficControl, Unknown,
};
use pillion_ebpf_common::{Ip, LocalPod};
use std::process::Command;

const BOTH: [TrafficControl; 2] = [TrafficControl::Tcx, TrafficControl::Clsact];

fn open(bed: &Bed, traffic_control: TrafficControl) -> Kernel {
    Kernel::open(&KernelConfig { traffic_control, ..bed.config() }).unwrap()
}

/// A child process inherits the thread's namespace.
fn tc(arguments: &str) {
    let output = Command::new("tc").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Why the kernel cannot own the path to a pod.
fn no_path(kernel: &mut Kernel, pod: &Pod, device: PodDevice) -> NoPath {
    match kernel.own_path(pod.cookie, pod.netns(), device) {
        Err(PathError::NoPath(why)) => why,
        other => panic!("no path is expected, not {other:?}"),
    }
}

#[test]
fn anothers_program_at_the_veth_is_named() {
    for traffic_control in BOTH {
        let bed = Bed::new();
        on_node(|node| {
            let mut kernel = open(&bed, traffic_control);
            let pod = node.pod(2);
            let device = pod.device().unwrap();
            let mut why = || no_path(&mut kernel, &pod, device).to_string();

            let mut object = foreign::load("classifier", -1);
            let program: &mut SchedClassifier =
                object.program_mut(foreign::NAME).unwrap().try_into().unwrap();
            program.load().unwrap();
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                let link = program
                    .attach_with_options(&pod.veth, side, TcAttachOptions::TcxOrder(LinkOrder::default()))
                    .unwrap();
                assert_eq!(why(), "the program foreign is attached to its veth");
                program.detach(link).unwrap();
            }

            let mut object = foreign::load("xdp", 2);
            let xdp: &mut Xdp = object.program_mut(foreign::NAME).unwrap().try_into().unwrap();
            xdp.load().unwrap();
            let link = xdp.attach(&pod.veth, XdpMode::Skb).unwrap();
            assert_eq!(why(), "the program for XDP is attached to its veth");
            xdp.detach(link).unwrap();

            qdisc_add_clsact(&pod.veth).unwrap();
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                let options = TcAttachOptions::Netlink(NlOptions::default());
                let link = program.attach_with_options(&pod.veth, side, options).unwrap();
                assert_eq!(why(), "the program (a tc filter of the kind bpf) is attached to its veth");
                program.detach(link).unwrap();
            }
            // What is led directly to the pod's end would not pass a program there in its native mode.
            let attached = pod.visit(|| {
                let mut object = foreign::load("xdp", 2);
                let xdp: &mut Xdp = object.program_mut(foreign::NAME).unwrap().try_into().unwrap();
                xdp.load().unwrap();
                xdp.attach("eth0", XdpMode::Skb).unwrap();
                object
            });
            assert_eq!(why(), "the program for XDP in the pod is attached to its veth");
            drop(attached);
            kernel.own_path(pod.cookie, pod.netns(), device).unwrap();
        });
    }
}

// proves: SEC-3
#[test]
fn a_pod_with_a_further_device_that_is_up_has_no_path_of_its_own() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let pod = node.pod(2);
        let device = pod.device().unwrap();
        let inside = |line: &str| pod.visit(|| ip(line));
        for (name, kind) in [
            ("net1", "veth peer name net2"),
            ("net1", "bridge"),
            ("net1", "link eth0 type macvlan mode bridge"),
            ("net1", "link eth0 type ipvlan mode l2"),
            ("net1", "link eth0 type vlan id 7"),
            ("net1", "type dummy"),
            ("net1", "type vcan"),
        ] {
            let (what, of) = match kind.split_once("type ") {
                Some((link, of)) => (link.trim(), of),
                None => ("", kind),
            };
            let add = format!("link add {what} name {name} type {of}").replace("  ", " ");
            let added = pod.visit(|| {
                Command::new("ip").args(add.split(' ')).status().expect("iproute2 is installed").success()
            });
            // Not every kernel has every kind; each has veths and bridges.
            if !added {
                assert!(!["veth", "bridge"].iter().any(|must| of.starts_with(must)), "{add}");
                continue;
            }
            kernel.own_path(pod.cookie, pod.netns(), device).expect("a device that is down takes no packets");
            inside(&format!("link set {name} up"));
            let why = no_path(&mut kernel, &pod, device);
            assert_eq!(why, NoPath::FurtherDevice(name.to_owned()), "{of}");
            assert_eq!(NotDirect::from(PathError::from(why)).reason(), "further_device");
            inside(&format!("link del {name}"));
            kernel.own_path(pod.cookie, pod.netns(), device).unwrap();
        }
    });
}

// proves: SEC-3
#[test]
fn a_shaper_at_either_end_of_the_veth_is_named_and_what_shapes_nothing_is_not() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let pod = node.pod(2);
        let device = pod.device().unwrap();
        let at_node = |line: &str| tc(&format!("qdisc {line}").replace("DEV", &pod.veth));
        let in_pod = |line: &str| pod.visit(|| tc(&format!("qdisc {line}").replace("DEV", "eth0")));
        for (qdisc, shapes) in [
            ("tbf rate 10mbit burst 32k latency 50ms", true),
            ("htb", true),
            ("pfifo_fast", false),
            ("bfifo", false),
            ("pfifo", false),
        ] {
            let kind = qdisc.split(' ').next().unwrap();
            for (at, named) in
                [(&at_node as &dyn Fn(&str), kind.to_owned()), (&in_pod, format!("{kind} in the pod"))]
            {
                at(&format!("add dev DEV root {qdisc}"));
                if shapes {
                    let why = no_path(&mut kernel, &pod, device);
                    assert_eq!(why, NoPath::Shaped(named));
                    assert_eq!(NotDirect::from(PathError::from(why)).reason(), "shaped");
                } else {
                    kernel.own_path(pod.cookie, pod.netns(), device).expect(kind);
                }
                at("del dev DEV root");
            }
        }
        kernel.own_path(pod.cookie, pod.netns(), device).unwrap();
    });
}

// proves: SEC-3
#[test]
fn a_shaper_below_one_of_many_queues_is_found() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let pod = node.pod(2);
        let device = pod.device().unwrap();
        // A veth with queues for two CPUs, in the place of the pod's own.
        pod.visit(|| ip("link del eth0"));
        ip_batch(&format!(
            "link add {veth} numtxqueues 2 type veth peer name eth0 netns {netns}\nlink set {veth} up\n",
            veth = pod.veth,
            netns = pod.path().display(),
        ));
        pod.visit(|| {
            ip_batch(&format!("link set eth0 up\naddr add {}/24 dev eth0\n", pod.ipv4));
        });
        let device = pod.device().unwrap_or(device);
        tc(&format!("qdisc add dev {} root handle 1: mq", pod.veth));
        kernel.own_path(pod.cookie, pod.netns(), device).unwrap();
        tc(&format!("qdisc add dev {} parent 1:2 tbf rate 10mbit burst 32k latency 50ms", pod.veth));
        assert_eq!(no_path(&mut kernel, &pod, device), NoPath::Shaped("tbf".to_owned()));
    });
}

const ELSEWHERE: &str = "the other end of its veth is not in the agent's network namespace";

#[test]
fn a_device_that_is_no_veth_of_the_nodes_is_named() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let pod = node.pod(2);
        let device = pod.device().unwrap();
        let addresses = || ip_batch(&format!("addr add {}/24 dev eth1\nlink set eth1 up\n", pod.ipv4));

        pod.visit(|| {
            ip("link del eth0");
            ip("link add eth1 type bridge");
            addresses();
        });
        assert_eq!(pod.device().unwrap_err().to_string(), "its device eth1 is no veth");
        assert_eq!(no_path(&mut kernel, &pod, device).to_string(), ELSEWHERE, "it is gone");

        pod.visit(|| {
            ip("link del eth1");
            ip("link add eth1 type veth peer name eth2");
            addresses();
        });
        let device = pod.device().unwrap();
        assert_eq!(no_path(&mut kernel, &pod, device).to_string(), ELSEWHERE);

        pod.visit(|| ip("link del eth1"));
        assert_eq!(
            pod.device().unwrap_err().to_string(),
            "no device in its network namespace has an address of its status.podIPs"
        );
    });
}

// proves: ID-1
#[test]
fn a_pod_that_claims_anothers_device_is_not_believed() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let [victim, attacker] = [2, 3].map(|host| node.pod(host));
        victim.captured(&mut kernel, &victim.capture());
        let PodDevice { index, peer } = victim.device().unwrap();

        let claim = |index: u32| {
            attacker.visit(|| {
                ip(&format!("link add fake index {index} type veth peer name other index {peer}"));
                ip_batch(&format!(
                    "addr add {}/24 dev fake\naddr add {}/64 dev fake nodad\n",
                    attacker.ipv4, attacker.ipv6
                ));
            });
            let claimed = attacker.device().unwrap();
            assert_eq!(claimed, PodDevice { index, peer });
            claimed
        };
        let flush = || attacker.visit(|| ip_batch("addr flush dev eth0\n"));

        // Beside its own device, and in the place of it: the node knows the attacker's namespace, or does not.
        flush();
        let claimed = claim(4242);
        assert_eq!(no_path(&mut kernel, &attacker, claimed).to_string(), ELSEWHERE);
        attacker.visit(|| ip_batch("link del fake\nlink del eth0\n"));
        let claimed = claim(index);
        assert_eq!(no_path(&mut kernel, &attacker, claimed).to_string(), ELSEWHERE);

        kernel.guard(attacker.cookie, attacker.netns(), Unknown::Pass).unwrap();
        kernel.capture(attacker.cookie, &attacker.capture()).unwrap();
        kernel.enforce(0, |_, _, _| None).unwrap();
        kernel.verdicts().unwrap().allow(&permit(0, &victim, &attacker, 80));
        kernel.enforce(1, |_, _, _| panic!("nobody has a verdict for a pod without a path")).unwrap();
    });
}

/// A new agent enters a pod and has no certificate for it yet.
#[test]
fn what_an_earlier_agent_has_left_of_a_direct_pod_stays_until_the_pod_is_served() {
    let bed = Bed::new();
    on_node(|node| {
        let pod = node.pod(2);
        let mut kernel = bed.open();
        pod.captured(&mut kernel, &pod.capture());
        drop(kernel);
        let local = || {
            let map = MapData::from_pin(bed.pin("LOCAL_PODS")).unwrap();
            let pods: BpfHashMap<_, Ip, LocalPod> = Map::HashMap(map).try_into().unwrap();
            pods.iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        let before = local();
        let mut kernel = bed.open();
        let unserved = PodCapture { direct: false, ..pod.capture() };
        kernel.guard_unserved(pod.cookie, pod.netns(), &unserved, Unknown::Refuse).unwrap();
        assert_eq!(local(), before);
        kernel.refuse(pod.cookie).unwrap();
        kernel.guard_unserved(pod.cookie, pod.netns(), &unserved, Unknown::Refuse).unwrap();
        assert_eq!(local(), before, "its open direct connections go on, and forged packets are known");
    });
}
