//! Verdicts never outlive their generation, nor attestations their pods: random sequences of what agents, workers and
//! apps do, against a plain reference model that says for each connection what must become of it.

#[path = "../common/mod.rs"]
mod common;
mod reference;
mod world;

use common::Bed;
use common::node::on_node;
use pillion_agent::kernel::InboundMode;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reference::{Allowed, Generation, How, Outcome, Party, Pod, Reference, Standing, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::thread;
use world::{Connection, End, Family, PODS, PORTS, World};

/// Set to the number that a failed run has told, it repeats that run.
const SEED: &str = "PILLION_MODEL_SEED";
/// Set, it makes runs longer or shorter.
const STEPS: &str = "PILLION_MODEL_STEPS";
const STEPS_BY_DEFAULT: u64 = 2000;
/// More are closed again.
const CONNECTIONS: usize = 12;

// proves: ID-1, ID-3, LIF-1
#[test]
fn verdicts_never_outlive_their_generation() {
    let seed = number(SEED).unwrap_or_else(rand::random);
    // Shown when the test fails.
    println!("{SEED}={seed} repeats this run");
    let bed = Bed::new();
    on_node(|node| {
        let world = World::new(&bed, node);
        let pods = (0..PODS).map(|place| Pod::stranger(world.cookie(place))).collect();
        let reference = Reference { pods, verdicts: [].into(), in_force: None, full: None };
        let rng = StdRng::seed_from_u64(seed);
        let mut run =
            Run { world, reference, rng, agents: vec![None], unnoticed: 0, seen: [].into(), outdated: 0 };
        let steps = number(STEPS).unwrap_or(STEPS_BY_DEFAULT);
        for step in 0..steps {
            print!("{step}: ");
            run.step();
            run.check();
        }
        run.close_all();
        let seen = format!("{:?}, {} of them under an outdated verdict", run.seen, run.outdated);
        println!("{seen}");
        assert!(
            steps < STEPS_BY_DEFAULT || run.seen.len() == 8 && run.outdated > 0,
            "not all was tried: {seen}"
        );
    });
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is to be a number, not {text:?}")))
}

struct Run<'a> {
    world: World<'a>,
    reference: Reference,
    rng: StdRng,
    /// Each agent's policies in force, as long as it ran; the last one runs. None: it has not said yet.
    agents: Vec<Option<u64>>,
    /// How many captured pods have died and still have their entries.
    unnoticed: usize,
    /// How many connections between pods, or from and to others, had which outcome.
    seen: BTreeMap<Outcome, u32>,
    /// How many connections a verdict of another generation would have let pass directly.
    outdated: u32,
}

impl Run<'_> {
    fn step(&mut self) {
        let place = self.rng.random_range(0..PODS);
        match self.rng.random_range(0..100) {
            0..55 => self.connect_any(),
            55..64 => {
                let (client, port) = (self.rng.random_range(0..PODS), self.pick(&PORTS));
                self.decide(client, place, port);
            }
            64..70 => self.enforce(),
            70..74 => self.capture(place),
            74..78 => self.capture_another(),
            78..82 => self.close_one(),
            82..83 => self.close_at_once(),
            83..85 => self.connect_without_room(),
            85..90 => self.set_worker(place),
            90..92 => self.release(place),
            92..93 => self.forget(place),
            93..94 => self.refuse(place),
            94..96 => self.replace(place),
            96..99 => self.audit(),
            _ => self.restart(),
        }
        while self.world.connections.len() > CONNECTIONS {
            self.close_one();
        }
    }

    fn check(&mut self) {
        self.world.check_flows();
        self.world.check_quiet();
        self.world.check_open();
        let counts: Vec<_> =
            self.reference.pods.iter().map(|pod| [pod.passed, pod.refused, pod.denied]).collect();
        self.world.check_counts(&counts);
    }

    fn connect_any(&mut self) {
        let pods = (0..PODS).map(Party::Pod);
        let all: Vec<Party> = pods.clone().chain(pods.clone()).chain([Party::Outsider]).chain(pods).collect();
        let (client, server) = (self.pick(&[&all[..], &[Party::Node]].concat()), self.pick(&all));
        let port = self.pick(&PORTS);
        self.connect(client, server, port);
    }

    fn connect(&mut self, client: Party, server: Party, port: u16) {
        let family = self.pick(&[Family::Ipv4, Family::Ipv6, Family::Mapped]);
        print!("{client:?} connects to {server:?}, port {port}, {family:?}");
        let is_outdated = self.reference.has_outdated_verdict(client, server, port);
        let expected = self.reference.connect(client, server, port);
        println!(": {expected:?}");
        let found = self.world.connect(client, server, port, family);
        assert_eq!(found, expected.as_seen_by_sockets());
        if client != server {
            *self.seen.entry(expected).or_default() += 1;
        }
        self.outdated += u32::from(is_outdated && expected != Outcome::Attested);
        if let (Party::Pod(client), Party::Pod(server), Outcome::Worker) = (client, server, expected) {
            self.decide(client, server, port);
        }
    }

    /// A connection begins while a table is full that its like may need.
    fn connect_without_room(&mut self) {
        let table = self.pick(&Table::ALL);
        println!("{table:?} has no room");
        let ballast = self.world.fill(table);
        self.reference.full = Some(table);
        self.connect_any();
        self.reference.full = None;
        self.world.empty(table, ballast);
    }

    /// A worker decides that a pod may connect to another one directly: by the present snapshot or an older one, of this
    /// agent or one before.
    fn decide(&mut self, client: usize, server: usize, port: u16) {
        let enforced = (0..).zip(&self.agents);
        let enforced: Vec<_> = enforced.filter_map(|(agent, policy)| Some((agent, (*policy)?))).collect();
        let Some((mut agent, mut policy)) = enforced.last().copied() else {
            return println!("no policy is known yet");
        };
        if self.rng.random_ratio(1, 8) {
            (agent, policy) = self.pick(&enforced);
        }
        if self.rng.random_ratio(1, 4) {
            policy = self.rng.random_range(0..=policy);
        }
        let generation = Generation { agent, policy };
        println!("pod {client} may connect to pod {server}, port {port}: under {generation:?}");
        self.reference.allow(client, server, port, generation);
        self.world.allow(generation, client, server, port);
    }

    fn enforce(&mut self) {
        let agent = self.agents.len() - 1;
        let policy = match self.agents[agent] {
            // Sometimes nothing has changed.
            Some(policy) => policy + self.rng.random_range(0..3),
            None => self.rng.random_range(0..3),
        };
        self.agents[agent] = Some(policy);
        let generation = Generation { agent, policy };
        println!("{generation:?} is in force");
        let some: u64 = self.rng.random();
        let holds = |source: u64, destination: u64, port: u16| {
            let mut hasher = DefaultHasher::new();
            (some, source, destination, port).hash(&mut hasher);
            let is_captured =
                |cookie| self.reference.pods.iter().any(|pod| pod.cookie == cookie && pod.is_captured());
            !hasher.finish().is_multiple_of(3) && is_captured(source) && is_captured(destination)
        };
        let before: Vec<_> = self.reference.verdicts.iter().copied().collect();
        let kept: BTreeSet<_> = before
            .iter()
            .filter(|verdict| holds(verdict.source, verdict.destination, verdict.port))
            .map(|verdict| (verdict.source, verdict.destination, verdict.port))
            .collect();
        let holds = |source, destination, port| kept.contains(&(source, destination, port));
        self.reference.enforce(generation, holds);
        self.world.enforce(policy, holds);
        for verdict in before {
            let place = |cookie| self.reference.pods.iter().position(|pod| pod.cookie == cookie);
            if let (Some(client), Some(server)) = (place(verdict.source), place(verdict.destination)) {
                self.connect(Party::Pod(client), Party::Pod(server), verdict.port);
            }
        }
    }

    /// Captures a pod that is not, if there is one.
    fn capture_another(&mut self) {
        let is_captured = |place: &usize| self.reference.pods[*place].is_captured();
        match (0..PODS).find(|place| !is_captured(place)) {
            Some(place) => self.capture(place),
            None => println!("all are captured"),
        }
    }

    fn capture(&mut self, place: usize) {
        let how = self.any_how();
        println!("pod {place} is captured: {how:?}");
        let gives_up = !how.direct && self.rng.random_bool(0.5);
        let is_busy = self.is_busy(place);
        let owns_path = self.rng.random_bool(0.9);
        let pod = &mut self.reference.pods[place];
        pod.has_path |= owns_path;
        pod.standing = Standing::Captured(how.clone());
        self.world.capture(place, &how, pod.has_path);
        if gives_up {
            self.world.give_up_path(place, &how);
            pod.has_path &= is_busy;
        }
    }

    fn set_worker(&mut self, place: usize) {
        let there = self.rng.random_bool(0.9);
        println!("pod {place} {} a worker", if there { "has" } else { "is without" });
        self.reference.pods[place].has_worker = there;
        self.world.set_worker(place, there);
    }

    fn release(&mut self, place: usize) {
        let pod = &mut self.reference.pods[place];
        if !pod.is_in_mesh() {
            return println!("pod {place} is not in the mesh");
        }
        println!("pod {place} is released");
        pod.standing = Standing::Leaving;
        self.world.kernel.release(pod.cookie).unwrap();
    }

    fn forget(&mut self, place: usize) {
        println!("pod {place} is forgotten");
        let pod = &mut self.reference.pods[place];
        pod.forget();
        self.world.kernel.forget(pod.cookie).unwrap();
    }

    fn refuse(&mut self, place: usize) {
        println!("pod {place} is refused");
        let pod = &mut self.reference.pods[place];
        pod.standing = match &pod.standing {
            Standing::Captured(how) => Standing::Refused(Some(how.clone())),
            Standing::Refused(how) => Standing::Refused(how.clone()),
            Standing::Stranger | Standing::Leaving => Standing::Refused(None),
        };
        self.world.kernel.refuse(pod.cookie).unwrap();
    }

    /// A pod dies, and another one is at its addresses before the agent has noticed, or later.
    fn replace(&mut self, place: usize) {
        let is_noticed = self.rng.random_bool(0.5);
        println!("pod {place} dies, and {}", if is_noticed { "is forgotten" } else { "nobody notices" });
        let died = self.reference.pods[place].clone();
        let own = |party| party == Party::Pod(place);
        let (its_own, others): (Vec<_>, Vec<_>) =
            self.world.connections.drain(..).partition(|connection| own(connection.client));
        self.world.connections = others;
        its_own.into_iter().for_each(|connection| self.close(connection));
        if is_noticed {
            self.world.kernel.forget(died.cookie).unwrap();
        } else if died.is_captured() {
            // (Whom the agent refuses it goes on to refuse.)
            self.unnoticed += 1;
        }
        let cookie = self.world.replace(place);
        self.reference.pods[place] = Pod::stranger(cookie);
        if !is_noticed {
            // Until then the address is the dead pod's, and leads nowhere.
            self.capture(place);
        }
    }

    fn audit(&mut self) {
        println!("audit");
        self.forget_those_that_left();
        let repairs = self.world.audit(&self.standings());
        assert_eq!(repairs, vec!["stale_entry"; self.unnoticed]);
        self.unnoticed = 0;
    }

    /// The next agent knows nobody but those that it captures, or refuses. One that comes too early changes nothing.
    fn restart(&mut self) {
        println!("another agent comes too early, and takes over");
        self.world.second_agent_is_refused();
        self.check();
        self.agents.push(None);
        self.world.restart();
        for (place, pod) in self.reference.pods.iter_mut().enumerate() {
            match &pod.standing {
                Standing::Captured(how) => self.world.capture(place, how, pod.has_path),
                Standing::Refused(_) => self.world.kernel.refuse(pod.cookie).unwrap(),
                Standing::Stranger | Standing::Leaving => {
                    pod.forget();
                }
            }
        }
        self.world.audit(&self.standings());
        self.unnoticed = 0;
    }

    fn forget_those_that_left(&mut self) {
        let is_idle: Vec<bool> = (0..PODS).map(|place| !self.is_busy(place)).collect();
        for (pod, is_idle) in self.reference.pods.iter_mut().zip(is_idle) {
            if is_idle && matches!(pod.standing, Standing::Leaving) {
                pod.forget();
            }
        }
    }

    /// Whether the pod has direct connections. One to a pod that was at its addresses before is none of its.
    fn is_busy(&self, place: usize) -> bool {
        let mut attested = self.world.connections.iter().filter(|connection| connection.is_attested);
        let pod = Party::Pod(place);
        attested
            .any(|connection| connection.client == pod || connection.server == pod && !connection.is_lost())
    }

    fn standings(&self) -> Vec<Standing> {
        self.reference.pods.iter().map(|pod| pod.standing.clone()).collect()
    }

    fn close_one(&mut self) {
        if self.world.connections.is_empty() {
            return println!("nothing is open");
        }
        let index = self.rng.random_range(0..self.world.connections.len());
        let connection = self.world.connections.remove(index);
        self.close(connection);
    }

    fn close_all(&mut self) {
        while !self.world.connections.is_empty() {
            self.close_one();
        }
        self.world.check_no_flows();
    }

    /// Several connections end in the same moment.
    fn close_at_once(&mut self) {
        let count = self.world.connections.len().min(6);
        let some: Vec<_> = self.world.connections.drain(..count).collect();
        let some: Vec<_> =
            some.into_iter().map(|connection| (self.any_end(&connection), connection)).collect();
        thread::scope(|scope| {
            for (end, connection) in some {
                scope.spawn(move || connection.close(end));
            }
        });
    }

    fn close(&mut self, connection: Connection) {
        let end = self.any_end(&connection);
        connection.close(end);
    }

    fn any_end(&mut self, connection: &Connection) -> End {
        let end = self.pick(&[End::ByReset, End::ClientFirst, End::ServerFirst]);
        let &Connection { client, server, .. } = connection;
        println!("{client:?} to {server:?} ends: {end:?}");
        if connection.is_lost() {
            println!("(the server was gone: its successor finds a segment of no connection)");
            self.reference.stray(client, server, connection.port());
        }
        end
    }

    fn any_how(&mut self) -> How {
        const MODES: [InboundMode; 3] = [InboundMode::Ignore, InboundMode::Count, InboundMode::Refuse];
        How {
            default: self.pick(&MODES),
            ports: self.some_port(0.3).map(|port| (port, self.pick(&MODES))).into_iter().collect(),
            probed: self.some_port(0.4).into_iter().collect(),
            open: self.some_port(0.15).into_iter().collect(),
            rules: self.rng.random_bool(0.4).then(|| self.any_allowed()),
            port_rules: self.some_port(0.3).map(|port| (port, self.any_allowed())).into_iter().collect(),
            excluded: self.some_port(0.15).into_iter().collect(),
            direct: self.rng.random_ratio(5, 6),
            fails_open: self.rng.random_ratio(1, 4),
        }
    }

    fn any_allowed(&mut self) -> Allowed {
        let all = self.rng.random();
        let parties = (0..PODS).map(Party::Pod).chain([Party::Outsider, Party::Node]);
        Allowed { all, but: parties.filter(|_| self.rng.random_ratio(1, 3)).collect() }
    }

    fn some_port(&mut self, probability: f64) -> Option<u16> {
        self.rng.random_bool(probability).then(|| self.pick(&PORTS))
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        *among.choose(&mut self.rng).expect("something to choose from")
    }
}
