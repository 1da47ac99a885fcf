//! Python: clients and servers that a test writes itself.

use anyhow::Result;

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
