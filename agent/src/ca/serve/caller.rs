//! Who asks: what the API server says of the token that comes with a request.

use super::said;
use crate::cluster::ObjectName;
use crate::grpc::{Code, Status};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;
use tokio::time::timeout;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How a service account is called as a user.
const USER: &str = "system:serviceaccount:";

/// What the API server adds to a token that is bound to a pod (the node's name since Kubernetes 1.30).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    pub account: ObjectName,
    pub pod: Option<BoundPod>,
}

/// The pod that a token is for. The API server takes the token only as long as the pod exists.
#[derive(Debug, PartialEq, Eq)]
pub struct BoundPod {
    pub name: String,
    pub uid: String,
    pub node: Option<String>,
}

/// Asks the API server.
pub async fn review(client: &kube::Client, audience: &str, token: String) -> Result<Caller, Status> {
    let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![audience.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(client.clone());
    let unavailable = |why: String| {
        Status::new(Code::Unavailable, format!("the API server does not say whose the token is: {why}"))
    };
    let answer = match timeout(ANSWER_WITHIN, api.create(&PostParams::default(), &review)).await {
        Ok(answer) => answer.map_err(|e| unavailable(said(&e)))?,
        Err(_) => return Err(unavailable(format!("no answer within {ANSWER_WITHIN:?}"))),
    };
    caller(answer.status.unwrap_or_default(), audience)
}

fn caller(status: TokenReviewStatus, audience: &str) -> Result<Caller, Status> {
    let refused = |why: String| Err(Status::new(Code::Unauthenticated, why));
    if status.authenticated != Some(true) {
        let why = status.error.unwrap_or_default();
        return refused(format!("the API server does not accept the token for {audience}: {why}"));
    }
    // One that knows nothing of audiences says none.
    if !status.audiences.is_some_and(|audiences| audiences.iter().any(|its| its == audience)) {
        return refused(format!("the token is not for the audience {audience}"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix(USER).and_then(|name| name.replacen(':', "/", 1).parse().ok());
    let Some(account) = account else {
        return refused(format!("the token is {name:?}'s, which is no service account"));
    };
    let mut extra = user.extra.unwrap_or_default();
    let mut one = |key: &str| extra.remove(key).and_then(|mut values| values.pop());
    let pod = match (one(POD_NAME), one(POD_UID)) {
        (Some(name), Some(uid)) => Some(BoundPod { name, uid, node: one(NODE_NAME) }),
        _ => None,
    };
    Ok(Caller { account, pod })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(status: Value) -> Result<Caller, String> {
        let status = serde_json::from_value(status).unwrap();
        caller(status, "istio-ca").map_err(|status| {
            assert_eq!(status.code, Code::Unauthenticated);
            status.message
        })
    }

    #[test]
    fn a_caller_is_a_service_account_and_the_pod_that_its_token_is_bound_to() {
        let mut status = json!({"authenticated": true, "audiences": ["istio-ca"], "user": {
            "username": "system:serviceaccount:mesh:agent"}});
        let account: ObjectName = "mesh/agent".parse().unwrap();
        assert_eq!(read(status.clone()), Ok(Caller { account: account.clone(), pod: None }));
        status["user"]["extra"] = json!({POD_NAME: ["agent-1"], POD_UID: ["7"], NODE_NAME: ["n1"]});
        let pod = BoundPod { name: "agent-1".into(), uid: "7".into(), node: Some("n1".into()) };
        assert_eq!(read(status), Ok(Caller { account, pod: Some(pod) }));
    }

    #[test]
    fn a_token_that_says_less_is_refused() {
        let good = json!({"authenticated": true, "audiences": ["istio-ca"], "user": {
            "username": "system:serviceaccount:mesh:agent"}});
        let but = |key: &str, value: Value| {
            let mut status = good.clone();
            status[key] = value;
            read(status).unwrap_err()
        };
        assert!(but("authenticated", json!(false)).contains("does not accept"));
        assert!(but("audiences", json!(["api"])).contains("audience"));
        assert!(but("audiences", Value::Null).contains("audience"));
        for name in ["admin", "system:node:n1", "system:serviceaccount:mesh", "system:serviceaccount:a:b:c"] {
            assert!(but("user", json!({"username": name})).contains("no service account"), "{name}");
        }
    }
}
