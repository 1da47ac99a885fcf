//! Servers for the clients of this crate; HTTP otherwise is nginx's. Each listens on both IPv4 and IPv6, and says so
//! by a line like `echo 7` on standard output; port 0 is any that is free.

mod bulk;
mod echo;
mod stall;

use std::net::{Ipv6Addr, TcpListener};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use stall::Stall;

#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    /// Sends back what it gets
    #[arg(long, value_name = "PORT")]
    echo: Vec<u16>,
    /// Counts what it gets, for `bulk --direction up`
    #[arg(long, value_name = "PORT")]
    sink: Vec<u16>,
    /// Sends as fast as it goes, for `bulk --direction down`
    #[arg(long, value_name = "PORT")]
    source: Vec<u16>,
    /// An HTTP/1.1 server that answers each request after this many milliseconds
    #[arg(long, value_name = "PORT:MS")]
    stall: Vec<Stall>,
}

impl ServeArgs {
    /// Serves until the process is ended.
    pub async fn run(&self) -> Result<()> {
        let mut tasks = JoinSet::new();
        for port in &self.echo {
            tasks.spawn(echo::serve(asynchronous(listener("echo", *port)?)?));
        }
        for stall in &self.stall {
            tasks.spawn(stall.serve(asynchronous(listener("stall", stall.port)?)?));
        }
        // Blocking, a thread a stream: bulk shares no loop with round trips.
        for port in &self.sink {
            let listener = listener("sink", *port)?;
            tasks.spawn_blocking(|| bulk::serve(listener, bulk::sink));
        }
        for port in &self.source {
            let listener = listener("source", *port)?;
            tasks.spawn_blocking(|| bulk::serve(listener, bulk::source));
        }
        ensure!(!tasks.is_empty(), "nothing to serve: give --echo, --sink, --source or --stall");
        while let Some(ended) = tasks.join_next().await {
            ended.context("a server has panicked")??;
        }
        Ok(())
    }
}

fn listener(what: &str, port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    let listener = listener.with_context(|| format!("cannot listen on port {port} ({what})"))?;
    println!("{what} {}", listener.local_addr()?.port());
    Ok(listener)
}

fn asynchronous(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}
