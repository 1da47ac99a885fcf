//! No room: for pins, for file descriptors, for what an agent has to remember.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use pillion_tests::{AgentOptions, apps, wait};

use crate::SECONDS_10;
use crate::day::Day;
use crate::needles::Needles;

/// A bpffs has no size and no number of inodes, so it cannot be filled. One that is read-only fails in the same calls.
fn set_read_only(bpffs: &Path, read_only: bool) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    let flags = if read_only { flags | MsFlags::MS_RDONLY } else { flags };
    mount(None::<&str>, bpffs, None::<&str>, flags, None::<&str>).unwrap();
}

// proves: SEC-3
#[test]
fn nothing_is_plain_while_nothing_can_be_pinned() {
    let mut day = Day::begin("bpffs takes no pins").unwrap();
    set_read_only(&day.bed.bpffs(), true);
    // A pod that is to be captured now: it is served, or it is refused.
    let late = day.node().pod("late").captured().create().unwrap();
    day.wait_decided(&late).unwrap();
    let needles = Needles::start(&late, day.peer.addresses(), &day.needle(), "late").unwrap();
    needles.wait_more(4).unwrap();
    day.audit();
    day.endure().unwrap();
    day.near.kill().unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.endure().unwrap();

    let mended = wait::now();
    set_read_only(&day.bed.bpffs(), false);
    let healed = day.wait_well(mended).unwrap();
    day.near.wait_serving(&late).unwrap();
    day.end(healed).unwrap();
}

/// Holds as many connections as it is told to, and says so.
const HOLD: &str = r"
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
held = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], 7)); held.append(s)
print('held')
sys.stdin.read()
";

// proves: SEC-3
#[test]
fn one_pod_that_uses_up_the_agents_descriptors_makes_nobody_plain() {
    // The agent raises its soft limit to the hard one.
    let limited = |_: &_| Ok(AgentOptions::default().under("prlimit", &["--nofile=300:300"]));
    let mut day = Day::with("the agent's descriptors used up", limited).unwrap();
    let hog = day.node().pod("hog").captured().create().unwrap();
    day.near.wait_serving(&hog).unwrap();
    let hold = apps::python(&hog, HOLD, [day.peer.ip4().to_string(), "1000".to_owned()]).start().unwrap();
    hold.wait_log("held", SECONDS_10).unwrap();
    day.endure().unwrap();
    let mended = wait::now();
    hold.kill().unwrap();
    let healed = day.wait_well(mended).unwrap();
    day.end(healed).unwrap();
}

// proves: SEC-3
#[test]
fn a_full_state_directory_keeps_nobody_from_being_served_and_makes_nobody_plain() {
    let small = |bed: &pillion_tests::Bed| {
        let dir = bed.dir().join("state/n1");
        fs::create_dir_all(&dir)?;
        mount(Some("none"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
        Ok(AgentOptions::default())
    };
    let mut day = Day::with("state directory full", small).unwrap();
    let ballast = day.bed.dir().join("state/n1/ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    let late = day.node().pod("late").captured().create().unwrap();
    day.wait_decided(&late).unwrap();
    let needles = Needles::start(&late, day.peer.addresses(), &day.needle(), "late").unwrap();
    needles.wait_more(4).unwrap();
    day.audit();
    day.endure().unwrap();

    let restarted = wait::now();
    day.near.kill().unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.note();
    let healed = day.wait_well(restarted).unwrap();
    assert_eq!(day.near.process().exited(), None, "the agent goes on: {}", day.near.log());
    day.endure().unwrap();
    fs::remove_file(&ballast).unwrap();
    day.near.wait_serving(&late).unwrap();
    day.end(healed).unwrap();
}
