//! What an agent leaves to its successor of the container runtime's sandboxes.
//!
//! A runtime may be slow to say which pods it has: containerd waits with that for every container that is being stopped, for as
//! long as its grace period is. Pods that the agent's predecessor had are served meanwhile, as it knew them.

use super::state_dir::{SANDBOXES, replace};
use crate::sandbox::Sandbox;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub struct Handover {
    path: PathBuf,
    /// What is in the file, as far as this agent has read or written it.
    written: Vec<Sandbox>,
}

impl Handover {
    pub fn at(state_dir: &Path) -> Self {
        Self { path: state_dir.join(SANDBOXES), written: Vec::new() }
    }

    /// What the last agent here has left, if any, without pods that have ended since: their network namespaces are gone. A
    /// file that cannot be read says nothing; the runtime will.
    pub fn read(&mut self) -> Option<&[Sandbox]> {
        let read = fs::read(&self.path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match read {
            Ok(sandboxes) => self.written = sandboxes,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(
                    "what the last agent knew of pods is lost, the container runtime will say it: {}: {e}",
                    self.path.display()
                );
                return None;
            }
        }
        self.written.retain(|sandbox| sandbox.netns.as_ref().is_none_or(|netns| netns.exists()));
        Some(&self.written)
    }

    /// Of one pod the newest last.
    ///
    /// # Errors
    ///
    /// Those of the file system. The file is as it was then.
    pub fn write<'a>(&mut self, sandboxes: impl Iterator<Item = &'a Sandbox>) -> io::Result<()> {
        let now: Vec<Sandbox> = sandboxes.cloned().collect();
        if now == self.written {
            return Ok(());
        }
        replace(&self.path, &serde_json::to_vec(&now)?)?;
        self.written = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state directory of its own.
    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pillion-handover-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn with_netns(name: &str, netns: Option<&Path>) -> Sandbox {
        let mut sandbox = Sandbox::of_test(name, name);
        sandbox.netns = netns.map(Into::into);
        sandbox
    }

    #[test]
    fn a_successor_knows_the_pods_that_are_still_there() {
        let dir = dir("still-there");
        let netns = dir.join("netns");
        fs::write(&netns, "").unwrap();
        let [web, host, gone] = [
            with_netns("web", Some(&netns)),
            with_netns("host", None),
            with_netns("gone", Some(&dir.join("gone"))),
        ];
        Handover::at(&dir).write([&web, &host, &gone].into_iter()).unwrap();
        assert_eq!(Handover::at(&dir).read().unwrap(), [web, host]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_has_not_changed_is_not_written_again() {
        let dir = dir("not-again");
        let mut handover = Handover::at(&dir);
        assert!(handover.read().is_none(), "there is none yet");
        let host = with_netns("host", None);
        handover.write([&host].into_iter()).unwrap();
        fs::remove_file(dir.join(SANDBOXES)).unwrap();
        handover.write([&host].into_iter()).unwrap();
        assert!(!dir.join(SANDBOXES).exists());
        handover.write([].into_iter()).unwrap();
        assert!(dir.join(SANDBOXES).exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_is_none_of_ours_says_nothing() {
        let dir = dir("none-of-ours");
        fs::write(dir.join(SANDBOXES), r#"[{"id": "a"}]"#).unwrap();
        assert!(Handover::at(&dir).read().is_none());
        fs::remove_dir_all(dir).unwrap();
    }
}
