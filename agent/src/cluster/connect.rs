//! How the API server is reached.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::env;
use std::path::Path;
use std::time::Duration;

/// An API server that is there answers in milliseconds; one behind a balancer whose choice is dead is tried again.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is nobody to ask. An API server that is away is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("this is no pod of a cluster ({0}); give --kubeconfig FILE, or set KUBECONFIG")]
    NotInCluster(String),
    #[error("--kubeconfig {file}: {reason}")]
    Kubeconfig { file: String, reason: String },
    #[error("what is said of the API server cannot be used: {0}")]
    Client(String),
    #[error("the thread that watches the API server: {0}")]
    Thread(#[from] std::io::Error),
}

/// Makes a client: by a kubeconfig where one is given (several, as KUBECONFIG may name them), or else as a pod.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(files) => by_file(files).await.map_err(|error| ConnectError::Kubeconfig {
            file: files.display().to_string(),
            // What the reader draws below the first line is for a screen, not for a log.
            reason: chain(&error).lines().next().unwrap_or_default().to_owned(),
        })?,
        None => Config::incluster().map_err(|error| ConnectError::NotInCluster(chain(&error)))?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| ConnectError::Client(chain(&error)))
}

async fn by_file(files: &Path) -> Result<Config, kube::config::KubeconfigError> {
    let mut merged = Kubeconfig::default();
    for file in env::split_paths(files) {
        merged = merged.merge(Kubeconfig::read_from(file)?)?;
    }
    Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default()).await
}

/// An error and its causes, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}
