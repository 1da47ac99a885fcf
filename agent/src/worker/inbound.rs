//! A peer's HBONE connection: mutual TLS, then one app connection per CONNECT request.

use super::budget::{OverBudget, OverMemory};
use super::context::Context;
use super::dial::DialError;
use super::proof::{Before, Proof};
use super::record::{Began, Record};
use super::relay::{Far, relay};
use super::revocation::peer_revoked;
use super::socket::reset_on_drop;
use super::tasks;
use crate::decide::{self, Connection, inbound, judge, presented};
use crate::hbone::{self, Gone, Request, Server};
use crate::mesh::SpiffeId;
use crate::telemetry::{AuthorizationLog, ConnectionSecurity, Direction, HandshakeRole, Parties};
use crate::tls::{self, PeerRole, explain, peer_chain, peer_identity};
use http::StatusCode;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::yield_now;

/// Who is on the other side, and which of the pod's addresses it chose.
#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    identity: SpiffeId,
    local: IpAddr,
}

pub(super) async fn connection(context: Rc<Context>, stream: TcpStream, address: SocketAddr) {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let Ok(mut opening) = context.budgets.handshakes.begin(address.ip()) else {
        return reset_on_drop(&stream);
    };
    let done = tokio::select! {
        // Boxed, because it is large and short: what is open for long should be small.
        done = Box::pin(handshake(&context, stream, address)) => done,
        why = opening.given_up() => Err(why.to_string()),
    };
    let (server, peer, proof) = match done {
        Ok(done) => done,
        Err(reason) => return failed(&context, address, &reason),
    };
    context.metrics.handshake(HandshakeRole::Server, "ok");
    // Taken before the handshake's place is given back.
    let Ok(_permit) = context.budgets.inbound.take_connection(&peer.identity) else { return };
    drop(opening);
    serve(context, server, peer, proof).await;
}

fn failed(context: &Context, peer: SocketAddr, reason: &str) {
    context.metrics.handshake(HandshakeRole::Server, "failed");
    if let Some(left_out) = context.strangers.handshakes.next() {
        tracing::info!(pod = %context.name, %peer, left_out = (left_out > 0).then_some(left_out), "mutual TLS with a peer failed: {reason}");
    }
}

type HboneServer = Server<tls::TlsServer<TcpStream>>;

async fn handshake(
    context: &Context,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<(HboneServer, Peer, Proof), String> {
    let local = stream.local_addr().map_err(|e| e.to_string())?.ip().to_canonical();
    decide::peer(local, address).map_err(|e| e.to_string())?;
    let before = Before::now(&context.identity);
    let config = context.identity.current().server.clone();
    let tls = tls::accept(config, stream).await.map_err(|e| explain(&e))?;
    let identity = peer_identity(tls.common()).ok_or("the peer showed no identity")?;
    let proof = before.proof(peer_chain(tls.common()), PeerRole::Client);
    let server = Server::handshake(tls, identity.namespace()).await.map_err(|e| e.to_string())?;
    Ok((server, Peer { address, identity, local }, proof))
}

async fn serve(context: Rc<Context>, mut server: HboneServer, peer: Peer, proof: Proof) {
    let mut go_away = context.go_away.subscribe();
    let mut revoked = pin!(peer_revoked(&context.identity, &peer.identity, peer.address, proof.peer()));
    let (mut over, mut is_over) = (pin!(proof.over()), false);
    let (mut evicted, mut taken) = (server.evicted(), 0);
    loop {
        // Others have their turn, whatever the number of requests that were read.
        if taken >= server.requests_a_turn() {
            taken = 0;
            yield_now().await;
        }
        tokio::select! {
            () = &mut revoked => return,
            () = &mut evicted => {
                context.metrics.budget_refused("memory");
                tracing::debug!(pod = %context.name, peer = %peer.address, "a connection was ended: memory is short, and it held some that stood still");
                return;
            }
            why = &mut over, if !is_over => {
                tracing::debug!(pod = %context.name, peer = %peer.address, "a connection takes no more streams: {why}");
                is_over = true;
                server.drain();
            }
            request = server.next() => match request {
                // A client of ours asks again, on another connection.
                Some(Ok(request)) if is_over || proof.has_expired() => request.turn_away(),
                Some(Ok(request)) if hbone::is_full() => {
                    context.metrics.budget_refused("memory");
                    request.turn_away();
                }
                Some(Ok(request)) => {
                    taken += 1;
                    tasks::spawn(stream(context.clone(), request, peer.clone()));
                }
                Some(Err(e)) => {
                    tracing::debug!(pod = %context.name, peer = %peer.address, "a peer's connection broke: {e}");
                    return;
                }
                None => return,
            },
            Ok(()) = go_away.changed() => server.drain(),
        }
    }
}

async fn stream(context: Rc<Context>, mut request: Request, peer: Peer) {
    let _open = context.open.add();
    let target = match inbound(peer.local, &request.method, request.authority()) {
        Ok(target) => target,
        Err(e) => {
            if let Some(left_out) = context.strangers.requests.next() {
                tracing::info!(pod = %context.name, peer = %peer.address, left_out = (left_out > 0).then_some(left_out), "refused a request: {e}");
            }
            return request.refuse(e.status());
        }
    };
    let client = client_address(&request, &peer);
    let mut admission = context.admitted.enter(peer.address.ip(), peer.identity.clone(), target);
    let mesh = context.mesh();
    let destination = &context.own(&mesh);
    let connection =
        Connection { source: peer.address.ip(), identity: Some(&peer.identity), destination: target };
    let judgement = judge(&destination.authorization, &connection);
    context.metrics.authorization().count(&judgement);
    let domains = &context.dialer.settings.trust_domains;
    let source = mesh.owner(peer.address.ip());
    let source = source.filter(|w| domains.same_workload(&w.identity, &peer.identity));
    let began = Began::now();
    let parties = Parties {
        direction: Direction::Inbound,
        source_address: client,
        source_principal: Some(peer.identity.clone()),
        source: source.cloned(),
        destination_address: target,
        upstream_address: Some(target),
        destination_principal: Some(context.identity.current().certificate.identity.clone()),
        destination: Some(destination.clone()),
        service: None,
        security: ConnectionSecurity::MutualTls,
        authorization: AuthorizationLog::new(&judgement).map(Arc::new),
    };
    if !judgement.verdict.is_allowed() {
        request.refuse(StatusCode::UNAUTHORIZED);
        return Record::failed(&context, &began, &parties, "DENY", &judgement.verdict.to_string());
    }
    drop(mesh);
    let _permit = match context.budgets.inbound.take(&peer.identity) {
        Ok(permit) => permit,
        Err(e) => {
            request.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return Record::failed(&context, &began, &parties, OverBudget::RESPONSE_FLAGS, &e.to_string());
        }
    };
    let dialled = tokio::select! {
        // Boxed, because what is open for long should be small.
        dialled = Box::pin(context.dialer.app(target, client)) => dialled,
        gone = request.gone() => return match gone {
            Gone::Withdrawn => Record::failed(&context, &began, &parties, "DC", "the peer withdrew its request"),
            Gone::OverMemory => {
                context.metrics.budget_refused("memory");
                request.reset();
                Record::failed(&context, &began, &parties, OverMemory::RESPONSE_FLAGS, &OverMemory.to_string());
            }
        },
        verdict = admission.revoked() => {
            request.refuse(StatusCode::UNAUTHORIZED);
            return Record::failed(&context, &began, &parties, "DENY", &verdict);
        }
    };
    match dialled {
        Ok(app) => match request.accept() {
            Ok(far) => {
                let record = Record::open(&context, began, parties);
                let ending = relay(app, Far::Mesh(far), &record, admission.revoked()).await;
                record.close(&ending);
            }
            Err(e) => Record::failed(&context, &began, &parties, "DC", &e.to_string()),
        },
        Err(e) => {
            request.refuse(refusal(&e));
            Record::failed(&context, &began, &parties, e.response_flags(), &e.to_string());
        }
    }
}

/// The client as the app is to see it.
fn client_address(request: &Request, peer: &Peer) -> SocketAddr {
    presented(request.forwarded, peer.address)
}

fn refusal(error: &DialError) -> StatusCode {
    match error {
        DialError::Timeout(..) => StatusCode::GATEWAY_TIMEOUT,
        DialError::Io(..) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
