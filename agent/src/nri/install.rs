//! Puts the plugin that holds ([`super::hold`]) where the runtime looks for plugins, and removes it.

use super::options::NriOptions;
use super::passes::Passes;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What an agent has put into the runtime's folders: what `pillion uninstall` removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    plugin: PathBuf,
    config: PathBuf,
    /// Names of the namespaces whose pods are to be in the mesh, one a line: a node that boots asks nobody.
    namespaces: PathBuf,
    passes: PathBuf,
}

/// What the plugin is told.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Holding {
    pub passes: PathBuf,
    pub namespaces: PathBuf,
}

impl Installation {
    pub(super) const NAME: &str = "pillion";
    pub(super) const INDEX: &str = "10";
    pub(super) const PLUGIN: &str = "10-pillion";

    /// Where the options say that it goes; none where they name no folder.
    pub fn of(options: &NriOptions) -> Option<Self> {
        let plugins = options.plugin_dir.as_ref()?;
        Some(Self {
            plugin: plugins.join(Self::PLUGIN),
            config: options.config_dir.join(format!("{}.conf", Self::PLUGIN)),
            namespaces: options.config_dir.join("pillion.namespaces"),
            passes: options.pass_dir.clone(),
        })
    }

    /// Installs the program `own`, or the version of it that is there. The runtime starts it when it starts itself.
    pub fn install(&self, own: &Path) -> anyhow::Result<()> {
        let holding = Holding { passes: self.passes.clone(), namespaces: self.namespaces.clone() };
        replace(&self.config, serde_json::to_string(&holding)?.as_bytes(), 0o644)?;
        if !same(own, &self.plugin).unwrap_or(false) {
            let program = fs::read(own).with_context(|| format!("cannot read {}", own.display()))?;
            replace(&self.plugin, &program, 0o755)?;
            tracing::info!(
                plugin = %self.plugin.display(),
                "installed; the container runtime starts it when it starts itself the next time"
            );
        }
        Ok(())
    }

    /// Writes down which namespaces' pods are to be in the mesh.
    pub fn set_namespaces(&self, captured: &BTreeSet<String>) -> anyhow::Result<()> {
        let lines: String = captured.iter().map(|name| format!("{name}\n")).collect();
        match fs::read_to_string(&self.namespaces) {
            Ok(there) if there == lines => Ok(()),
            _ => replace(&self.namespaces, lines.as_bytes(), 0o644),
        }
    }

    /// Removes all of it; gives what there was.
    pub fn remove(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        // The plugin first: without it, one that runs holds nobody any more.
        for file in [&self.plugin, &self.config, &self.namespaces] {
            match fs::remove_file(file) {
                Ok(()) => removed.push(file.clone()),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Passes::at(&self.passes).remove()?;
        Ok(removed)
    }
}

impl Holding {
    pub(super) fn read(config: &str) -> anyhow::Result<Self> {
        serde_json::from_str(config).with_context(|| {
            format!("the configuration of the plugin {} is not what the agent wrote", Installation::PLUGIN)
        })
    }
}

/// Writes a file whole or not at all: the runtime may start the moment it is there.
fn replace(file: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || {
        let dir = file.parent().ok_or(ErrorKind::InvalidInput)?;
        fs::create_dir_all(dir)?;
        // A name that the runtime takes for a plugin's: one that it cannot read keeps it from starting, one that ends at
        // once does not.
        let temporary = dir.join(format!("{}.new", file.file_name().unwrap_or_default().display()));
        fs::write(&temporary, content)?;
        File::open(&temporary)?.sync_all()?;
        fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
        fs::rename(&temporary, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn same(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(fs::metadata(one)?.len() == fs::metadata(other)?.len() && fs::read(one)? == fs::read(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_installed_whole_and_removed_without_a_trace() {
        let dir = std::env::temp_dir().join(format!("pillion-install-{}", std::process::id()));
        let options = NriOptions {
            socket: None,
            plugin_dir: Some(dir.join("plugins")),
            config_dir: dir.join("conf.d"),
            pass_dir: dir.join("passes"),
        };
        fs::create_dir_all(&dir).unwrap();
        let own = dir.join("pillion");
        let installation = Installation::of(&options).unwrap();
        for version in ["one", "two"] {
            fs::write(&own, version).unwrap();
            installation.install(&own).unwrap();
            let plugin = dir.join("plugins/10-pillion");
            assert_eq!(fs::read_to_string(&plugin).unwrap(), version);
            assert_eq!(fs::metadata(&plugin).unwrap().permissions().mode() & 0o777, 0o755);
        }
        installation.set_namespaces(&BTreeSet::from(["bank".into(), "shop".into()])).unwrap();
        let holding =
            Holding::read(&fs::read_to_string(dir.join("conf.d/10-pillion.conf")).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(&holding.namespaces).unwrap(), "bank\nshop\n");
        Passes::at(&holding.passes).give("a").unwrap();

        assert_eq!(installation.remove().unwrap().len(), 3);
        assert!(installation.remove().unwrap().is_empty());
        for empty in ["plugins", "conf.d"] {
            fs::remove_dir(dir.join(empty)).unwrap();
        }
        fs::remove_file(own).unwrap();
        fs::remove_dir(&dir).expect("nothing is left");
    }
}
