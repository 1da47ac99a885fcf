//! Which identity a caller gets: its own, or as a node's agent that of a pod of its node.

use super::caller::{BoundPod, Caller};
use super::pods::{Pod, Pods};
use super::said;
use crate::cluster::{ObjectName, read_list};
use crate::grpc::{Code, Status};
use crate::mesh::{SpiffeId, TrustDomain};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// For the one question that the API server is asked when the watch knows nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct Permits {
    pub client: kube::Client,
    pub pods: Arc<Pods>,
    pub node_accounts: Vec<ObjectName>,
    pub trust_domain: TrustDomain,
}

impl Permits {
    /// `wanted` is the identity that the caller names, if it names one.
    pub async fn identity(&self, caller: &Caller, wanted: Option<&str>) -> Result<SpiffeId, Status> {
        let ObjectName { namespace, name } = &caller.account;
        let own = SpiffeId::new(&self.trust_domain, namespace, name);
        let Some(wanted) = wanted else { return Ok(own) };
        let wanted: SpiffeId = wanted
            .parse()
            .map_err(|e| Status::new(Code::InvalidArgument, format!("ImpersonatedIdentity: {e}")))?;
        if wanted == own {
            return Ok(own);
        }
        if !self.node_accounts.contains(&caller.account) {
            return denied(format!(
                "{own} is no node's agent (--node-account), and gets no identity but its own"
            ));
        }
        if *wanted.trust_domain() != self.trust_domain {
            return denied(format!("{wanted} is not of the trust domain {}", self.trust_domain));
        }
        if !self.pods.is_whole() {
            return Err(Status::new(Code::Unavailable, "the cluster's pods are not all known yet"));
        }
        let Some(bound) = &caller.pod else {
            return denied(format!("the token of {own} is bound to no pod, and so to no node"));
        };
        let node = self.node_of(&caller.account, bound).await?;
        if bound.node.as_ref().is_some_and(|its| *its != node) {
            return denied(format!("the token's pod is on {node}, and the token is for another node"));
        }
        let account = ObjectName {
            namespace: wanted.namespace().to_owned(),
            name: wanted.service_account().to_owned(),
        };
        if self.pods.has(&node, &account) || self.has_now(&node, &account).await? {
            return Ok(wanted);
        }
        denied(format!("no pod of {account} is on {node}, from where {wanted} is asked for"))
    }

    /// On which node the agent's pod is, by the watch or else by the API server.
    async fn node_of(&self, account: &ObjectName, bound: &BoundPod) -> Result<String, Status> {
        let BoundPod { name, uid, .. } = bound;
        if let Some(node) = self.pods.node_of_agent(&account.namespace, name, uid) {
            return Ok(node);
        }
        let pods = self.ask(&account.namespace, &format!("metadata.name={name}")).await?;
        let is_it = |pod: &Pod| pod.uid == *uid && pod.account == account.name && !pod.finished;
        match pods.into_iter().find(is_it) {
            Some(pod) => Ok(pod.node),
            None => denied(format!(
                "there is no pod {}/{name} with the uid that the token is for",
                account.namespace
            )),
        }
    }

    /// A pod may be newer than what the watch has brought.
    async fn has_now(&self, node: &str, account: &ObjectName) -> Result<bool, Status> {
        let fields = format!("spec.nodeName={node},spec.serviceAccountName={}", account.name);
        let pods = self.ask(&account.namespace, &fields).await?;
        Ok(pods.iter().any(|pod| pod.node == node && pod.lends(account)))
    }

    /// Names are DNS names: none has to be escaped.
    async fn ask(&self, namespace: &str, fields: &str) -> Result<Vec<Pod>, Status> {
        let unavailable = |why: String| {
            Status::new(Code::Unavailable, format!("the API server does not say which pods there are: {why}"))
        };
        let fields = fields.replace('=', "%3D").replace(',', "%2C");
        let uri = format!("/api/v1/namespaces/{namespace}/pods?fieldSelector={fields}");
        let request = http::Request::get(uri).body(Vec::new()).map_err(|e| unavailable(e.to_string()))?;
        let text = match timeout(ANSWER_WITHIN, self.client.request_text(request)).await {
            Ok(answer) => answer.map_err(|e| unavailable(said(&e)))?,
            Err(_) => return Err(unavailable(format!("no answer within {ANSWER_WITHIN:?}"))),
        };
        let pods = read_list(&text).map_err(|e| unavailable(e.to_string()))?;
        Ok(pods.filter_map(|pod| Pod::of(&pod)).collect())
    }
}

fn denied<T>(why: String) -> Result<T, Status> {
    Err(Status::new(Code::PermissionDenied, why))
}
