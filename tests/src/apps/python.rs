//! Python: clients and servers that a test writes itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::pod::Pod;
use crate::process::{Command, Process};

/// The system's own: a version manager's shim would cost 100 ms a start.
const PYTHON: &str = "/usr/bin/python3";

/// A Python program in the pod, given as its text. Its output is not buffered; `args` are `sys.argv[1:]`.
pub fn python<S: AsRef<str>>(pod: &Pod, script: &str, args: impl IntoIterator<Item = S>) -> Command {
    let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
    pod.command(PYTHON).args(["-u", "-c", script]).args(args.collect::<Vec<_>>())
}

/// Starts a server that sends back what it gets, each direction closed on its own; it logs a line
/// "peer's address:port own address:port" per connection.
pub fn echo(pod: &Pod, port: u16) -> Result<Process> {
    let server = python(pod, ECHO, [port.to_string()]).log(&format!("echo-{port}")).start()?;
    server.wait_listening(port)?;
    Ok(server)
}

/// A client with one connection to an [`echo`] server, which says what it is told to, line by line.
pub struct Conversation {
    client: Process,
}

/// Connects from `client`; an error shows why it could not. `log` tells its log from others of the pod.
pub fn converse(client: &Pod, server: IpAddr, port: u16, log: &str) -> Result<Conversation> {
    let client = python(client, CONVERSE, [server.to_string(), port.to_string()]).log(log).start()?;
    client.wait_log("connected to", ANSWERED_WITHIN)?;
    Ok(Conversation { client })
}

/// A connection is answered at once, unless packets get lost; then after some retransmissions.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

impl Conversation {
    /// Says a line, and waits until it has come back.
    pub fn say(&self, line: &str) -> Result<()> {
        self.begin(line)?;
        self.client.wait_log(&format!("back {line}\n"), ANSWERED_WITHIN)
    }

    /// Says a line, and does not wait.
    pub fn begin(&self, line: &str) -> Result<()> {
        self.client.write_line(line)
    }

    /// Waits until the client has noticed that its connection is over; gives what it said of it. It notices without
    /// saying anything.
    pub fn wait_end(&self) -> Result<String> {
        self.client.wait_for("the end of its connection", ANSWERED_WITHIN, || Ok(self.ended()))
    }

    /// What the client said of its connection's end: "ended", or an error's name, and CLOCK_MONOTONIC in seconds.
    pub fn ended(&self) -> Option<String> {
        let log = self.client.log();
        let (_, end) = log.rsplit_once("the end: ")?;
        Some(end.trim_end().to_owned())
    }

    /// Closes the connection and waits for the client's end: what came last must be what it said last.
    pub fn close(self) -> Result<()> {
        self.client.close_input();
        let status = self.client.wait(ANSWERED_WITHIN)?;
        ensure!(status.success(), "the conversation ended with {status}: {}", self.client.log());
        Ok(())
    }

    /// The client's end, as it sees it: `address:port`, IPv6 in brackets.
    pub fn local(&self) -> Result<SocketAddr> {
        let log = self.client.log();
        let line = log.lines().find_map(|line| line.split_once("connected to ")).map_or("", |(_, ends)| ends);
        let local = line.split(' ').nth(2).unwrap_or_default();
        local.parse().with_context(|| format!("the client did not tell its address: {log}"))
    }
}

/// Echoed lines are read on a thread, so that an end is noticed at once.
const CONVERSE: &str = r"
import os, socket, sys, threading, time

def show(address):
    return f'[{address[0]}]:{address[1]}' if ':' in address[0] else f'{address[0]}:{address[1]}'

s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
s.settimeout(None)
print('connected to', show(s.getpeername()), 'from', show(s.getsockname()))
closing = False

def read():
    end = 'ended'
    try:
        for line in s.makefile():
            print('back', line, end='')
    except OSError as error:
        end = type(error).__name__
    if not closing or end != 'ended':
        print('the end:', end, time.clock_gettime(time.CLOCK_MONOTONIC))
        os._exit(1)

reader = threading.Thread(target=read)
reader.start()
for line in sys.stdin:
    s.sendall(line.encode())
closing = True
s.shutdown(socket.SHUT_WR)
reader.join()
";

const ECHO: &str = r"
import asyncio, resource, socket, sys

resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))

def show(address):
    host = address[0].removeprefix('::ffff:')
    return f'[{host}]:{address[1]}' if ':' in host else f'{host}:{address[1]}'

async def serve(reader, writer):
    info = writer.get_extra_info
    print(show(info('peername')), show(info('sockname')))
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError as error:
        print(error)
    writer.close()

async def main():
    listener = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=8192)
    async with await asyncio.start_server(serve, sock=listener) as server:
        await server.serve_forever()

asyncio.run(main())
";
