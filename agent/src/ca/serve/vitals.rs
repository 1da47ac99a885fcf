//! Whether the server can do its work, for probes and Prometheus.

use super::metrics::Metrics;
use super::pods::Pods;
use crate::admin::{BoxFuture, Probes, Vitals};
use crate::ca::date;
use crate::identity::{CertificateAuthority, EmbeddedCa};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub struct Health {
    ca: OnceLock<Arc<EmbeddedCa>>,
    pods: Arc<Pods>,
    metrics: Arc<Metrics>,
    /// What is wrong with the Secret.
    secret: Mutex<Option<String>>,
}

impl Health {
    pub fn new(pods: Arc<Pods>, metrics: Arc<Metrics>) -> Self {
        let secret = Mutex::new(Some("the Secret has not been read yet".to_owned()));
        Self { ca: OnceLock::new(), pods, metrics, secret }
    }

    /// There is no authority yet.
    pub fn lacks(&self, why: String) {
        self.secret_is(Some(why));
    }

    pub fn has(&self, ca: Arc<EmbeddedCa>) {
        self.secret_is(None);
        let _ = self.ca.set(ca);
    }

    pub fn secret_is(&self, error: Option<String>) {
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn errors(&self) -> Vec<String> {
        let mut errors = self.ca.get().map(|ca| ca.errors().borrow().clone()).unwrap_or_default();
        errors.extend(self.secret.lock().unwrap_or_else(PoisonError::into_inner).clone());
        errors
    }
}

impl Vitals for Health {
    fn metrics(&self) -> BoxFuture<'_, String> {
        let metrics = &self.metrics;
        metrics.pods.set(self.pods.count().try_into().unwrap_or(i64::MAX));
        metrics.errors.set(self.errors().len().try_into().unwrap_or(i64::MAX));
        if let Some(ca) = self.ca.get() {
            let trust = ca.trust().borrow().clone();
            metrics.revoked.set(trust.revocations().try_into().unwrap_or(i64::MAX));
            metrics.root_expiry.reset();
            for root in trust.roots() {
                let expiry = metrics.root_expiry.with_label_values(&[root.short_fingerprint()]);
                expiry.set(root.not_after.unix_timestamp());
            }
        }
        let text = metrics.encode();
        Box::pin(async move { text })
    }
}

impl Probes for Health {
    /// It can sign, and knows for whom. What is wrong beside that is told, and does no harm yet.
    fn ready(&self) -> Result<String, String> {
        let mut waits = Vec::new();
        match self.ca.get().map(|ca| ca.signing().borrow().clone()) {
            Some(Ok(_)) => {}
            Some(Err(e)) => waits.push(format!("a root that signs: {e}")),
            None => waits.push(format!("a root: {}", self.errors().join(", "))),
        }
        if !self.pods.is_whole() {
            waits.push("the cluster's pods".to_owned());
        }
        if let Some(since) = self.pods.stands_still() {
            waits.push(format!("news of the cluster's pods, of which none has come since {}", date(since)));
        }
        match waits.is_empty() {
            true => Ok("ready".to_owned()),
            false => Err(format!("waiting for {}", waits.join(", "))),
        }
    }
}
