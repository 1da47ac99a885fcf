//! The DaemonSet that agents are pods of: whether it is being removed, and its removal.

use super::connect::chain;
use super::name::ObjectName;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Api, DeleteParams};
use kube::{Client, Error};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long an agent that ends waits to hear whether its DaemonSet is there.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// How often is looked whether the last agent has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why a DaemonSet was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("the DaemonSet {0} cannot be removed: {1}")]
    Api(ObjectName, String),
    #[error(
        "the DaemonSet {0} is still there after {1:?}: an agent of it does not end; \
         `kubectl get pods --output wide` in that namespace shows where"
    )]
    Stays(ObjectName, Duration),
}

/// Whether the API server says that the DaemonSet is being deleted, or is gone.
///
/// An agent that ends asks this: it leaves its node for good, or another one follows.
///
/// # Errors
/// In words, when the API server does not say. Then nothing may be concluded.
pub async fn is_going(client: Client, name: &ObjectName) -> Result<bool, String> {
    let asked = timeout(ASK_WITHIN, daemon_sets(client, name).get_metadata_opt(&name.name)).await;
    match asked {
        Ok(Ok(there)) => Ok(there.is_none_or(|set| set.metadata.deletion_timestamp.is_some())),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("the API server did not answer within {ASK_WITHIN:?}")),
    }
}

/// Deletes the DaemonSet in the foreground, and waits until its last agent has ended; each takes everything off its node.
/// Gives whether it was there.
pub async fn remove(client: Client, name: &ObjectName, within: Duration) -> Result<bool, RemoveError> {
    let failed = |error: &Error| RemoveError::Api(name.clone(), chain(error));
    let (sets, deadline) = (daemon_sets(client, name), Instant::now() + within);
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

fn daemon_sets(client: Client, name: &ObjectName) -> Api<DaemonSet> {
    Api::namespaced(client, &name.namespace)
}
