//! The C compiler for aws-lc and the allocator: Zig's clang, which has musl's headers for every architecture. One
//! version, by its checksum, on every machine: what it makes is in the image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use pillion_oci::Architecture;
use pillion_tests::{once, requirements};

use super::triple;

const VERSION: &str = "0.15.2";

/// PyPI's wheels for the machines that build: x86-64 and aarch64.
const SHA256: [&str; 2] = [
    "806316453d1ede7174ed3fefb8e5348154629089c3bb5fe812dfd0e172fac130",
    "edc0aa60ec964a4cf462d40f68d7de242ddf37fd9a80f2afaee6397059463230",
];

/// Where it is, below the target directory.
pub struct Compiler(PathBuf);

impl Compiler {
    /// Fetches it the first time.
    pub fn ready() -> Result<Self> {
        // jemalloc's build wants it.
        requirements::ensure(&["make"])?;
        once::directory("tools", &format!("zig-{VERSION}"), "fetching Zig's C compiler from PyPI", fetch)
            .map(Self)
    }

    /// Tells the `cc` crate of build scripts, by variables that are of this target alone.
    pub fn tell(&self, cargo: &mut Command, architecture: Architecture) {
        let target = triple(architecture).replace('-', "_");
        cargo.env(format!("CC_{target}"), self.0.join(script(architecture)));
        cargo.env(format!("AR_{target}"), self.0.join("ar"));
        // One of the machine's own would get into the image.
        for name in ["CFLAGS", "TARGET_CFLAGS"] {
            cargo.env_remove(name);
        }
    }

    /// The licence of the C library, of which a part is in a static program.
    pub fn licence_of_musl(&self) -> Result<String> {
        let file = self.0.join("ziglang/lib/libc/musl/COPYRIGHT");
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}

fn fetch(dir: &Path) -> Result<()> {
    requirements::ensure(&["python3", "python3-pip"])?;
    let wanted = dir.join("wanted");
    let hashes: String = SHA256.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    fs::write(&wanted, format!("ziglang=={VERSION}{hashes}\n"))?;
    let flags = ["install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    let mut install = Command::new("pip3");
    once::run(
        install.args(flags).arg("--root-user-action=ignore").arg("--target").arg(dir).arg("-r").arg(&wanted),
    )?;
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        write_script(&dir.join(script(architecture)), &compile(architecture))?;
    }
    write_script(&dir.join("ar"), "exec \"$zig\" ar \"$@\"\n")
}

fn script(architecture: Architecture) -> String {
    format!("cc-{}", architecture.go_name())
}

/// Build scripts add a `--target` in words that Zig does not know. Without optimisation Zig's clang checks for undefined
/// behaviour, which wants a library.
fn compile(architecture: Architecture) -> String {
    let machine = match architecture {
        Architecture::X86_64 => "x86_64-linux-musl",
        Architecture::Aarch64 => "aarch64-linux-musl",
    };
    format!(
        "for arg do\n  shift\n  case $arg in --target=*) ;; *) set -- \"$@\" \"$arg\" ;; esac\ndone\n\
         exec \"$zig\" cc -target {machine} -mcpu=baseline -fno-sanitize=undefined \"$@\"\n"
    )
}

/// Zig's cache is kept with it.
fn write_script(file: &Path, rest: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nhere=$(dirname \"$0\")\nzig=$here/ziglang/zig\n\
         export ZIG_GLOBAL_CACHE_DIR=\"$here/cache\" ZIG_LOCAL_CACHE_DIR=\"$here/cache\"\n{rest}"
    );
    fs::write(file, script).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
