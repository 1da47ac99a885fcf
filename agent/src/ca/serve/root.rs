//! The root: in a Secret, made if there is none, and followed.

use super::said;
use super::vitals::Health;
use crate::ca::memory::PrivateDir;
use crate::ca::secret::Files;
use crate::cluster::{Backoff, Heard, News, ObjectName, Resource, Unreadable, What};
use crate::identity::{EmbeddedCa, mint};
use crate::mesh::TrustDomain;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Insists until there is a good root, and says meanwhile why there is none.
pub async fn open(
    client: &kube::Client,
    name: &ObjectName,
    dir: &PrivateDir,
    trust_domain: &TrustDomain,
    health: &Health,
) -> EmbeddedCa {
    let api: Api<Secret> = Api::namespaced(client.clone(), &name.namespace);
    let mut backoff = Backoff::up_to(LONGEST_WAIT);
    loop {
        let error = match find_or_make(&api, name, trust_domain).await {
            Ok(files) => {
                let opened = files.write(dir.path()).map_err(|e| e.to_string()).and_then(|()| {
                    EmbeddedCa::open(dir.path(), trust_domain).map_err(|e| dir.renamed(&e.to_string(), "its"))
                });
                match opened {
                    Ok(ca) => return ca,
                    Err(e) => e,
                }
            }
            Err(e) => e,
        };
        let error = format!("the Secret {name}: {error}");
        tracing::error!("no root yet: {error}");
        health.lacks(error);
        sleep(backoff.wait()).await;
    }
}

/// Of several servers that start at once one makes it, and all use it.
async fn find_or_make(
    api: &Api<Secret>,
    name: &ObjectName,
    trust_domain: &TrustDomain,
) -> Result<Files, String> {
    if let Some(secret) = api.get_opt(&name.name).await.map_err(|e| said(&e))? {
        return Files::of_secret(&secret);
    }
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.name.clone());
    Files::of_root(mint::root(trust_domain.as_ref())?.pem()).put_into(&mut secret);
    match api.create(&PostParams::default(), &secret).await {
        Ok(made) => {
            tracing::info!(secret = %name, "a root is made: there was none");
            Files::of_secret(&made)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err("another server has made it just now".to_owned())
        }
        Err(e) => Err(said(&e)),
    }
}

/// The Secret, or why it cannot be read.
struct Found(Result<Files, String>);

impl Heard for Found {
    fn read(_: &Resource, value: Value, _: &[Unreadable]) -> Option<Self> {
        let secret = serde_json::from_value::<Secret>(value).map_err(|e| e.to_string());
        Some(Self(secret.and_then(|secret| Files::of_secret(&secret))))
    }
}

/// Keeps the directory as the Secret is. While the Secret is gone or no good the directory stays.
pub async fn follow(client: kube::Client, name: ObjectName, dir: Arc<PrivateDir>, health: Arc<Health>) {
    let resource = Resource::object("secrets", "Secret", &name);
    let (sender, mut news) = mpsc::channel(1);
    let take = async {
        while let Some(News { what, .. }) = news.recv().await {
            let result = match what {
                What::All(mut all) => match all.pop() {
                    Some(Found(files)) => write(files, &dir),
                    None => Err("it is gone".to_owned()),
                },
                What::Put(Found(files)) => write(files, &dir),
                What::Deleted(_) | What::Absent => Err("it is gone".to_owned()),
                What::Connected | What::Current | What::Disconnected(_) => continue,
            };
            let error = result.err().map(|e| format!("the Secret {name}: {e}; what was in force stays so"));
            if let Some(error) = &error {
                tracing::error!("{error}");
            }
            health.secret_is(error);
        }
    };
    tokio::join!(crate::cluster::follow(client, 0, resource, false, sender), take);
}

fn write(files: Result<Files, String>, dir: &PrivateDir) -> Result<(), String> {
    files?.write(dir.path()).map_err(|e| e.to_string())
}
