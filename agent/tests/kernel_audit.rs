//! What an audit does where something fails, and what the kernel says of pods that nobody speaks of.

mod common;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use common::{Bed, in_pod};
use nix::unistd::gettid;
use pillion_agent::kernel::{NetnsLife, PodCapture, Unknown, netns_cookie_at};
use pillion_ebpf_common::PodPort;
use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::thread::yield_now;
use std::time::{Duration, Instant};

// proves: SEC-3
#[test]
fn an_error_about_one_pod_keeps_the_audit_from_none_of_the_others() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let mut wanted: HashMap<u64, PodCapture> =
            (1001..1020).map(|cookie| (cookie, PodCapture::default())).collect();
        for (cookie, capture) in &wanted {
            kernel.capture(*cookie, capture).unwrap();
        }
        let mut members: BpfHashMap<_, u64, u8> =
            Map::HashMap(MapData::from_pin(bed.pin("MEMBERS")).unwrap()).try_into().unwrap();
        let mut ports: BpfHashMap<_, PodPort, u8> =
            Map::HashMap(MapData::from_pin(bed.pin("EXCLUDED_PORTS")).unwrap()).try_into().unwrap();
        for port in 0.. {
            if ports.insert(PodPort { netns: u64::MAX, port, zero: 0 }, 1, 0).is_err() {
                break;
            }
        }
        // A pod whose exclusions find no room, and others that somebody has meddled with.
        wanted.insert(pod.cookie, PodCapture { excluded_ports: [9].into(), ..pod.capture() });
        for cookie in 1001..1020 {
            members.remove(&cookie).unwrap();
        }
        fs::remove_file(bed.pin("link_connect4")).unwrap();
        kernel.refuse(2000).unwrap();
        members.remove(&2000).unwrap();

        let incomplete = kernel.audit(&wanted).unwrap_err();
        assert_eq!(incomplete.errors.len(), 1, "{incomplete}");
        assert!(incomplete.to_string().contains("EXCLUDED_PORTS"), "{incomplete}");
        let mended = |what| incomplete.repairs.iter().filter(|repair| repair.what == what).count();
        assert_eq!((mended("member"), mended("link")), (19 + 1 + 1, 1), "{:?}", incomplete.repairs);
        let now = members.keys().flatten().collect::<Vec<_>>();
        assert!((1001..1020).chain([2000, pod.cookie]).all(|cookie| now.contains(&cookie)), "{now:?}");
    });
}

/// Pods with as many exclusions as they may have.
fn excluding(pods: u64) -> HashMap<u64, PodCapture> {
    let networks: Vec<_> = (0..1_000_u32)
        .map(|i| ipnet::IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + i))))
        .collect();
    let capture = PodCapture {
        excluded_ports: (1..=1_000).collect(),
        excluded_cidrs: networks,
        ..PodCapture::default()
    };
    (1001..1001 + pods).map(|cookie| (cookie, capture.clone())).collect()
}

#[test]
fn an_audit_of_many_exclusions_costs_no_more_for_each_pod_than_one_of_few() {
    let bed = Bed::new();
    let cost = |pods: u64| {
        let mut of_audit = Duration::MAX;
        in_pod(|_| {
            let mut kernel = bed.open();
            let wanted = excluding(pods);
            for (cookie, capture) in &wanted {
                kernel.capture(*cookie, capture).unwrap();
            }
            for _ in 0..5 {
                let begun = Instant::now();
                assert_eq!(kernel.audit(&wanted).unwrap(), []);
                kernel.strangers(|cookie| wanted.contains_key(&cookie)).unwrap();
                of_audit = of_audit.min(begun.elapsed());
            }
            for cookie in wanted.keys() {
                kernel.forget(*cookie).unwrap();
            }
        });
        of_audit
    };
    let (few, many) = (cost(10), cost(120));
    println!("an audit of 10 pods: {few:?}; of 120: {many:?}");
    assert!(many < few * 12 * 3, "of 10 pods: {few:?}; of 120: {many:?}");
    assert!(many < Duration::from_secs(1), "{many:?}");
}

// proves: SEC-3
#[test]
fn the_kernel_says_of_a_guarded_pod_whether_its_namespace_is_there() {
    let bed = Bed::new();
    let mut guarded = 0;
    in_pod(|pod| {
        let mut kernel = bed.open();
        assert_eq!(kernel.netns_life(pod.cookie).unwrap(), NetnsLife::NotGuarded);
        let netns = fs::File::open("/proc/thread-self/ns/net").unwrap();
        kernel.guard(pod.cookie, netns.as_fd(), Unknown::Refuse).unwrap();
        assert_eq!(kernel.netns_life(pod.cookie).unwrap(), NetnsLife::Alive);
        // The next agent asks the guard by its pin.
        drop(kernel);
        assert_eq!(bed.open().netns_life(pod.cookie).unwrap(), NetnsLife::Alive);
        let path = format!("/proc/self/task/{}/ns/net", gettid());
        assert_eq!(netns_cookie_at(path.as_ref()).unwrap(), pod.cookie);
        guarded = pod.cookie;
    });
    // The namespace ends with its last thread, a moment after that.
    let kernel = bed.open();
    let begun = Instant::now();
    while kernel.netns_life(guarded).unwrap() != NetnsLife::Gone {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the kernel does not say that the namespace is gone"
        );
        yield_now();
    }
}
