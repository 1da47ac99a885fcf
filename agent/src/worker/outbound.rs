//! A captured connection: from an app of the pod to wherever it meant to go.

use super::budget::{OverBudget, Permit};
use super::context::Context;
use super::dial::App;
use super::early::Early;
use super::pool::PeerError;
use super::record::{Began, Record};
use super::relay::{Far, relay};
use super::socket::reset_on_drop;
use super::traffic::Traffic;
use crate::decide::{Outbound, outbound};
use crate::kernel::OriginalDestination;
use crate::mesh::{Mesh, Workload};
use crate::telemetry::{ConnectionSecurity, Direction, Parties};
use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;

pub(super) async fn connection(context: Rc<Context>, mut app: TcpStream, peer: SocketAddr) {
    let _open = context.open.add();
    let began = Began::now();
    let Some(original) = context.dialer.sockets.original_destination(&app) else {
        // Not a connection that the hook sent here, or one whose destination was lost: never guess.
        tracing::debug!(pod = %context.name, %peer, "refused: no original destination");
        return reset_on_drop(&app);
    };
    let mesh = context.mesh();
    let source = &context.own(&mesh);
    let client = client_address(source, peer);
    let mut parties = Parties {
        direction: Direction::Outbound,
        source_address: client,
        source_principal: Some(source.identity.clone()),
        source: Some(source.clone()),
        destination_address: original.asked,
        upstream_address: None,
        destination: None,
        destination_principal: None,
        service: None,
        security: ConnectionSecurity::None,
        authorization: None,
    };
    let _permit = match context.budgets.outbound.take(1) {
        Ok(permit) => permit,
        Err(e) => {
            reset_on_drop(&app);
            return Record::failed(&context, &began, &parties, OverBudget::RESPONSE_FLAGS, &e.to_string());
        }
    };
    // Boxed, because it is large and short: what is open for long should be small.
    match Box::pin(reach(&context, &mesh, source, original, &mut app, &mut parties)).await {
        Ok((far, early, _own_descriptor)) => {
            let record = Record::open(&context, began, parties);
            record.sent_by_app(early);
            let ending = relay(app, far, &record, pending()).await;
            record.close(&ending);
        }
        Err(failure) => {
            reset_on_drop(&app);
            Record::failed(&context, &began, &parties, failure.flags, &failure.reason);
        }
    }
}

/// The client's address as it is without a mesh. A client that has bound a port alone connects from loopback to its worker.
fn client_address(pod: &Workload, client: SocketAddr) -> SocketAddr {
    let ip = client.ip().to_canonical();
    let own = ip.is_loopback().then(|| pod.address(ip.is_ipv6())).flatten();
    SocketAddr::new(own.unwrap_or(ip), client.port())
}

/// Why a captured connection led nowhere.
struct Failure {
    flags: &'static str,
    reason: String,
}

/// Decides where the connection goes, notes it in `parties`, and goes there; how much of what the app says went along, and the
/// permit for a descriptor that the way out has of its own.
async fn reach(
    context: &Rc<Context>,
    mesh: &Mesh,
    source: &Workload,
    original: OriginalDestination,
    app: &mut TcpStream,
    parties: &mut Parties,
) -> Result<(Far, usize, Option<Permit>), Failure> {
    let pick = |choices: usize| rand::random_range(0..choices);
    match outbound(mesh, source, original.asked, original.chosen, pick) {
        Outbound::Mesh { peer, target, service } => {
            parties.upstream_address = Some(target);
            parties.service = service.map(Arc::clone);
            parties.destination = Some(peer.clone());
            parties.destination_principal = Some(peer.identity.clone());
            parties.security = ConnectionSecurity::MutualTls;
            context.direct.learn(context.netns_cookie, target);
            let mut early = Early::new(app);
            let client = parties.source_address;
            // A peer believes no other address than the one that the tunnel comes from, which is the pod's own.
            let client =
                SocketAddr::new(source.address(target.is_ipv6()).unwrap_or(client.ip()), client.port());
            let stream = context.pool.open(peer, target, client, &mut early).await?;
            Ok((Far::Mesh(stream), early.len(), None))
        }
        Outbound::Passthrough { target, peer, service } => {
            parties.upstream_address = Some(target);
            parties.service = service.map(Arc::clone);
            parties.destination = peer.map(Arc::clone);
            let permit = context.budgets.outbound.take(1)?;
            let app = App { client: parties.source_address, manner: original.manner };
            let dialled = context.dialer.plain(target, &app).await;
            let far = dialled.map(|stream| (Far::Plain(stream), 0, Some(permit)));
            far.map_err(|e| Failure { flags: e.response_flags(), reason: e.to_string() })
        }
        Outbound::Refuse(refusal) => {
            Err(Failure { flags: refusal.response_flags(), reason: refusal.to_string() })
        }
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        Self { flags: error.response_flags(), reason: error.to_string() }
    }
}

impl From<OverBudget> for Failure {
    fn from(error: OverBudget) -> Self {
        Self { flags: OverBudget::RESPONSE_FLAGS, reason: error.to_string() }
    }
}
