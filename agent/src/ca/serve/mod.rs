//! `pillion ca serve`: the authority of a cluster, by Istio's protocol.
//!
//! [`root`] keeps a directory in memory as the Secret is, and the embedded authority follows that; [`publish`] tells everybody
//! what is trusted. [`listen`] takes connections, [`service`] answers: who asks ([`caller`]), what he may have ([`permit`], by
//! the pods that [`pods`] knows), and the signature. What one source may have of both is [`shares`]'s to say.

mod caller;
mod certificate;
mod listen;
mod metrics;
mod permit;
mod pods;
mod publish;
mod root;
mod service;
mod shares;
mod token;
mod vitals;

pub(crate) use service::read_request;
pub(crate) use token::check_form;

use super::memory::PrivateDir;
use crate::admin::{VitalsServers, listen as bind};
use crate::cli::Serve;
use crate::cluster::{chain, connect};
use crate::telemetry::Logging;
use anyhow::Context as _;
use certificate::OwnCertificate;
use metrics::Metrics;
use permit::Permits;
use pods::Pods;
use service::Service;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use vitals::Health;

/// Serves until it is told to end.
pub async fn run(options: Serve) -> anyhow::Result<()> {
    let _logging = Logging::install(&options.log).context("--log")?;
    let client = connect(options.kubeconfig.as_deref()).await?;
    let (listener, address) = bind("--addr", options.addr)?;
    let dir = PrivateDir::new(&options.dir);
    let dir = dir.with_context(|| format!("--dir {}: give a directory in memory", options.dir.display()))?;
    let stop = stop()?;

    let metrics = Arc::new(Metrics::new());
    let pods = Arc::new(Pods::new(options.node_accounts.clone()));
    let health = Arc::new(Health::new(pods.clone(), metrics.clone()));
    let _servers = VitalsServers::start(options.metrics_addr, options.health_addr, health.clone())?;
    tokio::spawn(pods::follow(client.clone(), pods.clone()));

    let trust_domain = options.trust.trust_domain.clone();
    let name = options.secret.clone();
    let open = root::open(&client, &name, &dir, &trust_domain, &health);
    let ca = tokio::select! {
        ca = open => Arc::new(ca),
        () = told(stop.clone()) => return Ok(()),
    };
    health.has(ca.clone());
    let certificate = OwnCertificate::keep(ca.clone(), dns_names(&options));
    tokio::spawn(publish::run(client.clone(), options.config_map.clone(), ca.clone()));
    let dir = Arc::new(dir);
    tokio::spawn(root::follow(client.clone(), name, dir.clone(), health));

    let service = Arc::new(Service {
        permits: Permits { client: client.clone(), pods, node_accounts: options.node_accounts, trust_domain },
        client,
        audience: options.audience,
        ca,
        max_lifetime: options.max_cert_lifetime,
        slots: service::slots(),
        metrics,
    });
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "the certificate authority serves");
    listen::serve(listener, certificate, service, stop).await?;
    tracing::info!("ended");
    Ok(())
}

fn dns_names(options: &Serve) -> Vec<String> {
    if !options.dns_names.is_empty() {
        return options.dns_names.clone();
    }
    let service = format!("pillion-ca.{}.svc", options.secret.namespace);
    vec![format!("{service}.cluster.local"), service]
}

/// Becomes true once a signal says to end.
fn stop() -> anyhow::Result<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).context("signals cannot be received");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(stop)
}

async fn told(mut stop: watch::Receiver<bool>) {
    // The sender ends only after it has said so.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What the API server said, or why it said nothing.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        error => chain(error),
    }
}
