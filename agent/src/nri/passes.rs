//! Passes: by them the agent tells the runtime's own plugin which sandboxes may have containers.
//!
//! A pass is an empty file of the sandbox's id in a directory below `/run`. It says that the kernel's hooks know the pod, or
//! that it is not to be in the mesh. It holds while the agent is away, as the hooks do; a node that boots has neither.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub struct Passes {
    dir: PathBuf,
}

impl Passes {
    /// Those of that directory, whether it is there or not.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub fn give(&self, id: &str) -> io::Result<()> {
        let file = self.file(id).ok_or(ErrorKind::InvalidInput)?;
        match File::create_new(&file) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir)?;
                File::create(file).map(drop)
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }

    pub fn take(&self, id: &str) -> io::Result<()> {
        match self.file(id).map(fs::remove_file) {
            Some(Err(e)) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    pub fn has(&self, id: &str) -> bool {
        self.file(id).is_some_and(|file| file.exists())
    }

    /// The ids of all.
    pub fn all(&self) -> io::Result<BTreeSet<String>> {
        match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(e) => Err(e),
            Ok(entries) => {
                let id =
                    |entry: io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into());
                entries.map(id).collect()
            }
        }
    }

    /// Takes them all, and removes the directory.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Ids are the runtime's: whatever is no name of one file in this directory has none.
    fn file(&self, id: &str) -> Option<PathBuf> {
        let is_name = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
        (!id.is_empty() && id.len() <= 128 && id.bytes().all(is_name)).then(|| self.dir.join(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_given_kept_and_taken() {
        let dir = std::env::temp_dir().join(format!("pillion-passes-{}", std::process::id()));
        let passes = Passes::at(&dir.join("passes"));
        assert!(!passes.has("a") && passes.all().unwrap().is_empty());
        for id in ["a", "a", "b"] {
            passes.give(id).unwrap();
        }
        passes.take("b").unwrap();
        passes.take("b").unwrap();
        assert!(Passes::at(&dir.join("passes")).has("a"), "others see them");
        assert_eq!(passes.all().unwrap(), BTreeSet::from(["a".to_owned()]));
        passes.remove().unwrap();
        passes.remove().unwrap();
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn an_id_that_leads_elsewhere_has_no_pass() {
        let passes = Passes::at(Path::new("/proc"));
        for id in ["", ".", "..", "../etc/passwd", "self/status", "a\0b"] {
            assert!(!passes.has(id) && passes.give(id).is_err(), "{id:?}");
        }
    }
}
