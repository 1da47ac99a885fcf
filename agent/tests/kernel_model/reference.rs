//! What is promised of verdicts, inbound modes, rules and workers, said plainly: no kernel, no sockets.

use pillion_agent::kernel::InboundMode;
use std::collections::{BTreeMap, BTreeSet};

/// How a captured pod is captured.
#[derive(Clone, Debug)]
pub struct How {
    pub direct: bool,
    pub fails_open: bool,
    pub default: InboundMode,
    /// Its own ports that differ.
    pub ports: BTreeMap<u16, InboundMode>,
    /// Its own ports that the node may probe.
    pub probed: BTreeSet<u16>,
    /// Its own ports that are kept out of the mesh.
    pub open: BTreeSet<u16>,
    /// Who may connect in plain. None: everybody.
    pub rules: Option<Allowed>,
    /// Its own ports with other rules.
    pub port_rules: BTreeMap<u16, Allowed>,
    /// Destination ports that it keeps out of the mesh.
    pub excluded: BTreeSet<u16>,
}

/// Who may connect in plain.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub all: bool,
    /// For these it is the other way round.
    pub but: Vec<Party>,
}

/// What a pod is to the mesh.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Nobody knows it.
    Stranger,
    Captured(How),
    /// It belongs to the mesh and cannot be served; as a server it is what it was before.
    Refused(Option<How>),
    /// It has left the mesh, and its veth still has the programs that its open connections may need.
    Leaving,
}

#[derive(Clone, Debug)]
pub struct Pod {
    pub cookie: u64,
    pub standing: Standing,
    /// The kernel owns its path.
    pub has_path: bool,
    pub has_worker: bool,
    pub passed: u64,
    pub refused: u64,
    pub denied: u64,
}

/// One agent's generation of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation {
    pub agent: usize,
    pub policy: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    pub source: u64,
    pub destination: u64,
    pub port: u16,
    pub generation: Generation,
}

/// Who connects, or is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// By its place among the pods.
    Pod(usize),
    /// A namespace that is never captured.
    Outsider,
    Node,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The server's app has it, and the kernel vouches for it.
    Attested,
    /// The server's app has it, and nobody vouches for it.
    Plain { counted: bool },
    /// The client's own worker has it.
    Worker,
    /// connect() fails with EPERM.
    Forbidden,
    /// connect() fails with ECONNREFUSED, and the server counts it.
    Refused,
    /// As that, because of the rules.
    Denied,
    /// connect() fails with ECONNREFUSED, or the worker resets what it gets: what should lead the connection finds no room in its
    /// table.
    NoRoom,
}

/// What a program of the kernel writes when a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Connections that the kernel vouches for.
    Flows,
    /// Connections on their way to a worker.
    Handoff,
}

impl Table {
    pub const ALL: [Self; 2] = [Self::Flows, Self::Handoff];
}

pub struct Reference {
    pub pods: Vec<Pod>,
    pub verdicts: BTreeSet<Verdict>,
    /// None: none has ever been.
    pub in_force: Option<Generation>,
    /// The table that has no room.
    pub full: Option<Table>,
}

impl Outcome {
    /// What is counted cannot be seen there.
    pub fn as_seen_by_sockets(self) -> Self {
        match self {
            Self::Plain { .. } => Self::Plain { counted: false },
            Self::Denied | Self::NoRoom => Self::Refused,
            outcome => outcome,
        }
    }
}

impl How {
    /// What becomes of plaintext to a port.
    fn mode(&self, port: u16) -> InboundMode {
        match self.open.contains(&port) {
            true => InboundMode::Ignore,
            false => *self.ports.get(&port).unwrap_or(&self.default),
        }
    }
}

impl Allowed {
    fn has(&self, client: Party) -> bool {
        self.all != self.but.contains(&client)
    }
}

impl Pod {
    pub fn stranger(cookie: u64) -> Self {
        let standing = Standing::Stranger;
        Self { cookie, standing, has_path: false, has_worker: false, passed: 0, refused: 0, denied: 0 }
    }

    pub fn is_captured(&self) -> bool {
        matches!(self.standing, Standing::Captured(_))
    }

    pub fn is_in_mesh(&self) -> bool {
        matches!(self.standing, Standing::Captured(_) | Standing::Refused(_))
    }

    /// How it stands as a server.
    fn guarded(&self) -> Option<&How> {
        match &self.standing {
            Standing::Captured(how) | Standing::Refused(Some(how)) => Some(how),
            _ => None,
        }
    }

    fn is_direct(&self) -> bool {
        self.has_path && self.guarded().is_some_and(|how| how.direct)
    }

    /// The pod is let go without a trace.
    pub fn forget(&mut self) {
        *self = Self { has_worker: self.has_worker, ..Self::stranger(self.cookie) };
    }
}

impl Reference {
    /// A worker has decided.
    pub fn allow(&mut self, client: usize, server: usize, port: u16, generation: Generation) {
        let (client, server) = (&self.pods[client], &self.pods[server]);
        if client.is_captured() && server.is_captured() && server.is_direct() {
            let source = client.cookie;
            self.verdicts.insert(Verdict { source, destination: server.cookie, port, generation });
        }
    }

    pub fn enforce(&mut self, generation: Generation, holds: impl Fn(u64, u64, u16) -> bool) {
        if self.in_force == Some(generation) {
            return;
        }
        self.in_force = Some(generation);
        self.verdicts.retain(|verdict| holds(verdict.source, verdict.destination, verdict.port));
        self.verdicts = self.verdicts.iter().map(|verdict| Verdict { generation, ..*verdict }).collect();
    }

    /// What becomes of a connection, and what the server counts.
    pub fn connect(&mut self, client: Party, server: Party, port: u16) -> Outcome {
        let outcome = match (self.outcome(client, server, port), self.full) {
            (Outcome::Worker, Some(Table::Handoff)) => Outcome::NoRoom,
            (Outcome::Attested, Some(Table::Flows)) if self.asks_for_plain(client, server, port) => {
                self.plain(client, server, port, true)
            }
            (Outcome::Attested, Some(Table::Flows)) => Outcome::NoRoom,
            (outcome, _) => outcome,
        };
        self.count(server, outcome);
        outcome
    }

    /// The reset of a connection that the server knows nothing of: plaintext that nobody vouches for, too. Nor is it a probe
    /// when it comes from the node: the socket that has opened the connection is gone.
    pub fn stray(&mut self, client: Party, server: Party, port: u16) {
        self.count(server, self.plain(client, server, port, false));
    }

    fn count(&mut self, server: Party, outcome: Outcome) {
        let Party::Pod(server) = server else { return };
        match outcome {
            Outcome::Plain { counted: true } => self.pods[server].passed += 1,
            Outcome::Refused => self.pods[server].refused += 1,
            Outcome::Denied => self.pods[server].denied += 1,
            _ => {}
        }
    }

    fn outcome(&self, client: Party, server: Party, port: u16) -> Outcome {
        let Party::Pod(place) = client else { return self.plain(client, server, port, true) };
        let pod = &self.pods[place];
        match &pod.standing {
            Standing::Captured(_) if server == client => Outcome::Attested,
            // At its own addresses, too: without an entry the hook does not know them.
            Standing::Refused(_) => Outcome::Forbidden,
            Standing::Captured(how) if how.excluded.contains(&port) => self.plain(client, server, port, true),
            Standing::Captured(how) if !pod.has_worker && !how.fails_open => Outcome::Forbidden,
            Standing::Captured(_) if self.has_verdict(pod, server, port) => Outcome::Attested,
            Standing::Captured(_) if pod.has_worker => Outcome::Worker,
            Standing::Captured(_) | Standing::Stranger | Standing::Leaving => {
                self.plain(client, server, port, true)
            }
        }
    }

    /// `is_open` is whether the client's socket still vouches for what it sends.
    fn plain(&self, client: Party, server: Party, port: u16, is_open: bool) -> Outcome {
        let Party::Pod(place) = server else { return Outcome::Plain { counted: false } };
        let Some(how) = self.pods[place].guarded() else { return Outcome::Plain { counted: false } };
        if how.open.contains(&port) {
            return Outcome::Plain { counted: false };
        }
        let mode = how.mode(port);
        let is_probe = is_open && client == Party::Node && how.probed.contains(&port);
        let is_allowed =
            how.port_rules.get(&port).or(how.rules.as_ref()).is_none_or(|rules| rules.has(client));
        match mode {
            InboundMode::Refuse if !is_probe => Outcome::Refused,
            _ if !is_probe && !is_allowed => Outcome::Denied,
            mode => Outcome::Plain { counted: mode == InboundMode::Count },
        }
    }

    /// Whether either end has said that it is content with plain, where nobody can vouch for the connection.
    fn asks_for_plain(&self, client: Party, server: Party, port: u16) -> bool {
        let guarded = |party| match party {
            Party::Pod(place) if client != server => self.pods[place].guarded(),
            _ => None,
        };
        guarded(client).is_some_and(|how| how.fails_open)
            || guarded(server).is_some_and(|how| how.mode(port) == InboundMode::Ignore)
    }

    /// Whether the connection may be direct, both pods being so, under the policies in force.
    fn has_verdict(&self, client: &Pod, server: Party, port: u16) -> bool {
        let (Party::Pod(place), Some(generation)) = (server, self.in_force) else { return false };
        let server = &self.pods[place];
        let verdict = Verdict { source: client.cookie, destination: server.cookie, port, generation };
        client.is_direct() && server.is_direct() && self.verdicts.contains(&verdict)
    }
    /// Whether there is a verdict for it that was made under other policies than those in force.
    pub fn has_outdated_verdict(&self, client: Party, server: Party, port: u16) -> bool {
        let (Party::Pod(client), Party::Pod(server)) = (client, server) else { return false };
        let (client, server) = (self.pods[client].cookie, self.pods[server].cookie);
        self.verdicts.iter().any(|verdict| {
            (verdict.source, verdict.destination, verdict.port) == (client, server, port)
                && Some(verdict.generation) != self.in_force
        })
    }
}
