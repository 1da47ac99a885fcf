//! Sends back what it gets, on tens of thousands of connections: an idle one holds no buffer.

use std::cell::RefCell;
use std::io;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const BUFFER: usize = 64 << 10;

thread_local! {
    /// One for all connections: it is in use between a read and the write after it.
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

pub async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        // A client that goes away is no error of the server.
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.readable().await?;
        let left = SHARED.with_borrow_mut(|buffer| pass(&stream, buffer));
        match left {
            Ok(Passed::All) => {}
            Ok(Passed::Part(rest)) => stream.write_all(&rest).await?,
            Ok(Passed::End) => return stream.shutdown().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

enum Passed {
    All,
    /// The socket takes no more for now.
    Part(Vec<u8>),
    End,
}

fn pass(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Passed> {
    let read = stream.try_read(buffer)?;
    if read == 0 {
        return Ok(Passed::End);
    }
    let written = match stream.try_write(&buffer[..read]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        other => other?,
    };
    Ok(if written == read { Passed::All } else { Passed::Part(buffer[written..read].to_vec()) })
}
