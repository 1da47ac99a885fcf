//! What is trusted, in a ConfigMap for everybody, and put back when somebody changes it.

use super::said;
use crate::cluster::{Backoff, Heard, News, ObjectName, Resource, Unreadable, What, follow};
use crate::identity::{CertificateAuthority, EmbeddedCa};
use crate::istio_ca::{CRLS, ROOTS};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Another server that has heard of a change of the Secret before this one writes first: it is not put back before this one
/// has had the time to hear of it, too.
const SETTLE: Duration = Duration::from_secs(5);

/// Roots and CRLs, as they are there.
#[derive(Clone, PartialEq)]
struct There(String, String);

impl Heard for There {
    fn read(_: &Resource, value: Value, _: &[Unreadable]) -> Option<Self> {
        let text = |key: &str| value["data"][key].as_str().unwrap_or_default().to_owned();
        Some(Self(text(ROOTS), text(CRLS)))
    }
}

pub async fn run(client: kube::Client, name: ObjectName, ca: Arc<EmbeddedCa>) {
    let resource = Resource::object("configmaps", "ConfigMap", &name);
    let (sender, news) = mpsc::channel(1);
    let api = Api::namespaced(client.clone(), &name.namespace);
    tokio::join!(follow(client, 0, resource, false, sender), keep(api, name, ca, news));
}

async fn keep(
    api: Api<ConfigMap>,
    name: ObjectName,
    ca: Arc<EmbeddedCa>,
    mut news: mpsc::Receiver<News<There>>,
) {
    let mut trust = ca.trust();
    let mut there: Option<There> = None;
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            changed = trust.changed() => match changed {
                Ok(()) => due = Some(Instant::now()),
                Err(_) => return,
            },
            received = news.recv() => {
                let Some(News { what, .. }) = received else { return };
                there = match what {
                    What::All(mut all) => all.pop(),
                    What::Put(now) => Some(now),
                    What::Deleted(_) | What::Absent => None,
                    What::Connected | What::Current | What::Disconnected(_) => continue,
                };
                due = due.or(Some(Instant::now() + SETTLE));
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                let pem = trust.borrow_and_update().pem();
                let ours = There(pem.0, pem.1);
                if there.as_ref() != Some(&ours) {
                    write(&api, &name, &ours).await;
                    there = Some(ours);
                }
            }
        }
    }
}

/// Insists: nobody can follow a root that is not published.
async fn write(api: &Api<ConfigMap>, name: &ObjectName, ours: &There) {
    let mut backoff = Backoff::up_to(LONGEST_WAIT);
    loop {
        match put(api, name, ours).await {
            Ok(()) => return tracing::info!(config_map = %name, "what is trusted is published"),
            Err(e) => tracing::error!("the ConfigMap {name} cannot be written: {}", said(&e)),
        }
        sleep(backoff.wait()).await;
    }
}

/// Other keys stay. Somebody who writes at the same time is not overwritten: what he wrote is read first.
async fn put(api: &Api<ConfigMap>, name: &ObjectName, There(roots, crls): &There) -> kube::Result<()> {
    let found = api.get_opt(&name.name).await?;
    let is_new = found.is_none();
    let mut map = found.unwrap_or_default();
    map.metadata.name = Some(name.name.clone());
    let data = map.data.get_or_insert_default();
    data.insert(ROOTS.to_owned(), roots.clone());
    data.insert(CRLS.to_owned(), crls.clone());
    let parameters = PostParams::default();
    match is_new {
        true => api.create(&parameters, &map).await.map(drop),
        false => api.replace(&name.name, &parameters, &map).await.map(drop),
    }
}
