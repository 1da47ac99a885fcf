//! Who may connect to a pod in plain: what policies say of source networks and ports, and what is told of it.

#[path = "../common/mod.rs"]
mod common;
mod scene;

use aya::maps::lpm_trie::Key;
use common::node::{PATIENCE, Pod};
use common::permit::permit;
use common::{Bed, NODE};
use nix::time::{ClockId, clock_gettime};
use pillion_agent::kernel::{Counts, Inbound, InboundMode, Kernel, PlainRules, PodCapture, from_address};
use pillion_ebpf_common::{Denial, InboundPort, Ip, LocalPod, Source, event, list};
use scene::Family::{Ipv4, Ipv6, Mapped};
use scene::{Scene, Tables, all, all_but_foe, rules, scene, sources};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

// proves: POL-1
#[test]
fn the_longest_network_that_holds_the_source_decides() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let mut networks = all(false);
        networks.extend(sources(&[
            // Host bits mean nothing.
            ("10.79.0.77/24", true),
            ("10.79.0.3/32", false),
            ("fd79::/64", true),
            ("fd79::3/128", false),
        ]));
        scene.capture(rules(networks.clone()));
        for family in [Ipv4, Ipv6, Mapped] {
            assert!(scene.admits(Some(&scene.friend), family, 80), "{family:?}");
            assert!(!scene.admits(Some(&scene.foe), family, 80), "{family:?}");
        }
        networks.extend(sources(&[("10.79.0.2/31", true), ("fd79::2/127", true)]));
        scene.capture(rules(networks.clone()));
        assert!(!scene.admits_foe(80), "a network in between decides nothing");
        networks.retain(|network, _| network.prefix_len() != network.max_prefix_len());
        scene.capture(rules(networks));
        assert!(scene.admits_foe(80));
    });
}

// proves: POL-1
#[test]
fn all_of_ipv6_does_not_mean_ipv4() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        for ipv4 in [false, true] {
            scene.capture(rules(sources(&[("0.0.0.0/0", ipv4), ("::/0", !ipv4)])));
            for (family, may) in [(Ipv4, ipv4), (Mapped, ipv4), (Ipv6, !ipv4)] {
                assert_eq!(scene.admits(Some(&scene.friend), family, 80), may, "{family:?}");
            }
        }
        scene.capture(rules(sources(&[("::/0", true), ("::ffff:0:0/96", true)])));
        assert!(!scene.admits_friend(80), "who is in no network may not");
    });
}

// proves: POL-1
#[test]
fn a_port_may_have_rules_of_its_own_and_a_mode_of_its_own() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let own_rules = PlainRules { default: Some(all(false)), ports: [(80, all_but_foe())].into() };
        scene.capture(Inbound { rules: own_rules, ..Inbound::default() });
        assert!(scene.admits_friend(80) && !scene.admits_foe(80) && !scene.admits_friend(81));

        let rules_only_there = PlainRules { default: None, ports: [(80, all_but_foe())].into() };
        scene.capture(Inbound {
            ports: [(81, InboundMode::Refuse)].into(),
            rules: rules_only_there,
            ..Inbound::default()
        });
        assert!(scene.admits_friend(80) && !scene.admits_foe(80));
        assert!(!scene.admits_friend(81) && scene.admits_foe(82));

        // A mode of its own does not take the default rules away, nor do rules the mode.
        scene.capture(Inbound {
            default: InboundMode::Refuse,
            ports: [(80, InboundMode::Count), (81, InboundMode::Ignore)].into(),
            rules: PlainRules { default: Some(all_but_foe()), ports: [(82, all(true))].into() },
            ..Inbound::default()
        });
        for port in [80, 81] {
            assert!(scene.admits_friend(port) && !scene.admits_foe(port), "{port}");
        }
        assert!(!scene.admits_friend(82));
    });
}

// proves: POL-1, POL-3
#[test]
fn the_node_may_probe_whatever_policies_say() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        for default in [InboundMode::Ignore, InboundMode::Count, InboundMode::Refuse] {
            let probed = [80].into();
            scene.capture(Inbound { default, probed, ..rules(all(false)) });
            assert!(scene.admits_node(80) && !scene.admits_node(81), "{default:?}");
            assert!(!scene.admits_friend(80), "{default:?}");
        }
        scene.capture(Inbound { probed: [80].into(), ..rules(all_but_foe()) });
        assert!(scene.admits_friend(80) && !scene.admits_foe(80));
    });
}

// proves: POL-1
#[test]
fn a_port_that_is_excluded_has_no_rules_and_one_that_is_only_disabled_has() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        scene.capture(Inbound {
            default: InboundMode::Ignore,
            excluded: [80].into(),
            ports: [(80, InboundMode::Refuse)].into(),
            rules: PlainRules { default: Some(all(false)), ports: [(80, all(false))].into() },
            ..Inbound::default()
        });
        assert!(scene.admits_friend(80) && !scene.admits_friend(81));
        assert_eq!(scene.counts(), Counts { denied: 1, ..Counts::default() }, "nobody counts what is let in");
    });
}

#[test]
fn a_pod_that_talks_to_itself_is_never_denied() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let _worker = scene.server.worker(&scene.kernel);
        scene.capture(rules(all(false)));
        for family in [Ipv4, Ipv6, Mapped] {
            assert!(scene.admits(Some(&scene.server), family, 80), "{family:?}");
        }
        let loopback = scene.server.connect("127.0.0.1:80".parse().unwrap());
        assert!(scene.has_arrived(loopback, 80));
    });
}

// proves: POL-1
#[test]
fn a_denial_is_told_and_counted_apart() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        scene.capture(Inbound { ports: [(82, InboundMode::Refuse)].into(), ..rules(all_but_foe()) });
        let mut denials = scene.kernel.denials().unwrap();
        let now = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as u64;
        let before = now();
        let (foe4, foe6) =
            (SocketAddr::new(scene.foe.ipv4.into(), 4001), SocketAddr::new(scene.foe.ipv6.into(), 4002));
        for (from, to) in [(foe4, scene.address(Ipv4, 80)), (foe6, scene.address(Ipv6, 81))] {
            let connected = scene.foe.visit(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                socket.bind(&from.into()).unwrap();
                socket.connect(&to.into())?;
                Ok(socket.into())
            });
            assert!(!scene.has_arrived(connected, to.port()));
        }
        assert!(scene.admits_friend(80) && !scene.admits_foe(82));

        let mut told = vec![];
        let mut drain = || {
            denials.drain(|Denial { time, netns, client, server }| {
                assert!(before < *time && *time < now());
                told.push((*netns, from_address(client), from_address(server)));
            });
        };
        drain();
        drain();
        let netns = scene.server.cookie;
        assert_eq!(told, [(netns, foe4, scene.address(Ipv4, 80)), (netns, foe6, scene.address(Ipv6, 81))]);
        assert_eq!(denials.lost().unwrap(), 0);
        assert_eq!(scene.counts(), Counts { passed: 1, refused: 1, denied: 2, ..Counts::default() });
    });
}

#[test]
fn a_flood_of_denials_pushes_out_no_events_of_real_connections() {
    /// As many as there is room for, with the kernel's eight bytes each.
    const ROOM: u64 = (256 << 10) / 64;
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        scene.capture(rules(all(false)));
        let (mut events, mut denials) = (scene.kernel.events().unwrap(), scene.kernel.denials().unwrap());
        let to = scene.address(Ipv4, 80);
        scene.foe.visit(|| {
            for _ in 0..ROOM + 100 {
                TcpStream::connect_timeout(&to, PATIENCE).unwrap_err();
            }
        });
        assert_eq!(scene.counts().denied, ROOM + 100);
        let lost = denials.lost().unwrap();
        // (A ring buffer is full one byte early.)
        assert!((100..=101).contains(&lost), "{lost}");

        // Whom the kernel vouches for gets in whatever the rules say: what policies have to say of it is the verdict.
        scene.friend.captured(&mut scene.kernel, &scene.friend.capture());
        let _worker = scene.friend.worker(&scene.kernel);
        scene.kernel.enforce(0, |_, _, _| None).unwrap();
        scene.kernel.verdicts().unwrap().allow(&permit(0, &scene.friend, &scene.server, 80));
        assert!(scene.admits_friend(80));
        let mut told = 0;
        events.drain(|event| told += u32::from(event.kind == event::OPENED));
        assert_eq!((told, events.lost().unwrap()), (2, 0), "both ends tell");

        let mut told = 0;
        denials.drain(|_| told += 1);
        assert_eq!(told, ROOM + 100 - lost);
        assert!(!scene.admits_foe(80));
        denials.drain(|_| told += 1);
        assert_eq!(told, ROOM + 101 - lost, "there is room again");
        assert_eq!(denials.lost().unwrap(), lost);
    });
}

// proves: POL-1
#[test]
fn while_rules_change_nobody_gets_in_whom_none_of_them_allow() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        // The foe may never connect to port 80, the friend always may.
        let mut narrow = all(false);
        narrow.extend(sources(&[("10.79.0.4/32", true)]));
        let mut wide = all(true);
        wide.extend(sources(&[("10.79.0.0/28", false), ("10.79.0.4/30", true)]));
        let only_there = PlainRules { default: None, ports: [(80, all_but_foe())].into() };
        let but_there = PlainRules { default: Some(all(true)), ports: [(80, narrow.clone())].into() };
        let ways = [
            rules(narrow.clone()),
            Inbound { rules: only_there, ..Inbound::default() },
            rules(wide),
            Inbound { rules: but_there, ports: [(81, InboundMode::Refuse)].into(), ..Inbound::default() },
            rules(all_but_foe()),
            Inbound { ports: [(80, InboundMode::Ignore)].into(), probed: [80].into(), ..rules(narrow) },
        ];
        scene.capture(ways[0].clone());
        let to = scene.address(Ipv4, 80);
        let is_over = AtomicBool::new(false);
        let (friends, foes) = thread::scope(|scope| {
            let try_on = |pod: &'_ Pod, may: bool| {
                let mut tries = 0;
                pod.visit(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let connected = TcpStream::connect_timeout(&to, PATIENCE);
                        assert_eq!(connected.is_ok(), may, "{connected:?}");
                        tries += 1;
                    }
                });
                tries
            };
            let (friend, foe, apps) = (&scene.friend, &scene.foe, &scene.apps);
            let friends = scope.spawn(move || try_on(friend, true));
            let foes = scope.spawn(move || try_on(foe, false));
            for (round, inbound) in ways.iter().cycle().take(600).enumerate() {
                let capture = PodCapture { inbound: inbound.clone(), ..scene.server.capture() };
                if (round / ways.len()).is_multiple_of(2) {
                    scene.kernel.capture(scene.server.cookie, &capture).unwrap();
                } else {
                    scene.kernel.audit(&HashMap::from([(scene.server.cookie, capture)])).unwrap();
                }
                while apps[0].1.accept_now().is_some() {}
            }
            is_over.store(true, Ordering::Relaxed);
            (friends.join().unwrap(), foes.join().unwrap())
        });
        assert!(friends > 100 && foes > 100, "they have tried all the time: {friends}, {foes}");
    });
}

#[test]
fn pods_and_ports_of_which_policies_say_the_same_share_one_list() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let own =
            PlainRules { default: Some(all_but_foe()), ports: [(80, all_but_foe()), (81, all(true))].into() };
        let capture = scene.capture(Inbound { rules: own, ..Inbound::default() });
        let other = PodCapture { inbound: rules(all(true)), ..scene.friend.capture() };
        scene.kernel.capture(scene.friend.cookie, &other).unwrap();
        let tables = Tables::open(&bed);
        let (lists, names) = (tables.lists(), tables.names());
        assert_eq!(names.len(), 2);
        assert_eq!(lists.len(), 4 + 2);

        // Nothing is written anew that is there already, not by the next agent either.
        scene.kernel.capture(scene.server.cookie, &capture).unwrap();
        drop(scene.kernel);
        scene.kernel = bed.open();
        scene.kernel.capture(scene.server.cookie, &capture).unwrap();
        assert_eq!((tables.lists(), tables.names()), (lists.clone(), names.clone()));
        assert_eq!(
            scene
                .kernel
                .audit(&HashMap::from(
                    [(scene.server.cookie, capture.clone()), (scene.friend.cookie, other),]
                ))
                .unwrap(),
            []
        );

        // What the other still needs stays.
        scene.kernel.forget(scene.friend.cookie).unwrap();
        assert_eq!(tables.lists(), lists);
        scene.capture(rules(all_but_foe()));
        assert_eq!(tables.lists().len(), 4);
        assert!(scene.admits_friend(80) && !scene.admits_foe(80));
    });
}

// proves: LIF-1
#[test]
fn without_an_agent_and_when_it_cannot_be_served_a_pod_keeps_its_rules() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        scene.capture(rules(all_but_foe()));
        scene.kernel.refuse(scene.server.cookie).unwrap();
        let are_kept = |scene: &Scene| scene.admits_node(80) && !scene.admits_foe(80);
        assert!(are_kept(&scene));
        // Nor does the next agent take them away, or give their list's number to others.
        drop(scene.kernel);
        scene.kernel = bed.open();
        assert!(are_kept(&scene));
        scene.kernel.refuse(scene.server.cookie).unwrap();
        let other = PodCapture { inbound: rules(all(true)), ..scene.friend.capture() };
        scene.kernel.capture(scene.friend.cookie, &other).unwrap();
        scene.kernel.audit(&HashMap::from([(scene.friend.cookie, other)])).unwrap();
        assert!(are_kept(&scene));
    });
}

#[test]
fn the_audit_mends_rules() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let own = PlainRules { default: Some(all_but_foe()), ports: [(80, all(false))].into() };
        let capture = scene.capture(Inbound { rules: own, ..Inbound::default() });
        let wanted = HashMap::from([(scene.server.cookie, capture)]);
        let mut tables = Tables::open(&bed);
        let mended = |scene: &mut Scene| -> Vec<&str> {
            let repairs = scene.kernel.audit(&wanted).unwrap();
            assert!(!scene.admits_foe(81) && scene.admits_friend(81) && !scene.admits_friend(80));
            repairs.into_iter().map(|repair| repair.what).collect()
        };
        assert_eq!(mended(&mut scene), [""; 0]);
        let (lists, names) = (tables.lists(), tables.names());

        let foe = lists.iter().find(|(length, ..)| *length == Source::ALL_BITS).copied().unwrap();
        let key = |(length, list, ip): (u32, u32, Ip)| Key::new(length, Source { list, ip });
        tables.sources.remove(&key(foe)).unwrap();
        assert!(scene.admits_foe(81));
        assert_eq!(mended(&mut scene), ["source_list"]);
        tables.sources.insert(&key(foe), 1, 0).unwrap();
        assert!(scene.admits_foe(81));
        assert_eq!(mended(&mut scene), ["source_list"]);
        let network = key((foe.0 - 1, foe.1, foe.2));
        tables.sources.insert(&network, 1, 0).unwrap();
        let foreign = key((foe.0, 4711, foe.2));
        tables.sources.insert(&foreign, 1, 0).unwrap();
        assert_eq!(mended(&mut scene), ["source_list"; 2]);
        assert_eq!(tables.lists(), lists);

        let ip = tables.pods.keys().next().unwrap().unwrap();
        let pod = tables.pods.get(&ip, 0).unwrap();
        tables.pods.insert(ip, LocalPod { sources: list::NONE, ..pod }, 0).unwrap();
        assert_eq!(mended(&mut scene), ["pod_entry"]);
        let port = tables.ports.keys().next().unwrap().unwrap();
        tables.ports.insert(port, InboundPort::default(), 0).unwrap();
        assert_eq!(mended(&mut scene), ["pod_entry"]);
        tables.ports.remove(&port).unwrap();
        assert_eq!(mended(&mut scene), ["pod_entry"]);
        assert_eq!((tables.lists(), tables.names()), (lists, names));
        assert_eq!(mended(&mut scene), [""; 0]);
    });
}

// proves: LIF-5
#[test]
fn pods_that_go_take_their_rules_with_them() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let inbound = Inbound {
            rules: PlainRules { default: Some(all(false)), ports: [(80, all_but_foe())].into() },
            ..Inbound::default()
        };
        let tables = Tables::open(&bed);
        let is_empty = || tables.lists().is_empty() && tables.names().is_empty();

        scene.capture(inbound.clone());
        assert!(!is_empty());
        scene.capture(Inbound::default());
        assert!(is_empty() && scene.admits_foe(80));

        scene.capture(inbound.clone());
        scene.kernel.release(scene.server.cookie).unwrap();
        assert!(is_empty() && scene.admits_foe(80) && scene.admits_foe(81));

        scene
            .server
            .captured(&mut scene.kernel, &PodCapture { inbound: inbound.clone(), ..scene.server.capture() });
        assert!(!scene.admits_foe(80));
        scene.kernel.forget(scene.server.cookie).unwrap();
        assert!(is_empty() && scene.admits_foe(80) && scene.admits_foe(81));

        scene.server.captured(&mut scene.kernel, &PodCapture { inbound, ..scene.server.capture() });
        drop(scene.kernel);
        bed.open().forget(scene.server.cookie).unwrap();
        assert!(is_empty());
        drop(tables);
        Kernel::uninstall(&bed.bpffs, NODE).unwrap();
        assert!(!common::exists(&bed.bpffs.join("pillion")));
    });
}

// proves: LIF-1
#[test]
fn rules_that_find_no_room_let_nobody_in() {
    let bed = Bed::new();
    scene(&bed, |mut scene| {
        let before = PlainRules { default: None, ports: [(80, all(true))].into() };
        let capture = scene.capture(Inbound { rules: before, ..Inbound::default() });
        let mut tables = Tables::open(&bed);
        let stuffing: Vec<Key<Source>> = (0..)
            .map(|n| Key::new(Source::ALL_BITS, Source { list: u32::MAX, ip: [n, 0, 0, 0] }))
            .take_while(|key| tables.sources.insert(key, 0, 0).is_ok())
            .collect();
        tables.sources.remove(&stuffing[0]).unwrap();
        let lists = tables.lists();

        // The list that finds no room is that of ports 80 and 81, the one of which had an entry.
        let stricter = PlainRules { default: Some(all_but_foe()), ports: [(82, all(true))].into() };
        let stricter = PodCapture { inbound: Inbound { rules: stricter, ..Inbound::default() }, ..capture };
        let error = scene.kernel.capture(scene.server.cookie, &stricter).unwrap_err();
        assert!(error.to_string().starts_with("the map SOURCES could not be written"), "{error}");
        for port in [80, 81] {
            assert!(!scene.admits_foe(port) && !scene.admits_friend(port));
        }
        assert!(scene.admits_foe(82));
        assert_eq!(tables.lists(), lists, "nothing is left of the half of it");

        for key in &stuffing[1..] {
            tables.sources.remove(key).unwrap();
        }
        scene.kernel.capture(scene.server.cookie, &stricter).unwrap();
        assert!(!scene.admits_foe(80) && scene.admits_friend(80) && scene.admits_foe(82));
    });
}
