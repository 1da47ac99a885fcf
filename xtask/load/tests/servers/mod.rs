//! Servers that behave in a known way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;

/// `pillion-load serve`, on a port of its own.
pub struct Server {
    pub port: u16,
    process: Child,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_pillion-load"))
            .arg("serve")
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().rsplit(' ').next().unwrap().parse().unwrap(), process }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Answers every request with the same bytes; closes after it when these say so.
pub fn that_answers(answer: &'static str) -> u16 {
    each(move |mut stream| {
        let mut request = [0; 4096];
        while stream.read(&mut request).is_ok_and(|read| read > 0) {
            if stream.write_all(answer.as_bytes()).is_err() || answer.contains("close") {
                break;
            }
        }
    })
}

/// Answers the first request of a connection as if there might be another, and closes it when that comes.
pub fn that_answers_once() -> u16 {
    each(|mut stream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read(&mut request);
    })
}

/// Resets a connection when it is asked for something.
pub fn that_resets() -> u16 {
    each(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
}

/// Sends back as many bytes as it gets, and they are zeros.
pub fn that_echoes_zeros() -> u16 {
    each(|mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&vec![0; read]).is_err() {
                break;
            }
        }
    })
}

/// Reads to the end, and sends a receipt of nothing.
pub fn that_says_it_got_nothing() -> u16 {
    each(|mut stream| {
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        stream.write_all(&[0; 24]).unwrap();
    })
}

/// Speaks HTTP/2 and answers with 1 KiB.
pub fn http2() -> u16 {
    each(|stream| {
        stream.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(&[0; 1024]), true).unwrap();
            }
        });
    })
}

/// A thread for every connection, until the test's process ends.
fn each(handle: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    port
}
