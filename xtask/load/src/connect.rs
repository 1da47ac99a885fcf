//! What connect() costs: the system call alone, to a listener on the same machine.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt::Linger,
};

use crate::args::Timing;
use crate::recorder::Recorder;
use crate::report::Report;

#[derive(clap::Args, Clone, Debug)]
pub struct ConnectArgs {
    /// Where to connect; to a listener of its own on 127.0.0.1 unless given
    #[arg(long, value_name = "IPV4:PORT")]
    to: Option<SocketAddrV4>,
    #[command(flatten)]
    timing: Timing,
}

impl ConnectArgs {
    /// Connects and closes again and again; the latencies are those of connect() alone.
    pub fn run(&self) -> Result<Report> {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
        let SocketAddr::V4(listener) = own.local_addr()? else { bail!("127.0.0.1 is not an IPv4 address") };
        let to = self.to.unwrap_or(listener);
        let address = SockaddrIn::from(to);
        let start = Instant::now();
        let mut recorder = Recorder::new(self.timing.window(start));
        while Instant::now() < recorder.window().end {
            let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            // Reset when closed: no TIME-WAIT, or ports would run out.
            setsockopt(&client, Linger, &linger { l_onoff: 1, l_linger: 0 })?;
            let begin = Instant::now();
            let connected = connect(client.as_raw_fd(), &address);
            let now = Instant::now();
            connected.with_context(|| format!("cannot connect to {to}"))?;
            recorder.completed(now, now - begin, 0);
            if self.to.is_none() {
                drop(own.accept()?);
            }
        }
        Ok(recorder.report())
    }
}
