//! Go, for what others wrote in it: on the PATH, or where its own installer puts it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

/// What the modules that are built here ask for.
const OLDEST: (u32, u32) = (1, 26);

/// A Go that is new enough to build in `dir`; `what` it is wanted for is in the error.
pub(crate) fn program(dir: &Path, what: &str) -> Result<&'static str> {
    let (major, minor) = OLDEST;
    let mut found = Vec::new();
    for go in ["go", "/usr/local/go/bin/go"] {
        // Asked in the module's directory: a Go that fetches the toolchain go.mod asks for says that one's version.
        let Ok(output) = Command::new(go).current_dir(dir).args(["env", "GOVERSION"]).output() else {
            continue;
        };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if parse(&version).is_some_and(|version| version >= OLDEST) {
            return Ok(go);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        found.push(format!("{go} is {}", if version.is_empty() { said } else { version }));
    }
    let found = if found.is_empty() { "there is none".to_owned() } else { found.join(", ") };
    bail!(
        "{what} needs Go {major}.{minor} or newer, and {found}: install it from https://go.dev/dl into \
         /usr/local/go (Debian's golang is too old)"
    )
}

/// "go1.26.8" → (1, 26)
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("go")?.split('.');
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(parse("go1.26.8"), Some((1, 26)));
        assert_eq!(parse("go1.27"), Some((1, 27)));
        assert!(parse("go1.9.4") < Some(OLDEST));
        assert_eq!(parse("devel"), None);
    }
}
