//! Which commit an image is of, and when that was.

use std::env;
use std::path::Path;
use std::process::Command;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Nothing is known where there is no git, or no repository.
#[derive(Default)]
pub struct Revision {
    pub commit: Option<String>,
    /// The commit's time or `SOURCE_DATE_EPOCH`, never the present: the same sources are the same image.
    pub created: Option<String>,
}

impl Revision {
    pub fn of(root: &Path) -> Self {
        let commit = git(root, &["log", "-1", "--format=%H"]).map(|commit| {
            let changed = git(root, &["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
            if changed { format!("{commit}-modified") } else { commit }
        });
        let given = env::var("SOURCE_DATE_EPOCH").ok();
        let seconds = given.or_else(|| git(root, &["log", "-1", "--format=%ct"]));
        Self { commit, created: seconds.and_then(|seconds| date(&seconds)) }
    }
}

fn date(seconds: &str) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok()?.format(&Rfc3339).ok()
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_repository_has_no_commit() {
        assert_eq!(Revision::of(Path::new("/proc")).commit, None);
    }

    #[test]
    fn a_date_is_written_as_images_have_it() {
        assert_eq!(date("1767323045").as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(date("yesterday"), None);
    }
}
