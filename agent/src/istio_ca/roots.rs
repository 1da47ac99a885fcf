//! What certificates are verified against, as the authority publishes it: a ConfigMap, followed at the API server.

use crate::cluster::{Heard, News, ObjectName, Resource, Unreadable, What, follow};
use crate::identity::Trust;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// The keys: certificates of all trusted roots (Istio's name), and what they have revoked.
pub const ROOTS: &str = "root-cert.pem";
pub const CRLS: &str = "ca-crl.pem";

/// Publishes the trust and what is wrong with it for as long as the receivers live.
pub struct Follower {
    config_map: ObjectName,
    /// What it said, as far as it is in force.
    in_force: Option<Published>,
    /// What is wrong with what it says.
    wrong: Option<String>,
    /// Why it is not heard of.
    unheard: Option<String>,
    trust: watch::Sender<Arc<Trust>>,
    errors: watch::Sender<Vec<String>>,
}

/// The texts of a ConfigMap.
#[derive(Clone, PartialEq)]
pub struct Published {
    roots: String,
    crls: String,
}

impl Published {
    pub fn of(roots: &str, crls: &str) -> Self {
        Self { roots: roots.to_owned(), crls: crls.to_owned() }
    }
}

impl Heard for Published {
    fn read(_: &Resource, value: Value, _: &[Unreadable]) -> Option<Self> {
        let text = |key: &str| value["data"][key].as_str().unwrap_or_default();
        Some(Self::of(text(ROOTS), text(CRLS)))
    }
}

impl Follower {
    pub fn new(config_map: ObjectName) -> Self {
        let waits = format!("the ConfigMap {config_map} has not been heard of yet");
        Self {
            config_map,
            in_force: None,
            wrong: Some(waits.clone()),
            unheard: None,
            trust: watch::Sender::default(),
            errors: watch::Sender::new(vec![waits]),
        }
    }

    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    pub fn errors(&self) -> watch::Receiver<Vec<String>> {
        self.errors.subscribe()
    }

    pub async fn run(mut self, client: kube::Client) {
        let resource = Resource::object("configmaps", "ConfigMap", &self.config_map);
        let (sender, mut news) = mpsc::channel(1);
        let watch = follow(client, 0, resource, false, sender);
        let take = async {
            while let Some(News { what, .. }) = news.recv().await {
                self.take(what);
            }
        };
        tokio::join!(watch, take);
    }

    pub fn take(&mut self, what: What<Published>) {
        let map = &self.config_map;
        match what {
            What::Current => {}
            What::Connected => self.unheard = None,
            What::Disconnected(error) => {
                self.unheard = Some(format!("the ConfigMap {map} is not heard of: {error}"));
            }
            What::All(mut all) => match all.pop() {
                Some(published) => self.read(published),
                None => {
                    self.wrong =
                        Some(format!("there is no ConfigMap {map}: the certificate authority makes it"));
                }
            },
            What::Put(published) => self.read(published),
            What::Deleted(_) | What::Absent => {
                self.wrong =
                    Some(format!("the ConfigMap {map} is gone: the certificate authority makes it again"));
            }
        }
        self.report();
    }

    /// Takes over what it says, if that is good.
    fn read(&mut self, published: Published) {
        self.wrong = None;
        if self.in_force.as_ref() == Some(&published) {
            return;
        }
        match Trust::from_pem(&published.roots, &published.crls) {
            Ok(trust) => {
                let (roots, revoked) = (trust.roots().count(), trust.revocations());
                tracing::info!(roots, revoked, "what certificates are verified against has changed");
                self.in_force = Some(published);
                self.trust.send_replace(Arc::new(trust));
            }
            Err(e) => {
                self.wrong = Some(format!("the ConfigMap {} cannot be used: {e}", self.config_map));
            }
        }
    }

    fn report(&self) {
        let errors: Vec<String> = self.wrong.iter().chain(&self.unheard).cloned().collect();
        self.errors.send_if_modified(|published| {
            let modified = *published != errors;
            for error in errors.iter().filter(|error| !published.contains(error)) {
                let stays =
                    if self.in_force.is_some() { "; what was trusted before stays trusted" } else { "" };
                tracing::error!("{error}{stays}");
            }
            *published = errors;
            modified
        });
    }
}
