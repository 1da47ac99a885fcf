//! A worker that panics, and the pods beside it.

use pillion_tests::{Agent, AgentOptions, Bed, Pod, apps, requirements, wait};
use std::time::Duration;

/// Until its input ends: one connection that is open from the start, and new ones all the time, each with an echo. Prints how many
/// came up, how many did not, and the longest time in seconds between two that did.
const TALK: &str = "
import select, socket, sys, time
def say(s):
    s.sendall(b'x')
    if s.recv(1) != b'x': raise ConnectionError('the end')
def connect():
    s = socket.create_connection((sys.argv[1], 7), 5)
    say(s)
    return s
kept = connect() if sys.argv[2] == 'keeps' else None
done = errors = 0
longest, last = 0.0, time.monotonic()
print('talking', flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    try:
        connect().close()
        if kept: say(kept)
        done += 1
        print('up', flush=True)
        now = time.monotonic(); longest, last = max(longest, now - last), now
    except OSError as error:
        errors += 1
        if kept: print(repr(error), flush=True)
print('said', done, errors, longest, flush=True)
";

const PATIENCE: Duration = Duration::from_secs(30);

struct Talk(pillion_tests::Process);

impl Talk {
    fn begin(from: &Pod, to: &Pod, how: &str) -> Self {
        let talk =
            apps::python(from, TALK, [to.ip4().to_string(), how.to_owned()]).log("talk").start().unwrap();
        talk.wait_log("talking", PATIENCE).unwrap();
        Self(talk)
    }

    /// How many have come up.
    fn count(&self) -> usize {
        self.0.log().lines().filter(|line| *line == "up").count()
    }

    /// Waits until another connection has come up.
    fn wait_next(&self) {
        let before = self.count();
        wait::until("a new connection", PATIENCE, || Ok((self.count() > before).then_some(()))).unwrap();
    }

    /// How many came up, how many did not, and the longest time between two that did.
    fn end(self) -> (u32, u32, f64) {
        self.0.write_line("").unwrap();
        self.0.wait(PATIENCE).unwrap();
        let log = self.0.log();
        let said: Vec<_> =
            log.lines().find_map(|line| line.strip_prefix("said ")).unwrap().split(' ').collect();
        (said[0].parse().unwrap(), said[1].parse().unwrap(), said[2].parse().unwrap())
    }
}

/// How often the agent has begun to serve the pod.
fn captured(agent: &Agent, pod: &Pod) -> usize {
    let end = format!("captured pod=default/{} ", pod.name());
    agent.log().matches(&end).count()
}

/// 100 panics of one pod's worker, each after another one serves, and after it has carried a connection.
fn assert_panics_are_one_pods(name: &str, in_task: bool) {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new(name).unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let pod = |name: &str| n1.pod(name).captured().create().unwrap();
    let (broken, neighbour) = (pod("broken"), pod("neighbour"));
    let server = n2.pod("server").captured().create().unwrap();
    // To write down where it panicked takes a build without optimization longer than all else.
    let options = AgentOptions::default().arg("--panic-on-request").env("RUST_BACKTRACE", "0");
    let (near, far) = (n1.start_agent(&options).unwrap(), n2.start_agent(&AgentOptions::default()).unwrap());
    for pod in [&broken, &neighbour] {
        near.wait_serving(pod).unwrap();
        far.wait_known(pod).unwrap();
    }
    near.wait_known(&server).unwrap();
    far.wait_serving(&server).unwrap();
    apps::echo(&server, 7).unwrap();
    let beside = Talk::begin(&neighbour, &server, "keeps");
    let own = Talk::begin(&broken, &server, "begins anew");
    for times in 1..=100 {
        near.panic(&broken, in_task).unwrap();
        let is_served = || Ok((captured(&near, &broken) > times).then_some(()));
        wait::until("another worker serves the pod", PATIENCE, is_served).unwrap();
        own.wait_next();
    }
    let ((done, errors, _), (own_done, own_errors, longest)) = (beside.end(), own.end());
    eprintln!(
        "beside it {done} and {errors} errors; its own {own_done} and {own_errors} errors, {longest:.3} s at the most"
    );
    assert!(done > 100 && errors == 0, "{errors} of the neighbour's connections failed, {done} did not");
    assert!(own_done > 0 && longest < 1.0, "the pod had no connection for {longest:.3} s");
    near.wait_ready().unwrap();
    // One thread for each pod, as before: nothing of the workers that panicked is left.
    let threads = near.threads().unwrap();
    assert!(threads < 20, "{threads} threads");
}

// proves: ISO-2
#[test]
fn a_worker_that_panics_a_hundred_times_costs_its_neighbour_nothing_and_its_pod_less_than_a_second() {
    assert_panics_are_one_pods("panics", false);
}

// proves: ISO-2
#[test]
fn a_panic_in_a_task_that_a_worker_cannot_do_without_ends_that_worker_alone() {
    assert_panics_are_one_pods("task-panics", true);
}

// proves: ISO-2
#[test]
fn nobody_has_a_worker_panic_unless_the_command_line_says_so() {
    let bed = Bed::new("no-panic").unwrap();
    let node = bed.node("n1").unwrap();
    let pod = node.pod("pod").captured().create().unwrap();
    let agent = node.start_agent(&AgentOptions::default()).unwrap();
    agent.wait_serving(&pod).unwrap();
    let refused = agent.panic(&pod, false).unwrap_err();
    assert!(format!("{refused:#}").contains("there is nothing here"), "{refused:#}");
    assert_eq!(captured(&agent, &pod), 1);
}
