//! Runtimes whose pods have their sockets elsewhere than in this kernel.

use clap::Args;

#[derive(Clone, Debug, Args)]
pub struct ForeignRuntimes {
    /// Handlers of the container runtime (of a RuntimeClass) whose pods have their sockets in a kernel of their own, where no
    /// hook sees them: such a pod is refused when it is to be in the mesh. A name, or its beginning and `*`.
    #[arg(
        id = "foreign_runtimes",
        long = "foreign-runtimes",
        value_name = "NAME,…",
        env = "PILLION_FOREIGN_RUNTIMES",
        value_delimiter = ',',
        default_value = "runsc,gvisor,kata*"
    )]
    pub handlers: Vec<String>,
}

impl ForeignRuntimes {
    /// Why a pod of that handler cannot be captured, if so. The runtime's default handler has no name.
    pub fn refuses(&self, handler: &str) -> Option<String> {
        let is_meant = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => handler.starts_with(beginning),
            None => handler == pattern,
        };
        (!handler.is_empty() && self.handlers.iter().any(is_meant)).then(|| {
            format!(
                "its runtime {handler:?} has the pod's sockets in a kernel of its own, where Pillion cannot see them \
                 (--foreign-runtimes); take the label pillion.dev/capture off the pod and its namespace, or give the pod another \
                 RuntimeClass"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_meant_by_its_name_or_its_beginning() {
        let foreign =
            ForeignRuntimes { handlers: ["runsc", "kata*"].into_iter().map(str::to_owned).collect() };
        for (handler, expected) in [
            ("runsc", true),
            ("kata", true),
            ("kata-qemu", true),
            ("runsc-debug", false),
            ("runc", false),
            ("", false),
        ] {
            assert_eq!(foreign.refuses(handler).is_some(), expected, "{handler}");
        }
        let everything = ForeignRuntimes { handlers: vec!["*".into()] };
        assert!(everything.refuses("").is_none(), "the default is the node's own");
    }
}
