//! The certificate authority as the node core sees it: what is trusted, and what is wrong.

use crate::cli::Run;
use crate::identity::{CertificateAuthority, EmbeddedCa, Trust};
use crate::istio_ca::{RemoteCa, RemoteOptions};
use crate::mesh::Mesh;
use anyhow::bail;
use serde_json::{Value, json};
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// The one that the command line names.
pub async fn open(
    config: &Run,
    mesh: watch::Receiver<Arc<Mesh>>,
) -> anyhow::Result<Arc<dyn CertificateAuthority>> {
    let named = &config.authority;
    match (&named.ca_dir, &named.ca_addr) {
        (_, Some(address)) => {
            let options = RemoteOptions {
                address: address.clone(),
                cluster: named.cluster_id.clone(),
                config_map: named.ca_config_map.clone(),
                token: named.ca_token.clone(),
                kubeconfig: config.objects.kubeconfig.clone(),
            };
            Ok(Arc::new(RemoteCa::start(options, mesh).await?))
        }
        (Some(dir), None) => Ok(Arc::new(EmbeddedCa::open(dir, &config.trust.trust_domain)?)),
        (None, None) => bail!("give --ca-dir or --ca-addr"),
    }
}

/// What it publishes, now and at every change.
pub struct Authority {
    pub trust: watch::Receiver<Arc<Trust>>,
    pub errors: watch::Receiver<Vec<String>>,
}

impl Authority {
    /// For `/config_dump`.
    pub fn report(&self) -> Value {
        let trust = self.trust.borrow().clone();
        let roots = trust.roots().map(|root| {
            json!({"subject": root.subject, "sha256": root.fingerprint, "not_after": date(root.not_after)})
        });
        json!({
            "errors": *self.errors.borrow(),
            "roots": roots.collect::<Vec<_>>(),
            "revoked_certificates": trust.revocations(),
        })
    }
}

pub(super) fn date(time: OffsetDateTime) -> String {
    let seconds = time.replace_nanosecond(0).unwrap_or(time);
    seconds.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
