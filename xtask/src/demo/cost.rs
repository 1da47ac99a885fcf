//! CAP-3: what the hooks cost a connect(). Shown, not judged: a shared machine is no scale.

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;
use std::process;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt::Linger,
};
use pillion_tests::Pod;

use super::check::{Check, Saw};
use super::stage::Stage;

pub const CHECK: Check = Check { id: "CAP-3", what: "the hooks cost a connect() little", look };

/// The hidden task by which this program measures itself in a pod.
pub const PROBE: &str = "connect-cost";

const CONNECTIONS: usize = 400;
const ROUNDS: usize = 7;

/// Runs in a pod, as a process of its own.
#[derive(clap::Args)]
pub struct Probe {
    /// Connects to this address, instead of a listener of its own on 127.0.0.1
    #[arg(long)]
    to: Option<SocketAddrV4>,
}

/// Every measured connect() is a whole handshake over the loopback device, to a listener of the probe or to the
/// worker's: what differs is what the hooks do.
fn look(stage: &Stage) -> Saw {
    let (alice, bob, web) = (&stage.alice, &stage.bob, &stage.web);
    stage.leave(&[bob])?;
    stage.join(&[alice, web])?;
    let program = env::current_exe().context("this program does not know where it is")?;
    let to = SocketAddrV4::new(web.ip4(), 80).to_string();
    let in_pod =
        |pod: &Pod, args: &[&str]| pod.command(&program.display().to_string()).arg(PROBE).args(args).run();
    // In alice's network, but in a cgroup that no hook is attached to.
    let outside = || {
        let output = process::Command::new(&program).arg(PROBE).output()?;
        ensure!(output.status.success(), "the probe failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut rounds: [Vec<u64>; 3] = Default::default();
    // In turns: what else the machine does hits all of them.
    for _ in 0..ROUNDS {
        let said = [alice.visit(outside)?, in_pod(bob, &[])?, in_pod(alice, &["--to", &to])?];
        for (round, said) in rounds.iter_mut().zip(said) {
            round.push(said.trim().parse().with_context(|| format!("the probe said {said:?}"))?);
        }
    }
    let [without, passed, captured] = rounds.map(median);
    let more = |cost: u64| i128::from(cost) - i128::from(without);
    Ok(vec![
        format!("without hooks  {without:>7} ns"),
        format!("not captured   {passed:>7} ns   {:+} ns", more(passed)),
        format!("captured       {captured:>7} ns   {:+} ns", more(captured)),
        format!(
            "medians of {ROUNDS} × {CONNECTIONS} handshakes on loopback, in turns; a captured one also wakes the worker"
        ),
    ])
}

/// Connects often and prints the median, in nanoseconds.
pub fn probe(probe: &Probe) -> Result<()> {
    let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let std::net::SocketAddr::V4(listener) = own.local_addr()? else { bail!("not an IPv4 address") };
    let to = SockaddrIn::from(probe.to.unwrap_or(listener));
    let mut spent = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Reset when closed: no TIME-WAIT, or ports would run out.
        setsockopt(&client, Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        let begun = Instant::now();
        connect(client.as_raw_fd(), &to)?;
        spent.push(begun.elapsed().as_nanos() as u64);
        if probe.to.is_none() {
            drop(own.accept()?);
        }
    }
    println!("{}", median(spent));
    Ok(())
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
