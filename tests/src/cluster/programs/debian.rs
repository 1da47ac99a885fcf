//! Debian's packages, unpacked and not installed: what pods run, with the libraries it needs, and what nodes and the
//! build need and this machine may lack.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::directory;
use crate::{once, requirements};

const PACKAGES: [&str; 5] = ["busybox-static", "libseccomp-dev", "nftables", "nginx-light", "redis-server"];

/// A directory that packages were unpacked into, as if it was `/`.
#[derive(Clone)]
pub struct Root(PathBuf);

/// The packages, with all that they depend on, from wherever this machine's apt-get has its packages.
pub(super) fn unpacked() -> Result<Root> {
    let what = "unpacking nginx, redis, busybox, nft and libseccomp of Debian";
    let dir = directory("debian", what, |draft| {
        let root = Root(draft.to_owned());
        fetch(&draft.join("fetched"))?;
        for package in packages(&draft.join("fetched/archives"))? {
            once::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(draft))?;
        }
        fs::remove_dir_all(draft.join("fetched"))?;
        // Nothing in here shall make a user of this machine root.
        once::run(Command::new("chmod").args(["--recursive", "u-s,g-s"]).arg(draft))?;
        root.find("usr/sbin/nft").map(drop)
    })?;
    let root = Root(dir);
    root.wrap_nft()?;
    Ok(root)
}

/// To apt-get nothing is installed, so that it fetches all dependencies; what is installed, and its cache, stay as
/// they are.
fn fetch(dir: &Path) -> Result<()> {
    let (status, archives) = (dir.join("status"), dir.join("archives"));
    fs::create_dir_all(archives.join("partial"))?;
    fs::write(&status, "")?;
    let (status, archives) = (status.display(), archives.display());
    let (status, archives) =
        (format!("Dir::State::status={status}"), format!("Dir::Cache::archives={archives}"));
    let own = ["-o", &status, "-o", &archives, "-o", "APT::Sandbox::User=root"];
    let fetch = ["install", "--download-only", "--no-install-recommends", "-y", "-qq"];
    requirements::apt(&["update", "-qq"])?;
    requirements::apt(&[&own, &fetch[..], &PACKAGES].concat())
}

fn packages(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

impl Root {
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Programs that run on this machine with the libraries in here.
    pub(super) fn bin(&self) -> PathBuf {
        self.0.join("runs-here")
    }

    /// The file at `path`, which is as it is inside: symbolic links are followed as if this was `/`.
    pub fn find(&self, path: &str) -> Result<PathBuf> {
        const LINKS: usize = 10;
        let mut inside = PathBuf::from(path);
        for _ in 0..LINKS {
            let file = self.0.join(relative(&inside));
            let Ok(target) = fs::read_link(&file) else {
                ensure!(file.exists(), "{} is in none of Debian's packages", inside.display());
                return Ok(file);
            };
            inside = match inside.parent() {
                Some(parent) if target.is_relative() => parent.join(target),
                _ => target,
            };
        }
        bail!("{path} of Debian's packages has no end of symbolic links")
    }

    /// A library, wherever it is.
    pub(super) fn find_library(&self, name: &str) -> Result<PathBuf> {
        let found = self.library_dirs()?.into_iter().map(|dir| dir.join(name)).find(|file| file.exists());
        found.with_context(|| format!("{name} is in none of Debian's packages"))
    }

    /// The shared libraries that the program at `path` needs, its loader among them: where each has to be, and the
    /// file that belongs there.
    pub fn libraries(&self, path: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
        let list = self.loader()?.arg("--list").arg(self.find(path)?).output().context("cannot run ld.so")?;
        let said = String::from_utf8_lossy(&list.stdout).into_owned();
        ensure!(list.status.success(), "{path} needs what is in none of Debian's packages: {said}");
        // "libc.so.6 => /…/lib/libc.so.6 (0x…)"; the loader has a path before the arrow.
        let pairs = said.lines().filter_map(|line| line.trim().split_once(" => "));
        pairs
            .map(|(name, found)| {
                let file = PathBuf::from(found.split(" (").next().unwrap_or(found));
                let inside = file.strip_prefix(&self.0).context("ld.so names a library of this machine")?;
                let place =
                    if name.starts_with('/') { PathBuf::from(name) } else { Path::new("/").join(inside) };
                Ok((place, self.find(&inside.to_string_lossy())?))
            })
            .collect()
    }

    /// The packages' own loader, told of their libraries and no others.
    fn loader(&self) -> Result<Command> {
        let (loader, path) = self.loader_and_path()?;
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(path);
        Ok(command)
    }

    fn loader_and_path(&self) -> Result<(PathBuf, String)> {
        let dirs = self.library_dirs()?;
        let loader = dirs
            .iter()
            .flat_map(|dir| ["x86-64.so.2", "aarch64.so.1"].map(|end| dir.join(format!("ld-linux-{end}"))));
        let loader = loader.into_iter().find(|file| file.is_file()).context("Debian's libc6 has no ld.so")?;
        let path = dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
        Ok((loader, path))
    }

    /// Debian's directories of the machine's architecture: `lib/x86_64-linux-gnu`.
    fn library_dirs(&self) -> Result<Vec<PathBuf>> {
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let dirs = ["lib", "usr/lib"].map(|lib| self.0.join(lib).join(&triplet));
        let dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| dir.is_dir()).collect();
        ensure!(!dirs.is_empty(), "Debian's packages have no libraries for {triplet}");
        Ok(dirs)
    }

    /// kube-proxy and portmap run `nft`: by a script, because its libraries are in here. It is written every time, so
    /// that it is right also where `target` was moved.
    fn wrap_nft(&self) -> Result<()> {
        let (loader, path) = self.loader_and_path()?;
        let nft = self.find("usr/sbin/nft")?;
        let (loader, nft) = (loader.display(), nft.display());
        let script = format!("#!/bin/sh\nexec '{loader}' --library-path '{path}' '{nft}' \"$@\"\n");
        let (dir, file) = (self.bin(), self.bin().join("nft"));
        if fs::read_to_string(&file).is_ok_and(|there| there == script) {
            return Ok(());
        }
        fs::create_dir_all(&dir)?;
        fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// As a path below a directory: without the `/` at the front, and `..` worked out.
fn relative(path: &Path) -> PathBuf {
    let mut below = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::ParentDir => drop(below.pop()),
            _ => {}
        }
    }
    below
}
