//! The other ends of bulk: a sink that counts, and a source.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bulk::{BUFFER, Meter, Order, Receipt};

/// Accepts until that fails; each connection has a thread. A client that goes away is no error of the server.
pub fn serve(listener: TcpListener, handle: fn(TcpStream) -> Result<()>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().context("cannot accept")?;
        thread::spawn(move || handle(stream));
    }
}

/// Reads to the end, and says what it has counted.
pub fn sink(mut stream: TcpStream) -> Result<()> {
    let mut order = [0; Order::LENGTH];
    stream.read_exact(&mut order)?;
    let order = Order::from_bytes(order);
    let mut meter = Meter::new(Instant::now(), order.warm_up, order.seconds);
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => meter.add(read as u64, Instant::now()),
        }
    }
    Ok(stream.write_all(&Receipt(meter.metered()).to_bytes())?)
}

/// Sends until the client closes.
pub fn source(mut stream: TcpStream) -> Result<()> {
    let data = vec![0; BUFFER];
    loop {
        stream.write_all(&data)?;
    }
}
