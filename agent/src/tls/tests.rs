//! TLS streams against each other, and against rustls's own buffered connections.

use super::{LARGEST_HANDSHAKE, accept, client_config, connect, server_config};
use crate::identity::{CertificateAuthority, EmbeddedCa, LeafKey, SigningRequest, WorkloadCertificate};
use crate::mesh::{SpiffeId, TrustDomains};
use rustls::{ClientConfig, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::ServerName;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex, split};

fn server_name() -> ServerName<'static> {
    ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST))
}

async fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let dir = std::env::temp_dir().join(format!("pillion-tls-{}", rand::random::<u64>()));
    let ca = EmbeddedCa::open(&dir, &"cluster.local".parse().unwrap()).unwrap();
    let (cart, db) = (certificate(&ca, "cart").await, certificate(&ca, "db").await);
    std::fs::remove_dir_all(&dir).unwrap();
    let (trust, domains) = (ca.trust(), TrustDomains::new("cluster.local".parse().unwrap(), []));
    let client = client_config(&cart, trust.borrow().clone(), &domains, &db.identity).unwrap();
    (client, server_config(&db, trust, &domains).unwrap())
}

async fn certificate(ca: &EmbeddedCa, account: &str) -> WorkloadCertificate {
    let identity = SpiffeId::new(&"cluster.local".parse().unwrap(), "shop", account);
    let key = LeafKey::generate().unwrap();
    let csr = key.signing_request(&identity).unwrap();
    let request = SigningRequest { identity, csr, lifetime: Duration::from_secs(3600) };
    key.certificate(ca.sign(request).await.unwrap()).unwrap()
}

/// Bytes of which every stretch differs.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ (i >> 12) as u8).collect()
}

#[tokio::test]
async fn both_directions_carry_any_sizes_at_once() {
    let (client, server) = configs().await;
    let (near, far) = duplex(50_000);
    let (near, far) = tokio::join!(connect(client, server_name(), near), accept(server, far));
    let (mut near_read, mut near_write) = split(near.unwrap());
    let (mut far_read, mut far_write) = split(far.unwrap());
    let sent = pattern(3_000_000);
    let write = |mut to: Pin<Box<dyn AsyncWrite>>, sizes: [usize; 5]| {
        let mut left = &sent[..];
        async move {
            for size in sizes.into_iter().cycle() {
                let (piece, rest) = left.split_at(size.min(left.len()));
                to.write_all(piece).await.unwrap();
                to.flush().await.unwrap();
                left = rest;
                if left.is_empty() {
                    return to.shutdown().await.unwrap();
                }
            }
        }
    };
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let writes = async {
        tokio::join!(
            write(Box::pin(&mut near_write), [1, 16_384, 300_000, 9, 65_536]),
            write(Box::pin(&mut far_write), [16_385, 16_383, 2, 131_073, 70_000])
        )
    };
    let reads = async { tokio::join!(near_read.read_to_end(&mut here), far_read.read_to_end(&mut there)) };
    let (_, (a, b)) = tokio::join!(writes, reads);
    a.unwrap();
    b.unwrap();
    assert!(here == sent && there == sent);
}

/// Counts the writes that reach the wire.
struct Counted(DuplexStream, Arc<std::sync::atomic::AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn small_writes_leave_in_one_when_they_are_flushed() {
    let (client, server) = configs().await;
    let (near, far) = duplex(1 << 20);
    let near = Counted(near, Arc::default());
    let writes = near.1.clone();
    let (near, far) = tokio::join!(connect(client, server_name(), near), accept(server, far));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    let before = writes.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..100 {
        near.write_all(&[7; 50]).await.unwrap();
    }
    assert_eq!(writes.load(std::sync::atomic::Ordering::Relaxed), before);
    near.flush().await.unwrap();
    assert_eq!(writes.load(std::sync::atomic::Ordering::Relaxed), before + 1);
    let mut read = [0; 5000];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(read, [7; 5000]);
}

/// A peer may change its keys at any time, and ask for new ones of ours (RFC 8446 §4.6.3): rustls does so when a
/// connection has carried a few hundred GB.
#[tokio::test]
async fn keys_change_under_way() {
    let (client, server) = configs().await;
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut peer = StreamOwned::new(ServerConnection::new(server).unwrap(), socket);
        let mut echoed = [0; 1000];
        for _ in 0..20 {
            peer.read_exact(&mut echoed).unwrap();
            peer.conn.refresh_traffic_keys().unwrap();
            peer.write_all(&echoed).unwrap();
            peer.flush().unwrap();
        }
        peer.conn.send_close_notify();
        peer.flush().unwrap();
    });
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut stream = connect(client, server_name(), socket).await.unwrap();
    let sent = pattern(1000);
    for _ in 0..20 {
        stream.write_all(&sent).await.unwrap();
        stream.flush().await.unwrap();
        let mut echoed = [0; 1000];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, sent[..]);
    }
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    peer.join().unwrap();
}

#[tokio::test]
async fn only_a_close_notify_is_an_end() {
    let (client, server) = configs().await;
    for orderly in [true, false] {
        let (near, far) = duplex(1 << 20);
        let (near, far) =
            tokio::join!(connect(client.clone(), server_name(), near), accept(server.clone(), far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        if orderly {
            near.shutdown().await.unwrap();
        }
        drop(near);
        match far.read(&mut [0; 10]).await {
            Ok(read) => assert!(orderly && read == 0),
            Err(e) => assert!(!orderly && e.kind() == ErrorKind::UnexpectedEof, "{e}"),
        }
    }
}

#[tokio::test]
async fn what_is_no_tls_is_refused_with_an_alert() {
    let (_, server) = configs().await;
    let (mut near, far) = duplex(1 << 20);
    near.write_all(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    let Err(error) = accept(server, far).await else { panic!("it was accepted") };
    assert!(super::explain(&error).contains("is not TLS"), "{error}");
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert[0], 21, "{alert:?}");
}

/// The refused certificate is one of several messages in one flight.
// proves: ISO-1
#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up_after_so_many_bytes() {
    let (_, server) = configs().await;
    let (mut near, far) = duplex(1000);
    let server = tokio::spawn(async move { accept(server, far).await.map(drop).unwrap_err().to_string() });
    // A ClientHello of 65,000 bytes, in records of 1,000.
    let hello = [&[1, 0, 0xfd, 0xe8][..], &[0; 65_000]].concat();
    let mut sent = 0;
    for part in hello.chunks(1000) {
        let record = [&[22, 3, 1, 3, 0xe8][..], part].concat();
        if near.write_all(&record).await.is_err() {
            break;
        }
        sent += record.len();
    }
    assert!((LARGEST_HANDSHAKE - 2000..LARGEST_HANDSHAKE + 3000).contains(&sent), "{sent} bytes were taken");
    assert_eq!(server.await.unwrap(), "the peer's handshake is not done after 32 KiB");
}

#[tokio::test]
async fn each_side_learns_why_the_other_refused_it() {
    let ((client, _), (_, server)) = (configs().await, configs().await);
    let (near, far) = duplex(1 << 20);
    let (near, far) = tokio::join!(connect(client, server_name(), near), accept(server, far));
    let (Err(near), Err(far)) = (near, far) else { panic!("another mesh's certificate was taken") };
    assert!(super::explain(&near).contains("an authority that is not this mesh's"), "{near}");
    assert!(super::explain(&far).contains("refused this pod's certificate"), "{far}");
}

/// Whatever byte of a connection's first ones is not what it was, on its way to the server or to the client.
#[tokio::test]
async fn no_byte_that_a_peer_sends_makes_it_panic() {
    let (client, server) = configs().await;
    for (at, to_server) in (0..2600).step_by(37).flat_map(|at| [(at, true), (at, false)]) {
        let (near, mut near_end) = duplex(1 << 20);
        let (far, mut far_end) = duplex(1 << 20);
        let dial = async {
            let mut near = connect(client.clone(), server_name(), near).await?;
            near.write_all(b"hello").await?;
            near.flush().await?;
            near.read(&mut [0; 10]).await
        };
        let answer = async {
            let mut far = accept(server.clone(), far).await?;
            far.read_exact(&mut [0; 5]).await?;
            far.write_all(b"hello").await?;
            far.shutdown().await
        };
        let wire = async {
            let (mut a, mut b) = (split(&mut near_end), split(&mut far_end));
            let (up, down) = (to_server.then_some(at), (!to_server).then_some(at));
            tokio::join!(carry(&mut a.0, &mut b.1, up), carry(&mut b.0, &mut a.1, down))
        };
        let patience = Duration::from_secs(5);
        // Who fails hangs up, and the other one notices.
        let _ = tokio::join!(dial, answer, tokio::time::timeout(patience, wire));
    }
}

/// Carries bytes, of which the one `at` is changed.
async fn carry(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), at: Option<usize>) {
    let (mut passed, mut buffer) = (0, vec![0; 4096]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if let Some(i) = at.and_then(|at| at.checked_sub(passed)).filter(|i| *i < read) {
            buffer[i] ^= 0x55;
        }
        passed += read;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
