//! The DaemonSet that agents are pods of: whether it is being removed, and its removal.

use super::connect::chain;
use k8s_openapi::api::apps::v1::DaemonSet as Object;
use kube::api::{Api, DeleteParams};
use kube::{Client, Error};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long an agent that ends waits to hear whether its DaemonSet is there.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// How often is looked whether the last agent has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A DaemonSet's name: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSetName {
    namespace: String,
    name: String,
}

/// Why a DaemonSet was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("the DaemonSet {0} cannot be removed: {1}")]
    Api(DaemonSetName, String),
    #[error(
        "the DaemonSet {0} is still there after {1:?}: an agent of it does not end; \
         `kubectl get pods --output wide` in that namespace shows where"
    )]
    Stays(DaemonSetName, Duration),
}

/// Whether the API server says that the DaemonSet is being deleted, or is gone.
///
/// An agent that ends asks this: it leaves its node for good, or another one follows.
///
/// # Errors
/// In words, when the API server does not say. Then nothing may be concluded.
pub async fn is_going(client: Client, name: &DaemonSetName) -> Result<bool, String> {
    let asked = timeout(ASK_WITHIN, name.api(client).get_metadata_opt(&name.name)).await;
    match asked {
        Ok(Ok(there)) => Ok(there.is_none_or(|set| set.metadata.deletion_timestamp.is_some())),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("the API server did not answer within {ASK_WITHIN:?}")),
    }
}

/// Deletes the DaemonSet in the foreground, and waits until its last agent has ended; each takes everything off its node.
/// Gives whether it was there.
pub async fn remove(client: Client, name: &DaemonSetName, within: Duration) -> Result<bool, RemoveError> {
    let failed = |error: &Error| RemoveError::Api(name.clone(), chain(error));
    let (sets, deadline) = (name.api(client), Instant::now() + within);
    match sets.delete(&name.name, &DeleteParams::foreground()).await {
        Ok(_) => {}
        Err(Error::Api(status)) if status.is_not_found() => return Ok(false),
        Err(error) => return Err(failed(&error)),
    }
    while sets.get_metadata_opt(&name.name).await.map_err(|error| failed(&error))?.is_some() {
        if Instant::now() >= deadline {
            return Err(RemoveError::Stays(name.clone(), within));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(true)
}

impl DaemonSetName {
    fn api(&self, client: Client) -> Api<Object> {
        Api::namespaced(client, &self.namespace)
    }
}

impl FromStr for DaemonSetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("namespace and name are needed, for example pillion-system/pillion".into()),
        }
    }
}

impl fmt::Display for DaemonSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_set_is_named_with_its_namespace() {
        let name: DaemonSetName = "pillion-system/pillion".parse().unwrap();
        assert_eq!(name.to_string(), "pillion-system/pillion");
        for bad in ["pillion", "/pillion", "a/", "a/b/c", ""] {
            assert!(bad.parse::<DaemonSetName>().is_err(), "{bad}");
        }
    }
}
