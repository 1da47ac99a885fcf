//! Carries bytes from one plain connection to another, and holds none of them: what the other side has no room for stays
//! where it arrived, in the kernel's buffer, and slows its sender down.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// Where all connections of a worker are read to. It holds nothing from one turn of the loop to the next.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// What one turn has moved.
pub(super) enum Passed {
    Bytes(usize),
    /// The sender has said all.
    End,
}

/// Which of the two connections broke.
pub(super) enum Broken {
    From(io::Error),
    To(io::Error),
}

/// Waits until there is something to move and room for it, and moves it.
pub(super) async fn pass(from: &TcpStream, to: &TcpStream) -> Result<Passed, Broken> {
    loop {
        from.readable().await.map_err(Broken::From)?;
        to.writable().await.map_err(Broken::To)?;
        // A fast pair of connections leaves the worker's others their turn.
        consume_budget().await;
        if let Some(passed) = pass_now(from, to)? {
            return Ok(passed);
        }
    }
}

/// Moves what has arrived, as far as there is room for it; `None` where one of them is not ready after all.
fn pass_now(from: &TcpStream, to: &TcpStream) -> Result<Option<Passed>, Broken> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut passed = Ok(None);
        // WouldBlock tells the runtime to wait for more.
        let waits: io::Result<()> = from.try_io(Interest::READABLE, || {
            let arrived = match peek(from, buffer) {
                Ok(arrived) => arrived,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
                Err(e) => {
                    passed = Err(Broken::From(e));
                    return Ok(());
                }
            };
            passed = move_on(from, to, &mut buffer[..arrived]);
            // A short read has found the end of what has arrived, if all of it was moved: the next one waits without asking the kernel.
            match &passed {
                Ok(Some(Passed::Bytes(moved))) if *moved == arrived && arrived < CHUNK => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                _ => Ok(()),
            }
        });
        match waits {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(Broken::From(e)),
            _ => passed,
        }
    })
}

/// Sends what was peeked at, and takes from the sender's connection what was sent.
fn move_on(from: &TcpStream, to: &TcpStream, arrived: &mut [u8]) -> Result<Option<Passed>, Broken> {
    if arrived.is_empty() {
        return Ok(Some(Passed::End));
    }
    match to.try_write(arrived) {
        Ok(sent) => {
            discard(from, &mut arrived[..sent]).map_err(Broken::From)?;
            Ok(Some(Passed::Bytes(sent)))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(Broken::To(e)),
    }
}

fn peek(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    receive(from, buffer, MsgFlags::MSG_PEEK)
}

/// Takes as many bytes as `peeked` has, which were peeked at, without a copy (tcp(7), `MSG_TRUNC`).
fn discard(from: &TcpStream, mut peeked: &mut [u8]) -> io::Result<()> {
    while !peeked.is_empty() {
        match receive(from, peeked, MsgFlags::MSG_TRUNC)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => peeked = &mut peeked[taken..],
        }
    }
    Ok(())
}

fn receive(from: &TcpStream, buffer: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(from.as_raw_fd(), buffer, flags | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            received => return received.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::relay::shut_down_write;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    // proves: TCP-2
    #[tokio::test]
    async fn every_byte_arrives_in_order_whatever_the_sizes_and_then_the_end() {
        let ((mut sender, from), (to, mut receiver)) = (connection().await, connection().await);
        let sent: Vec<u8> = (0..9_000_000_usize).map(|i| (i % 251) as u8 ^ (i >> 12) as u8).collect();
        let write = async {
            let mut left = &sent[..];
            for size in [1, 70_000, 3, 1_000_000, 65_536].into_iter().cycle() {
                let (piece, rest) = left.split_at(size.min(left.len()));
                sender.write_all(piece).await.unwrap();
                left = rest;
                if left.is_empty() {
                    return sender.shutdown().await.unwrap();
                }
            }
        };
        let carry = async {
            let mut carried = 0;
            loop {
                match pass(&from, &to).await {
                    Ok(Passed::Bytes(bytes)) => carried += bytes,
                    Ok(Passed::End) => break shut_down_write(&to).map(|()| carried).unwrap(),
                    Err(Broken::From(e) | Broken::To(e)) => panic!("{e}"),
                }
            }
        };
        let read = async {
            let mut received = Vec::new();
            let mut piece = vec![0; 10_000];
            loop {
                match receiver.read(&mut piece).await.unwrap() {
                    0 => break received,
                    read => received.extend_from_slice(&piece[..read]),
                }
            }
        };
        let ((), carried, received) = tokio::join!(write, carry, read);
        assert_eq!(carried, sent.len());
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
    }

    // proves: ISO-1
    #[tokio::test]
    async fn what_finds_no_room_is_left_where_it_arrived() {
        let ((mut sender, from), (to, mut receiver)) = (connection().await, connection().await);
        loop {
            match to.try_write(&[1; 65_536]) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        sender.write_all(&[2; 1000]).await.unwrap();
        from.readable().await.unwrap();
        assert!(matches!(pass_now(&from, &to), Ok(None)));
        let mut left = [0; 2000];
        assert_eq!(peek(&from, &mut left).unwrap(), 1000);
        // Room comes as the receiver reads.
        let read = async { while receiver.read(&mut left).await.unwrap() > 0 && !left.contains(&2) {} };
        let (passed, ()) = tokio::join!(pass(&from, &to), read);
        assert!(matches!(passed, Ok(Passed::Bytes(1000))));
    }
}
