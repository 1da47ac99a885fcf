//! The files of an image.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// Files that images share.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    /// What has been added: directories are there once, and so is a library that two programs need.
    there: BTreeSet<PathBuf>,
}

impl Default for Layer {
    /// An empty one.
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), there: BTreeSet::new() }
    }
}

impl Layer {
    /// A directory, with those above it. Anybody may write in it where `mode` is 0o1777.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.above(Path::new(path))?;
        self.add(Path::new(path), EntryType::Directory, mode, &[], None)
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.above(Path::new(path))?;
        self.add(Path::new(path), EntryType::Regular, mode, bytes, None)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.above(Path::new(path))?;
        self.add(Path::new(path), EntryType::Symlink, 0o777, &[], Some(target))
    }

    /// A program of this machine that needs no library.
    pub fn program(&mut self, path: &str, program: &Path) -> Result<()> {
        let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        self.file(path, 0o755, &bytes)
    }

    /// Its bytes.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    fn above(&mut self, path: &Path) -> Result<()> {
        let above: Vec<&Path> = path.ancestors().skip(1).filter(|dir| *dir != Path::new("/")).collect();
        above.into_iter().rev().try_for_each(|dir| self.add(dir, EntryType::Directory, 0o755, &[], None))
    }

    fn add(
        &mut self,
        path: &Path,
        kind: EntryType,
        mode: u32,
        bytes: &[u8],
        link: Option<&str>,
    ) -> Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        let mut header = header(mode, bytes);
        header.set_entry_type(kind);
        let added = match link {
            Some(target) => self.tar.append_link(&mut header, path, target),
            None => self.tar.append_data(&mut header, path, bytes),
        };
        added.with_context(|| format!("cannot pack {}", path.display()))
    }
}

/// The same time and owner for all: an image's digest is that of what is in it.
pub(crate) fn header(mode: u32, bytes: &[u8]) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_holds_a_file_once_and_directories_before_what_is_in_them() {
        let mut layer = Layer::default();
        layer.file("/usr/share/hello", 0o644, b"hello").unwrap();
        layer.file("/usr/share/hello", 0o644, b"again").unwrap();
        layer.link("/hello", "usr/share/hello").unwrap();
        let layer = layer.finish().unwrap();
        let names: Vec<_> = tar::Archive::new(&layer[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["usr", "usr/share", "usr/share/hello", "hello"]);
    }

    #[test]
    fn what_a_layer_says_of_a_program_is_not_of_this_machine() {
        let mut layer = Layer::default();
        layer.program("/usr/bin/test", &std::env::current_exe().unwrap()).unwrap();
        let layer = layer.finish().unwrap();
        for entry in tar::Archive::new(&layer[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0), "root's");
            assert_eq!(header.mode().unwrap(), 0o755);
        }
    }
}
