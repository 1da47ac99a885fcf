//! `pillion authz`: whether a connection would be let in, and which policy's rule decides; asked of an agent, or of
//! manifests.

use crate::cli::Authz;
use crate::decide::{Placement, explain};
use crate::manifest::{ManifestSource, Settings};
use anyhow::{Context as _, anyhow, bail};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// An agent answers within milliseconds; one that does not is busy for longer than a person waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// As `GET /authz` has it.
#[derive(Deserialize)]
struct Answer {
    allowed: bool,
    ways: Vec<String>,
    /// What of the destination's policies can never match.
    #[serde(default)]
    warnings: Vec<String>,
}

/// Prints the answer: exit code 0 where the connection would be let in, 1 where not, 2 where that is not known.
pub fn run(question: &Authz) -> ExitCode {
    let answer = Builder::new_current_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            match &question.manifests {
                Some(directory) => of_manifests(question, directory),
                None => timeout(PATIENCE, of_agent(question)).await.unwrap_or_else(|_| {
                    Err(anyhow!("the agent at {} did not answer within {PATIENCE:?}", question.admin_addr))
                }),
            }
        })
    });
    match answer {
        Ok(Answer { allowed, ways, warnings }) => {
            let Authz { source, destination, port, .. } = question;
            println!("{source} → {destination}:{port}: {}", if allowed { "allowed" } else { "denied" });
            ways.iter().for_each(|way| println!("  {way}"));
            warnings.iter().for_each(|warning| println!("  warning: {warning}"));
            ExitCode::from(u8::from(!allowed))
        }
        Err(e) => {
            eprintln!("pillion: {e:#}");
            ExitCode::from(2)
        }
    }
}

async fn of_agent(question: &Authz) -> anyhow::Result<Answer> {
    let Authz { source, destination, port, admin_addr, .. } = question;
    let stream = TcpStream::connect(admin_addr).await.with_context(|| {
        format!("no agent at {admin_addr}: give its --admin-addr, or --manifests to ask without an agent")
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let uri = format!("/authz?source={}&destination={}&port={port}", escaped(source), escaped(destination));
    let request = Request::get(uri).header("host", admin_addr.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    match status {
        StatusCode::OK => serde_json::from_slice(&body).context("the agent's answer cannot be read"),
        _ => bail!("{}", String::from_utf8_lossy(&body).trim()),
    }
}

fn of_manifests(question: &Authz, directory: &Path) -> anyhow::Result<Answer> {
    let settings = Settings {
        // Nothing of the answer depends on it.
        node: String::new(),
        trust_domains: question.trust.trust_domains(),
        root_namespace: question.root_namespace.clone(),
        last_good: None,
    };
    let manifests = ManifestSource::start(directory.to_owned(), settings)?;
    let status = manifests.published().status.borrow().clone();
    if let Some(error) = status.errors.first() {
        bail!("{error}");
    }
    for refusal in &status.refused {
        eprintln!("pillion: {refusal}");
    }
    let mesh = manifests.published().mesh.borrow().clone();
    let Authz { source, destination, port, .. } = question;
    // Manifests alone do not say what any node has captured.
    let no_node = Placement::default();
    let explanation = explain(&mesh, &no_node, source, destination, *port).map_err(|e| anyhow!(e))?;
    let (allowed, ways) = (explanation.is_allowed(), explanation.lines());
    Ok(Answer { allowed, ways, warnings: explanation.warnings })
}

/// What a query may not hold as it is.
fn escaped(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:".contains(&b);
    text.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
