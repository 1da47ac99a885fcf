//! What to do about a refusal of istiod's. istiod tells its clients only that it refuses; the reason is in its own log.

use super::cluster_id::ClusterId;
use crate::grpc::{Code, Status};
use crate::mesh::SpiffeId;

/// What istiod says to a caller whom it does not let ask in another's name (`security/pkg/server/ca/server.go`).
const NO_IMPERSONATION: &str = "impersonation";

/// What istiod says to a caller whom it does not know.
const UNKNOWN_CALLER: &str = "request authenticate failure";

/// Why istiod refuses, as far as its answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token or the cluster is unknown.
    Caller,
    /// The caller is known, and may not have a certificate for that identity.
    Impersonation,
}

impl Refusal {
    /// `None` for answers that say for themselves what is wrong.
    pub fn of(status: &Status) -> Option<Self> {
        if !matches!(status.code, Code::Unauthenticated | Code::PermissionDenied) {
            return None;
        }
        if status.message.contains(NO_IMPERSONATION) {
            Some(Self::Impersonation)
        } else if status.message.contains(UNKNOWN_CALLER) {
            Some(Self::Caller)
        } else {
            None
        }
    }

    /// What to look at, in one sentence.
    pub fn advice(self, identity: &SpiffeId, cluster: &ClusterId) -> String {
        match self {
            Self::Caller => format!(
                "istiod does not know this cluster, or does not accept this agent's token: check that --cluster-id {cluster} is istiod's own \
                 CLUSTER_ID, and that the token of --ca-token is a service account's, is for the audience istio-ca and has not expired; \
                 istiod's log has the reason"
            ),
            Self::Impersonation => format!(
                "istiod lets an agent ask only for service accounts of its own node: check that istiod's CA_TRUSTED_NODE_ACCOUNTS lists \
                 this agent's service account, that --cluster-id {cluster} is istiod's own CLUSTER_ID, that the token of --ca-token is \
                 bound to the agent's pod, and that a pod of {identity} is on this node; istiod's log has the reason"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of `CreateCertificate` in istiod (`security/pkg/server/ca/server.go`).
    #[test]
    fn a_refusal_of_istiods_says_what_to_look_at_and_others_speak_for_themselves() {
        let of = |code, message: &str| Refusal::of(&Status::new(code, message));
        let impersonation = "request impersonation authentication failure";
        assert_eq!(of(Code::Unauthenticated, impersonation), Some(Refusal::Impersonation));
        assert_eq!(of(Code::Unauthenticated, "request authenticate failure"), Some(Refusal::Caller));
        assert_eq!(of(Code::Unauthenticated, "the token is not for the audience istio-ca"), None);
        assert_eq!(of(Code::PermissionDenied, "no pod of shop/web is on n1"), None);
        assert_eq!(of(Code::Unavailable, impersonation), None);

        let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let cluster = "east".parse().unwrap();
        let said = Refusal::Impersonation.advice(&identity, &cluster);
        for part in ["CA_TRUSTED_NODE_ACCOUNTS", "--cluster-id east", "ns/shop/sa/cart"] {
            assert!(said.contains(part), "{said}");
        }
        let said = Refusal::Caller.advice(&identity, &cluster);
        assert!(said.contains("--cluster-id east") && said.contains("audience istio-ca"), "{said}");
    }
}
