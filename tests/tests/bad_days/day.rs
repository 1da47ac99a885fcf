//! What every bad day happens to: two nodes, a captured pod on each, one that is not in the mesh, and STRICT.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::metrics::Metrics;
use pillion_tests::pcap::{Packets, RST, Tcp};
use pillion_tests::{Agent, AgentOptions, Bed, Node, Pod, PodBuilder, Recording, apps, requirements, wait};
use serde_json::Value;

use crate::AUDIT;
use crate::needles::Needles;

/// Of the echo servers.
pub const PORT: u16 = 7;
/// Istio's, for HBONE.
const HBONE: u16 = 15008;
/// How many attempts of each loop a bad state has to bear.
const ATTEMPTS: usize = 12;

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: default }
spec: { mtls: { mode: STRICT } }
";

/// A worker that has to be made anew, an agent that has to be started: a busy machine takes seconds for each.
const WELL_WITHIN: Duration = Duration::from_secs(40);

/// What a metric's name holds that tells of something wrong.
const TELLING: [&str; 10] =
    ["audit", "error", "degraded", "orphan", "refused", "failed", "failing", "unavailable", "inserts", "cut"];

/// A bad day that is going on: what passes between the nodes is recorded, and needles are sent each way.
pub struct Day {
    name: String,
    pub near: Agent,
    pub far: Agent,
    /// The captured pod that has the bad day, on the near node.
    pub inside: Pod,
    /// A captured pod on the far node.
    pub peer: Pod,
    /// A pod outside of the mesh, on the far node.
    pub stranger: Pod,
    pub bed: Bed,
    loops: Option<Loops>,
    recording: Recording,
    before: Metrics,
    /// What the agent said while it was bad, without repetitions: `/healthz/ready`, and metrics.
    said: [Vec<String>; 2],
}

/// The needles under way.
struct Loops {
    /// From the captured pod to its peer, and from the peer back: these have to get through when all is well.
    good: [Needles; 2],
    /// From the stranger to the captured pod: these must never get through.
    bad: Needles,
    since: f64,
}

impl Day {
    /// Begins a day as good as any.
    pub fn begin(name: &str) -> Result<Self> {
        Self::with(name, |_| Ok(AgentOptions::default()))
    }

    /// `options` are the near agent's.
    pub fn with(name: &str, options: impl FnOnce(&Bed) -> Result<AgentOptions>) -> Result<Self> {
        let (bed, inside) = Self::stage(|pod| pod)?;
        let options = options(&bed)?;
        Self::on(name, bed, inside, &options)
    }

    /// As [`Day::with`], where a runtime, and not the pods' objects, says where their network namespaces are.
    pub fn with_runtime(
        name: &str,
        options: impl FnOnce(&Bed, &Pod) -> Result<AgentOptions>,
    ) -> Result<Self> {
        let (bed, inside) = Self::stage(PodBuilder::known_to_a_runtime)?;
        let options = options(&bed, &inside)?;
        Self::on(name, bed, inside, &options)
    }

    fn stage(build: impl FnOnce(PodBuilder) -> PodBuilder) -> Result<(Bed, Pod)> {
        requirements::ensure(requirements::APPS)?;
        let bed = Bed::new("bad-day")?;
        bed.write_manifest("strict.yaml", STRICT)?;
        let inside = build(bed.node("n1")?.pod("inside").captured()).create()?;
        Ok((bed, inside))
    }

    fn on(name: &str, bed: Bed, inside: Pod, options: &AgentOptions) -> Result<Self> {
        let (n1, n2) = (bed.node("n1")?, bed.node("n2")?);
        let peer = n2.pod("peer").captured().create()?;
        let stranger = n2.pod("stranger").create()?;
        let near = n1.start_agent(&options.clone().arg(AUDIT))?;
        let far = n2.start_agent(&AgentOptions::default().arg(AUDIT))?;
        apps::echo(&peer, PORT)?;
        let recording = n1.record_wire("tcp")?;
        let mut day = Self {
            name: name.to_owned(),
            near,
            far,
            inside,
            peer,
            stranger,
            bed,
            loops: None,
            recording,
            before: Metrics::default(),
            said: Default::default(),
        };
        day.settle()?;
        day.before = day.near.metrics()?;
        Ok(day)
    }

    pub fn node(&self) -> &Node {
        self.near.node()
    }

    /// Waits until both agents serve their pod and know the other's; then the needles begin, if none are under way, and get
    /// through.
    pub fn settle(&mut self) -> Result<()> {
        self.near.wait_serving(&self.inside)?;
        self.near.wait_known(&self.peer)?;
        self.far.wait_serving(&self.peer)?;
        self.far.wait_known(&self.inside)?;
        if self.loops.is_none() {
            apps::echo(&self.inside, PORT)?;
            let needles =
                |from: &Pod, to: &Pod, log| Needles::start(from, to.addresses(), &self.needle(), log);
            let loops = Loops {
                since: wait::now(),
                good: [needles(&self.inside, &self.peer, "out")?, needles(&self.peer, &self.inside, "in")?],
                bad: needles(&self.stranger, &self.inside, "strange")?,
            };
            self.loops = Some(loops);
        }
        self.wait_well(wait::now()).map(drop)
    }

    /// Ends the needles: what follows may end the pods that send them.
    pub fn pause(&mut self) -> Result<()> {
        self.check()?;
        let Some(loops) = self.loops.take() else { return Ok(()) };
        loops.good.iter().chain([&loops.bad]).try_for_each(Needles::end)
    }

    /// Lets the bad state last for some attempts of each loop, and notes what the agent says.
    pub fn endure(&mut self) -> Result<()> {
        if let Some(loops) = &self.loops {
            loops.good.iter().chain([&loops.bad]).try_for_each(|needles| needles.wait_more(ATTEMPTS))?;
        }
        self.note();
        self.check()
    }

    /// Has the near agent compare everything with the kernel, twice: a wrong comparison does its harm then. An agent that is
    /// not there, or cannot answer, is noted by [`Day::endure`].
    pub fn audit(&self) {
        for _ in 0..2 {
            let _ = self.near.audit();
        }
    }

    /// Notes what the near agent says now.
    pub fn note(&mut self) {
        let readiness = match (self.near.process().exited(), self.near.readiness()) {
            (Some(status), _) => format!("no agent ({status})"),
            (None, Ok((true, _))) => "ready".to_owned(),
            (None, Ok((false, text))) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            (None, Err(_)) => "no answer".to_owned(),
        };
        let metrics = match self.near.metrics() {
            Ok(metrics) => self.changed(&metrics),
            Err(_) => "none".to_owned(),
        };
        for (said, now) in self.said.iter_mut().zip([readiness, metrics]) {
            if said.last() != Some(&now) {
                said.push(now);
            }
        }
    }

    /// Waits until all is well again, after a mend at this time; gives the seconds that it took. An agent that has ended is
    /// started anew, as a kubelet does.
    pub fn wait_well(&self, since: f64) -> Result<f64> {
        let loops = self.loops.as_ref().context("no needles are under way")?;
        wait::until("all to be well", WELL_WITHIN, || {
            if self.near.process().exited().is_some() {
                self.near.begin_restart()?;
            }
            let [out, back] = loops.good.each_ref().map(|needles| needles.well_since(since));
            Ok(out.zip(back).map(|(out, back)| out.max(back) - since))
        })
        .with_context(|| format!("{}: {}", self.name, self.outcomes(since)))
    }

    /// Waits until the near agent answers, or has ended: it has made up its mind then.
    pub fn wait_up_or_ended(&self) -> Result<()> {
        let process = self.near.process();
        wait::until("the agent to answer or to end", WELL_WITHIN, || {
            Ok((process.exited().is_some() || self.near.readiness().is_ok()).then_some(()))
        })
    }

    /// Waits until the near agent has read what was written to the manifests before this call.
    pub fn wait_read(&self, generation: u64) -> Result<()> {
        let newer = |dump: &Value| generation_of(dump) > generation;
        self.near.wait_config("a newer generation of the mesh", newer).map(drop)
    }

    /// Which generation of the mesh the near agent has.
    pub fn generation(&self) -> Result<u64> {
        Ok(generation_of(&self.near.config_dump()?))
    }

    /// How the attempts of each loop ended since then.
    pub fn outcomes(&self, since: f64) -> String {
        let Some(loops) = &self.loops else { return "no needles are under way".to_owned() };
        let [out, back] = loops.good.each_ref().map(|needles| needles.outcomes(since));
        format!("out: {out}; in: {back}; from outside: {}", loops.bad.outcomes(since))
    }

    /// Ends the day: prints its line, and fails if anything was plain. `healed` is what [`Day::wait_well`] gave.
    pub fn end(self, healed: f64) -> Result<()> {
        let packets = self.recording.so_far()?;
        let [readiness, metrics] = self.said.each_ref().map(|said| said.join(" → "));
        println!("{} | {} | {healed:.2} s | {readiness} | {metrics}", self.name, self.plain(&packets));
        self.check()
    }

    /// Nothing that was recorded so far is plain, and no stranger was let in.
    pub fn check(&self) -> Result<()> {
        let packets = self.recording.so_far()?;
        let told = self.outcomes(self.loops.as_ref().map_or(0.0, |loops| loops.since));
        let plain = self.plain(&packets);
        ensure!(plain == 0, "{}: {plain} plain packets of captured pods ({told})", self.name);
        ensure!(!packets.contain(self.needle().as_bytes()), "{}: the needle passed in plain", self.name);
        if let Some(loops) = &self.loops {
            let let_in = loops.bad.attempts().into_iter().find(|attempt| attempt.how == "ok");
            ensure!(let_in.is_none(), "{}: a stranger was let in under STRICT ({told})", self.name);
        }
        Ok(())
    }

    /// Waits until the near agent serves the pod, or says that it cannot: from then on nothing of the pod is plain.
    pub fn wait_decided(&self, pod: &Pod) -> Result<()> {
        let decided = |dump: &Value| {
            let workers = dump["workers"].as_array().into_iter().flatten();
            let states = workers.filter(|worker| worker["pod"] == pod.name()).map(|worker| &worker["state"]);
            states.into_iter().any(|state| state != "starting")
        };
        self.near.wait_config(&format!("what becomes of {}", pod.name()), decided).map(drop)
    }

    /// A text that only this day's needles have.
    pub fn needle(&self) -> String {
        format!("needle-of-{}", self.bed.id())
    }

    /// What passed between the nodes that a captured pod of the near node sent in plain. A refusal is no plaintext.
    fn plain(&self, packets: &Packets) -> usize {
        let ours = |tcp: &&Tcp| {
            self.is_captured_here(tcp)
                && tcp.flags & RST == 0
                && tcp.from.port() != HBONE
                && tcp.to.port() != HBONE
        };
        packets.tcp().filter(ours).count()
    }

    /// Every pod of the near node is captured; the peer's packets are the far agent's.
    fn is_captured_here(&self, tcp: &Tcp) -> bool {
        let (v4, v6) = (self.node().ip4().octets(), self.node().ip6().octets());
        match tcp.from.ip() {
            IpAddr::V4(ip) => ip.octets()[..3] == v4[..3],
            IpAddr::V6(ip) => ip.octets()[..8] == v6[..8],
        }
    }

    /// The metrics that tell of something wrong and are not what they were when all was well.
    fn changed(&self, metrics: &Metrics) -> String {
        let is_telling =
            |name: &str| name.starts_with("pillion_") && TELLING.iter().any(|word| name.contains(word));
        let mut changed: Vec<String> = Vec::new();
        for sample in metrics.0.iter().filter(|sample| is_telling(&sample.name) && sample.value != 0.0) {
            let mut before = self.before.0.iter();
            let was = before.find(|was| was.name == sample.name && was.labels == sample.labels);
            if was.is_none_or(|was| was.value != sample.value) {
                let labels: Vec<&str> = sample.labels.values().map(String::as_str).collect();
                changed.push(format!("{}{{{}}} {}", sample.name, labels.join(","), sample.value));
            }
        }
        if changed.is_empty() { "none changed".to_owned() } else { changed.join(", ") }
    }
}

fn generation_of(dump: &Value) -> u64 {
    dump["generation"].as_u64().unwrap_or_default()
}
