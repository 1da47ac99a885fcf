//! The connections to the pod's apps that policies have let in, and how they end when policies do so no longer.

use crate::decide::{Connection, authorize};
use crate::mesh::{SpiffeId, Workload};
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::sync::oneshot;

/// All that a worker carries at the moment.
#[derive(Default)]
pub(super) struct Admitted(RefCell<Entries>);

#[derive(Default)]
struct Entries {
    by_id: HashMap<u64, Entry>,
    last: u64,
}

struct Entry {
    source: IpAddr,
    identity: SpiffeId,
    destination: SocketAddr,
    /// Takes what the policies say.
    revoke: oneshot::Sender<String>,
}

/// A connection's place among them, until it is dropped.
pub(super) struct Admission {
    admitted: Rc<Admitted>,
    id: u64,
    revoked: oneshot::Receiver<String>,
}

impl Admitted {
    /// Enters a connection. To be done before policies are asked about it: then none that changes meanwhile is missed.
    pub fn enter(self: &Rc<Self>, source: IpAddr, identity: SpiffeId, destination: SocketAddr) -> Admission {
        let (revoke, revoked) = oneshot::channel();
        let mut entries = self.0.borrow_mut();
        entries.last += 1;
        let id = entries.last;
        entries.by_id.insert(id, Entry { source, identity, destination, revoke });
        Admission { admitted: self.clone(), id, revoked }
    }

    /// Asks the pod's policies again about every connection, and revokes those that they deny; says what of each.
    pub fn judge(&self, pod: &Workload) -> Vec<String> {
        let mut entries = self.0.borrow_mut();
        let denied: Vec<(u64, String)> =
            entries.by_id.iter().filter_map(|(id, entry)| Some((*id, entry.denied(pod)?))).collect();
        let revoke = |(id, verdict): (u64, String)| {
            let entry = entries.by_id.remove(&id)?;
            let said = format!("{} → {}, as {}, {verdict}", entry.source, entry.destination, entry.identity);
            // A connection that has ended in this moment needs no end.
            entry.revoke.send(verdict).ok().map(|()| said)
        };
        denied.into_iter().filter_map(revoke).collect()
    }
}

impl Entry {
    /// What the pod's policies say, if they deny it.
    fn denied(&self, pod: &Workload) -> Option<String> {
        let connection =
            Connection { source: self.source, identity: Some(&self.identity), destination: self.destination };
        let verdict = authorize(&pod.authorization, &connection);
        (!verdict.is_allowed()).then(|| verdict.to_string())
    }
}

impl Admission {
    /// Resolves to what the policies say, once they deny the connection.
    pub async fn revoked(&mut self) -> String {
        match (&mut self.revoked).await {
            Ok(verdict) => verdict,
            Err(_) => pending().await,
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.admitted.0.borrow_mut().by_id.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::Mesh;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    /// The pod `server`, whose policy denies this service account.
    fn server(denied: &str) -> Arc<Workload> {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: server}}}}\n---\n\
             {{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, \
             spec: {{action: DENY, rules: [{{from: [{{source: {{serviceAccounts: [{denied}]}}}}]}}]}}}}\n"
        );
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        mesh.workloads.values().next().unwrap().clone()
    }

    /// What has come already.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    // proves: POL-2
    #[test]
    fn a_connection_that_policies_allow_no_longer_is_told_once_and_others_are_not() {
        let admitted = Rc::new(Admitted::default());
        let enter = |account: &str| {
            let identity = format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap();
            admitted.enter("10.0.0.1".parse().unwrap(), identity, "10.0.0.2:80".parse().unwrap())
        };
        let (mut a, mut b) = (enter("a"), enter("b"));
        drop(enter("a"));
        assert!(admitted.judge(&server("c")).is_empty());
        assert!(now(a.revoked()).is_none());
        let cut = admitted.judge(&server("a"));
        assert_eq!(
            cut,
            [
                "10.0.0.1 → 10.0.0.2:80, as spiffe://cluster.local/ns/default/sa/a, denied by rule 0 of DENY policy default/p"
            ]
        );
        assert_eq!(now(a.revoked()).as_deref(), Some("denied by rule 0 of DENY policy default/p"));
        assert!(now(b.revoked()).is_none());
        assert!(admitted.judge(&server("a")).is_empty());
        drop((a, b));
        assert!(admitted.0.borrow().by_id.is_empty());
    }
}
