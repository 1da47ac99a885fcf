//! Which of the pod's connections its programs have opened themselves. All others were accepted, also those whose listener is
//! closed by now: a listening socket is no witness, since its program may close it at any time. The kernel's counters of a
//! connection say which side began it. Where they do not, what the worker remembers of the pod does.

use crate::kernel::{OpenSocket, Opener};
use crate::mesh::{Exclusions, OnAgentLoss, Workload};
use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// A connection of the pod, as the kernel lists it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The socket's number; 0 where its program has closed it.
    pub inode: u32,
    /// Which side began it, as far as the kernel says.
    pub opener: Option<Opener>,
}

impl Ends {
    pub fn of(socket: &OpenSocket) -> Self {
        let OpenSocket { local, remote, inode, opener, .. } = *socket;
        Self { local, remote, inode, opener }
    }
}

/// What a worker remembers of it.
#[derive(Default)]
pub(super) struct Opened {
    /// What was open when the worker first looked, and nobody listened for: it may have been opened before the pod was
    /// captured. Those that are still open.
    from_before: Option<HashSet<(SocketAddr, SocketAddr)>>,
    /// What the pod has kept out of the mesh since the worker began: what was opened so stays so.
    exclusions: Vec<Exclusions>,
    is_fail_open: bool,
}

impl Opened {
    /// Takes note of what the pod has at the moment. To be called before connections are judged.
    pub fn note(&mut self, pod: &Workload, connections: &[Ends], listening: &BTreeSet<u16>) {
        if !self.exclusions.contains(&pod.exclusions) {
            self.exclusions.push(pod.exclusions.clone());
        }
        self.is_fail_open |= pod.on_agent_loss == OnAgentLoss::Open;
        let all = || connections.iter().map(|ends| (ends.local, ends.remote));
        match &mut self.from_before {
            Some(before) => {
                let open: HashSet<_> = all().collect();
                before.retain(|ends| open.contains(ends));
            }
            None => {
                self.from_before =
                    Some(all().filter(|(local, _)| !listening.contains(&local.port())).collect());
            }
        }
    }

    /// Whether the pod's side has opened the connection, and not accepted it. `is_own` says whether a socket is the agent's.
    ///
    /// A captured pod opens connections to its worker, which are loopback's or its own address's, and past the mesh what it
    /// keeps out of it. A socket that its program has closed is taken for one of those: nobody reads from it.
    pub fn has(&self, ends: &Ends, is_own: impl FnOnce(u32) -> bool) -> bool {
        let Ends { local, remote, inode, opener } = *ends;
        // A port or an address that the pod keeps out of the mesh is no evidence: whoever connects may choose its source.
        if inode != 0
            && let Some(opener) = opener
        {
            return opener == Opener::Local;
        }
        let is_excluded = |out: &Exclusions| {
            out.outbound_ports.contains(&remote.port())
                || out.outbound_cidrs.iter().any(|network| network.contains(&remote.ip()))
        };
        inode == 0
            || self.is_fail_open
            || self.exclusions.iter().any(is_excluded)
            || self.from_before.as_ref().is_none_or(|before| before.contains(&(local, remote)))
            || is_own(inode)
    }
}

/// The numbers of this process's sockets.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn own_sockets() -> io::Result<HashSet<u32>> {
    let number =
        |target: &Path| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok();
    let mut own = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor may have been closed meanwhile.
        if let Ok(target) = std::fs::read_link(entry?.path()) {
            own.extend(number(&target));
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::Mesh;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    fn pod(annotations: &str) -> Workload {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: server, annotations: {{{annotations}}}}}, \
             status: {{podIP: 10.0.0.2}}}}"
        );
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        Workload::clone(mesh.workloads.values().next().unwrap())
    }

    fn ends(local: &str, remote: &str) -> Ends {
        Ends { local: local.parse().unwrap(), remote: remote.parse().unwrap(), inode: 7, opener: None }
    }

    // proves: POL-2, SEC-3
    #[test]
    fn a_connection_was_accepted_unless_the_pod_is_known_to_have_opened_it() {
        let (listening, nobody) = (BTreeSet::from([80]), |_| false);
        let excluding = pod("pillion.dev/exclude-outbound-ports: '5432'");
        let mut opened = Opened::default();
        let (before, accepted) =
            (ends("10.0.0.2:50000", "10.0.9.9:443"), ends("10.0.0.2:80", "10.0.9.9:50000"));
        opened.note(&excluding, &[before, accepted], &listening);
        // The listener is closed by now, and what the pod keeps out of the mesh is another.
        opened.note(&pod(""), &[before, accepted], &BTreeSet::new());
        assert!(opened.has(&before, nobody), "it may be older than the capture");
        assert!(!opened.has(&accepted, nobody));
        let later = ends("10.0.0.2:50001", "10.0.9.9:443");
        assert!(!opened.has(&later, nobody), "a captured pod cannot have opened it");
        assert!(opened.has(&later, |inode| inode == 7), "the worker did");
        assert!(opened.has(&Ends { inode: 0, ..later }, nobody), "nobody reads from it");
        assert!(opened.has(&ends("10.0.0.2:50001", "10.0.9.9:5432"), nobody), "it went past the mesh");
        let peer = ends("10.0.0.2:80", "10.0.9.9:5432");
        assert!(
            !opened.has(&Ends { opener: Some(Opener::Remote), ..peer }, nobody),
            "who connects chooses its source port"
        );
        assert!(opened.has(&Ends { opener: Some(Opener::Local), ..later }, nobody), "the kernel has seen it");
        // Another connection between the same addresses, after the first has ended, is not older than the capture.
        opened.note(&pod(""), &[accepted], &BTreeSet::new());
        assert!(!opened.has(&before, nobody));
        opened.note(&pod("pillion.dev/on-agent-loss: open"), &[], &BTreeSet::new());
        assert!(opened.has(&later, nobody), "it goes out in plain while no agent serves it");
    }

    #[test]
    fn a_socket_of_this_process_is_known_by_its_number() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::from(socket.as_fd().try_clone_to_owned().unwrap());
        let inode = u32::try_from(file.metadata().unwrap().ino()).unwrap();
        assert!(own_sockets().unwrap().contains(&inode));
        drop((socket, file));
        assert!(!own_sockets().unwrap().contains(&inode));
    }
}
