//! The file that keeps policies' last good forms from one agent of the node to the next.
//!
//! It is written before the policies are in force, so that no agent starts with forms that are older than what its
//! predecessor enforced. A file that cannot be written is removed: then a policy that is wrong at the next start is closed by a
//! stand-in. The file is not synced to the disk: a node that loses its power loses all its connections and pods, too.

use super::Object;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const VERSION: u32 = 2;

/// The file, if there is one, and whether it says what is in force.
#[derive(Default)]
pub struct Kept {
    path: Option<PathBuf>,
    is_current: bool,
    /// Why the file could not be written the last time.
    error: Option<String>,
}

/// What is written. Each policy is read by itself: one that is nested deep is no reason to know nothing of the others.
#[derive(Serialize, Deserialize)]
struct Contents<'a> {
    version: u32,
    #[serde(borrow)]
    policies: Vec<Policy<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Policy<'a> {
    /// The last generation of the policy up to which this form was its last good one.
    seen: Option<i64>,
    #[serde(borrow)]
    good: &'a RawValue,
}

impl Kept {
    /// The policies that the last agent kept, each with the last generation that it had seen. What cannot be read is as if it had not been kept, and the log says so.
    pub fn open(path: Option<PathBuf>) -> (Self, Vec<(Object, Option<i64>)>) {
        let policies = path.as_deref().map(read).unwrap_or_default();
        (Self { path, is_current: false, error: None }, policies)
    }

    /// Whether the file says what is in force; also where there is no file.
    pub fn is_current(&self) -> bool {
        self.is_current || self.path.is_none()
    }

    /// Says that the file is out of date.
    pub fn is_old(&mut self) {
        self.is_current = false;
    }

    /// Writes the policies' texts, each with the last generation that was seen.
    pub fn write<'a>(&mut self, texts: impl Iterator<Item = (&'a str, Option<i64>)>) {
        let Some(path) = self.path.as_deref() else { return };
        match replace(path, texts) {
            Ok(()) => {
                self.is_current = true;
                self.error = None;
            }
            Err(error) => {
                let removed = match fs::remove_file(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        format!("nor removed ({error}): the next agent may start with forms that are older")
                    }
                    _ => "so a policy that is wrong when the next agent starts is closed".to_owned(),
                };
                let message = format!(
                    "{}: the last good forms of policies cannot be written: {error}; {removed}; free space in --state-dir, or \
                     make it writable",
                    path.display()
                );
                if self.error.as_ref() != Some(&message) {
                    tracing::error!("{message}");
                    self.error = Some(message);
                }
            }
        }
    }

    /// Why the next agent will not know the policies' last good forms.
    pub fn error(&self) -> Option<String> {
        self.error.clone()
    }
}

fn read(path: &Path) -> Vec<(Object, Option<i64>)> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        text => text.map_err(|error| error.to_string()),
    };
    let contents = text
        .as_ref()
        .map_err(String::clone)
        .and_then(|text| serde_json::from_slice::<Contents<'_>>(text).map_err(|error| error.to_string()));
    let policies = contents.and_then(|Contents { version, policies }| match version {
        VERSION => Ok(policies),
        other => Err(format!("its version is {other}, this agent writes version {VERSION}")),
    });
    match policies {
        // What this version of the agent refuses was good for another version. It is not put in force.
        Ok(policies) => policies.iter().filter_map(object).collect(),
        Err(error) => {
            tracing::error!(
                "{}: the last good forms of policies cannot be read: {error}; policies that are wrong now are closed",
                path.display()
            );
            Vec::new()
        }
    }
}

fn object(Policy { seen, good }: &Policy<'_>) -> Option<(Object, Option<i64>)> {
    let value: Value = serde_json::from_str(good.get()).ok()?;
    Some((Object::read(&value).ok().flatten()?, *seen))
}

/// Writes the file, whole or not at all.
fn replace<'a>(path: &Path, texts: impl Iterator<Item = (&'a str, Option<i64>)>) -> io::Result<()> {
    let policies = texts.map(|(text, seen)| Ok(Policy { seen, good: serde_json::from_str(text)? }));
    let policies = policies.collect::<Result<_, serde_json::Error>>()?;
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(&Contents { version: VERSION, policies })?)?;
    fs::rename(draft, path)
}

/// The text of a policy that could be read.
pub(super) fn text(object: &Object) -> Option<&str> {
    match object {
        Object::PeerAuthentication(policy) => Some(&policy.text),
        Object::AuthorizationPolicy(policy) => Some(&policy.text),
        _ => None,
    }
}
