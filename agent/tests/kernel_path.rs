//! The programs at the node's end of a pod's veth: how they stay and go, and what they let through.

mod common;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifier, TcAttachType};
use common::frame::{self, Wire};
use common::node::{Listener, Node, PATIENCE, Pod, on_node};
use common::permit::permit;
use common::{Bed, NODE, Worker};
use pillion_agent::kernel::{Counts, Kernel, KernelConfig, TrafficControl, addresses_in};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use std::{array, thread};

const BOTH: [TrafficControl; 2] = [TrafficControl::Tcx, TrafficControl::Clsact];

/// What is attached at one side of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    /// What outlives the program: the link's id, or the filter's priority and handle.
    place: String,
    program: u32,
}

fn open(bed: &Bed, traffic_control: TrafficControl) -> Kernel {
    Kernel::open(&KernelConfig { traffic_control, ..bed.config() }).unwrap()
}

/// What is attached as `from_pod` where packets come from the pod, and as `to_pod` where they go there.
fn attached(bed: &Bed, pod: &Pod, traffic_control: TrafficControl) -> [Option<Attached>; 2] {
    let sides = [("from_pod", TcAttachType::Ingress), ("to_pod", TcAttachType::Egress)];
    sides.map(|(name, side)| match traffic_control {
        TrafficControl::Tcx => {
            let (_, programs) = SchedClassifier::query_tcx(&pod.veth, side).unwrap();
            let program = programs.iter().find(|program| program.name_as_str() == Some(name))?.id();
            let pin = PinnedLink::from_pin(bed.pin(&format!("link_{name}_{}", pod.cookie))).unwrap();
            let link = FdLink::from(pin).info().unwrap();
            assert_eq!(link.program_id(), program, "{name} is attached by the pinned link");
            Some(Attached { place: link.id().to_string(), program })
        }
        TrafficControl::Clsact => filters(&pod.veth, side).into_iter().find_map(|filter| {
            let options = &filter["options"];
            let found = options["prog"]["name"] == name;
            let program = options["prog"]["id"].as_u64()? as u32;
            let place = format!("{} {}", filter["pref"], options["handle"]);
            found.then_some(Attached { place, program })
        }),
    })
}

/// What `tc` shows at a side of a device.
fn filters(device: &str, side: TcAttachType) -> Vec<Value> {
    let side = if side == TcAttachType::Ingress { "ingress" } else { "egress" };
    let output = Command::new("tc").args(["-j", "filter", "show", "dev", device, side]).output();
    serde_json::from_slice(&output.expect("iproute2 is installed").stdout).unwrap()
}

/// Two captured pods; the first may connect to the second's port 80 directly.
struct Pair {
    client: Pod,
    server: Pod,
    app: Listener,
    _worker: Worker,
}

impl Pair {
    fn new(node: &Node, kernel: &mut Kernel) -> Self {
        let [client, server] = [2, 3].map(|host| node.pod(host));
        for pod in [&client, &server] {
            pod.captured(kernel, &pod.capture());
        }
        kernel.enforce(0, |_, _, _| None).unwrap();
        kernel.verdicts().unwrap().allow(&permit(0, &client, &server, 80));
        let (worker, app) = (client.worker(kernel), server.listen(80));
        Self { client, server, app, _worker: worker }
    }

    fn pods(&self) -> [&Pod; 2] {
        [&self.client, &self.server]
    }

    /// A direct connection: both ends.
    fn connect(&self, kernel: &Kernel, family: usize) -> [TcpStream; 2] {
        let to = SocketAddr::new(addresses(&self.server)[family], 80);
        let client = self.client.connect(to).unwrap();
        let server = self.app.accept().expect("the connection arrives at the server");
        assert!(kernel.flows().get(client.local_addr().unwrap(), to).unwrap().is_some(), "it is direct");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        [client, server]
    }
}

fn addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.ipv4.into(), pod.ipv6.into()]
}

fn speak([client, server]: &mut [TcpStream; 2]) {
    let mut heard = [0];
    client.write_all(b"?").unwrap();
    server.read_exact(&mut heard).unwrap();
    server.write_all(b"!").unwrap();
    client.read_exact(&mut heard).unwrap();
}

/// As for a pod whose runtime does not say them.
#[test]
fn the_addresses_of_a_pod_are_found_in_its_namespace() {
    on_node(|node| {
        let pod = node.pod(7);
        let expected: [IpAddr; 2] = [pod.ipv4.into(), pod.ipv6.into()];
        assert_eq!(addresses_in(&pod.path()).unwrap(), expected);
        assert!(addresses_in("/nowhere".as_ref()).is_err());
    });
}

// proves: LIF-2
#[test]
fn the_next_agent_takes_a_veths_programs_over_without_a_gap() {
    for traffic_control in BOTH {
        let bed = Bed::new();
        on_node(|node| {
            let mut first = open(&bed, traffic_control);
            let pair = Pair::new(node, &mut first);
            let before = pair.pods().map(|pod| attached(&bed, pod, traffic_control).map(Option::unwrap));
            let mut connections = [0, 1].map(|family| pair.connect(&first, family));

            let is_over = AtomicBool::new(false);
            let rounds = AtomicU32::new(0);
            let mut second = thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        connections.iter_mut().for_each(speak);
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
                drop(first);
                let mut second = open(&bed, traffic_control);
                for pod in pair.pods() {
                    pod.captured(&mut second, &pod.capture());
                }
                is_over.store(true, Ordering::Relaxed);
                second
            });
            assert!(rounds.into_inner() > 10, "they have spoken all the time");

            for (pod, before) in pair.pods().into_iter().zip(before) {
                let after = attached(&bed, pod, traffic_control).map(Option::unwrap);
                for (before, after) in before.iter().zip(&after) {
                    assert_eq!(after.place, before.place, "{traffic_control:?}");
                    assert_ne!(after.program, before.program, "the new agent's program runs");
                }
                // What does not go straight to the other pod is dropped there as forged.
                assert_eq!(second.counts(pod.cookie).unwrap(), Counts::default(), "{traffic_control:?}");
            }
            connections.iter_mut().for_each(speak);
            speak(&mut pair.connect(&second, 0));
            let wanted = pair.pods().map(|pod| (pod.cookie, pod.capture()));
            assert_eq!(second.audit(&HashMap::from(wanted)).unwrap(), []);
        });
    }
}

// proves: LIF-5
#[test]
fn a_pod_that_is_forgotten_and_uninstall_take_the_programs_off_the_veth() {
    for traffic_control in BOTH {
        let bed = Bed::new();
        on_node(|node| {
            let mut kernel = open(&bed, traffic_control);
            let pods: [Pod; 3] = array::from_fn(|place| node.pod(place as u8 + 2));
            for pod in &pods {
                pod.captured(&mut kernel, &pod.capture());
            }
            let are_attached = || {
                [0, 1, 2].map(|place: usize| {
                    let sides = attached(&bed, &pods[place], traffic_control);
                    assert_eq!(sides[0].is_some(), sides[1].is_some());
                    sides[0].is_some()
                })
            };
            assert_eq!(are_attached(), [true, true, true]);
            kernel.forget(pods[0].cookie).unwrap();
            assert_eq!(are_attached(), [false, true, true], "{traffic_control:?}");

            // An agent that did not know the pod before.
            drop(kernel);
            let mut kernel = open(&bed, traffic_control);
            kernel.audit(&HashMap::from([(pods[2].cookie, pods[2].capture())])).unwrap();
            assert_eq!(are_attached(), [false, true, true], "{traffic_control:?}");
            kernel.forget(pods[1].cookie).unwrap();
            assert_eq!(are_attached(), [false, false, true], "{traffic_control:?}");

            drop(kernel);
            Kernel::uninstall(&bed.bpffs, NODE).unwrap();
            for pod in &pods {
                for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                    assert!(filters(&pod.veth, side).is_empty(), "{traffic_control:?}");
                    assert!(SchedClassifier::query_tcx(&pod.veth, side).unwrap().1.is_empty());
                }
            }
        });
    }
}

// proves: ID-1
#[test]
fn only_a_pods_own_addresses_leave_it() {
    for traffic_control in BOTH {
        let bed = Bed::new();
        on_node(|node| {
            let mut kernel = open(&bed, traffic_control);
            let [sender, receiver, victim] = [2, 3, 4].map(|host| node.pod(host));
            sender.captured(&mut kernel, &sender.capture());
            let wire = Wire::of(&sender);
            let inbox = Inbox::at(&receiver);
            let strangers: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), "2001:db8::1".parse().unwrap()];
            let mut dropped = 0;
            for family in [0, 1] {
                let to = inbox.address(family);
                let say = |from, tags: &[[u8; 4]], what: &str| {
                    wire.send(&receiver, tags, &frame::datagram(from, to, what.as_bytes()));
                };
                for from in [addresses(&victim)[family], strangers[family]] {
                    for tags in [&[][..], &[frame::TAG], &[frame::TAG; 2]] {
                        say(from, tags, "forged");
                        dropped += 1;
                    }
                }
                // One tag is taken off before the program looks, a second one hides what is in it.
                let own = addresses(&sender)[family];
                say(own, &[frame::TAG; 2], "hidden");
                dropped += 1;
                say(own, &[frame::TAG], "tagged");
                say(own, &[], "plain");
                assert_eq!(inbox.receive(2), ["plain", "tagged"]);
            }
            wait_for(|| kernel.counts(sender.cookie).unwrap().foreign_source == dropped);
        });
    }
}

/// IPv6 lets a packet in that bears the receiver's own address; worker and apps speak to each other under it.
// proves: ID-1, SEC-3
#[test]
fn what_bears_a_pods_own_address_does_not_come_to_it_from_outside() {
    for traffic_control in BOTH {
        let bed = Bed::new();
        on_node(|node| {
            let mut kernel = open(&bed, traffic_control);
            let [receiver, outsider] = [2, 3].map(|host| node.pod(host));
            receiver.captured(&mut kernel, &receiver.capture());
            let (wire, inbox) = (Wire::of(&outsider), Inbox::at(&receiver));
            for family in [0, 1] {
                let to = inbox.address(family);
                wire.send(&receiver, &[], &frame::datagram(to.ip(), to, b"forged"));
                // What was sent before has passed when this arrives, or never will.
                wire.send(&receiver, &[], &frame::datagram(addresses(&outsider)[family], to, b"true"));
                assert_eq!(inbox.receive(1), ["true"]);
            }
            wait_for(|| kernel.counts(receiver.cookie).unwrap().forged == 2);
        });
    }
}

// proves: ID-1
#[test]
fn what_may_hide_a_segment_does_not_reach_a_pod_from_a_neighbour() {
    for traffic_control in BOTH {
        let bed = Bed::new();
        on_node(|node| {
            let mut kernel = open(&bed, traffic_control);
            let [neighbour, receiver, outsider] = [2, 3, 4].map(|host| node.pod(host));
            for pod in [&neighbour, &receiver] {
                pod.captured(&mut kernel, &pod.capture());
            }
            let inbox = Inbox::at(&receiver);
            let [to4, to6] = [0, 1].map(|family| inbox.address(family));
            let unattested = || kernel.counts(neighbour.cookie).unwrap().unattested;
            for sender in [&neighbour, &outsider] {
                let wire = Wire::of(sender);
                let [from4, from6] = addresses(sender);
                let send = |packet: &[u8]| wire.send(&receiver, &[], packet);
                let syn = |from, to| frame::syn(SocketAddr::new(from, 4000), to);
                let hidden = [
                    frame::packet4(from4, to4.ip(), frame::MORE_FRAGMENTS, frame::TCP, &syn(from4, to4)[..8]),
                    frame::packet4(from4, to4.ip(), 1, frame::TCP, &syn(from4, to4)[8..]),
                    frame::packet(
                        from6,
                        to6.ip(),
                        frame::DESTINATION_OPTIONS,
                        &frame::options6(frame::TCP, &syn(from6, to6)),
                    ),
                    frame::packet(
                        from6,
                        to6.ip(),
                        frame::FRAGMENT,
                        &frame::fragment6(frame::TCP, 0, false, &syn(from6, to6)),
                    ),
                    frame::packet(
                        from6,
                        to6.ip(),
                        frame::FRAGMENT,
                        &frame::fragment6(
                            frame::DESTINATION_OPTIONS,
                            0,
                            false,
                            &frame::options6(frame::TCP, &syn(from6, to6)),
                        ),
                    ),
                ];
                hidden.iter().for_each(|packet| send(packet));
                // What was sent before has passed when this arrives, or never will.
                send(&frame::datagram(from4, to4, b"4"));
                send(&frame::datagram(from6, to6, b"6"));
                assert_eq!(inbox.receive(2), ["4", "6"]);
                // A captured pod's own do not even leave it: they would leave in plain, whoever they are for.
                if sender.cookie == neighbour.cookie {
                    wait_for(|| unattested() == hidden.len() as u64);
                }
            }
        });
    }
}

// proves: CAP-3
#[test]
fn datagrams_in_fragments_pass_between_captured_pods() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let [sender, receiver] = [2, 3].map(|host| node.pod(host));
        for pod in [&sender, &receiver] {
            pod.captured(&mut kernel, &pod.capture());
        }
        let inbox = Inbox::at(&receiver);
        for family in [0, 1] {
            let to = inbox.address(family);
            let datagram = "x".repeat(4000);
            sender.visit(|| {
                let any: SocketAddr = if family == 0 {
                    (Ipv4Addr::UNSPECIFIED, 0).into()
                } else {
                    (Ipv6Addr::UNSPECIFIED, 0).into()
                };
                UdpSocket::bind(any).unwrap().send_to(datagram.as_bytes(), to).unwrap();
            });
            assert!(inbox.receive(1) == [datagram]);
        }
        assert_eq!(kernel.counts(receiver.cookie).unwrap(), Counts::default());
    });
}

/// A pod's socket that takes datagrams.
struct Inbox {
    socket: UdpSocket,
    addresses: [IpAddr; 2],
}

impl Inbox {
    fn at(pod: &Pod) -> Self {
        let socket = pod.visit(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, addresses: addresses(pod) }
    }

    fn address(&self, family: usize) -> SocketAddr {
        SocketAddr::new(self.addresses[family], self.socket.local_addr().unwrap().port())
    }

    /// The next datagrams, sorted: the two CPUs of a veth pair may overtake each other.
    fn receive(&self, count: usize) -> Vec<String> {
        let mut received: Vec<String> = (0..count)
            .map(|_| {
                let mut datagram = [0; 8192];
                let length = self.socket.recv(&mut datagram).expect("a datagram arrives");
                String::from_utf8(datagram[..length].to_vec()).unwrap()
            })
            .collect();
        received.sort();
        received
    }
}

/// Packets take their time.
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came to be");
        thread::yield_now();
    }
}
