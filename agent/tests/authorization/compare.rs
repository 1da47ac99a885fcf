//! Holds two evaluators against each other, and makes what they differ about small.

use crate::random::Maker;
use crate::world::{Connection, Verdict, World};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::thread;

/// What becomes of connections to a pod; an error where the policies are refused.
pub type Judge = fn(&World, &[Connection]) -> Result<Vec<Verdict>, String>;

/// Without these an object is none, and nobody can be asked about it.
const NEEDED: [&str; 5] = ["apiVersion", "kind", "metadata", "name", "key"];

/// How many connections had which end: allowed or not, and whether by a rule or for the lack of one.
pub type Seen = BTreeMap<(bool, bool), usize>;

/// Asks both about the same random worlds.
///
/// # Panics
/// Where they differ, or where valid policies are refused: with the few that are enough for it.
pub fn compare(seed: u64, worlds: u64, connections: usize, one: Judge, other: Judge) -> Seen {
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let share = |thread: u64| {
        let mut seen = Seen::new();
        for number in (thread..worlds).step_by(threads as usize) {
            let mut maker = Maker::new(seed.wrapping_add(number));
            let world = maker.world();
            let asked: Vec<_> = (0..connections).map(|_| maker.connection(&world)).collect();
            let (left, right) = (one(&world, &asked), other(&world, &asked));
            if left != right {
                panic!("{}", explain(world, &asked, one, other));
            }
            for verdict in left.unwrap_or_else(|error| panic!("both refuse {world:#?}: {error}")) {
                *seen.entry((verdict.allowed, verdict.by.is_some())).or_default() += 1;
            }
        }
        seen
    };
    let all = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
        running.into_iter().map(|share| share.join()).collect::<Vec<_>>()
    });
    let mut seen = Seen::new();
    for (end, count) in
        all.into_iter().flat_map(|share| share.unwrap_or_else(|_| panic!("they differ: see above")))
    {
        *seen.entry(end).or_default() += count;
    }
    seen
}

/// The smallest world that is found in which they still differ about one of the connections.
fn explain(world: World, asked: &[Connection], one: Judge, other: Judge) -> String {
    let asks = |world: &World, connection: &Connection| {
        let ask = |judge: Judge| judge(world, std::slice::from_ref(connection));
        (ask(one), ask(other))
    };
    let connection = asked.iter().find(|connection| {
        let (left, right) = asks(&world, connection);
        left != right
    });
    let connection = connection.expect("they differ about all together, and about none alone");
    let before = asks(&world, connection);
    // Of policies that were not refused before, a part may be: that is another difference.
    let same_kind = |(left, right): &(Result<_, String>, Result<_, String>)| {
        left != right && left.is_ok() == before.0.is_ok() && right.is_ok() == before.1.is_ok()
    };
    let policies = shrink(Value::Array(world.policies.clone()), &|policies| {
        let smaller = World { policies: policies.as_array().unwrap().clone(), ..world.clone() };
        same_kind(&asks(&smaller, connection))
    });
    let world = World { policies: policies.as_array().unwrap().clone(), ..world };
    let (left, right) = asks(&world, connection);
    let repro = serde_json::to_string_pretty(&json!({"world": world, "connection": connection})).unwrap();
    format!("{repro}\none says {left:?}\nthe other {right:?}")
}

/// Leaves out what may be left out, one element or field after another, as long as it `matters`.
fn shrink(mut value: Value, matters: &dyn Fn(&Value) -> bool) -> Value {
    while let Some(smaller) = parts(&value, String::new()).into_iter().find_map(|part| {
        let smaller = without(&value, &part);
        matters(&smaller).then_some(smaller)
    }) {
        value = smaller;
    }
    value
}

/// Pointers to all that is in a value, the outermost first.
fn parts(value: &Value, at: String) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(list) => list.iter().enumerate().map(|(i, item)| (format!("{at}/{i}"), item)).collect(),
        Value::Object(fields) => {
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            let kept = fields.iter().filter(|(key, _)| !NEEDED.contains(&key.as_str()));
            kept.map(|(key, item)| (format!("{at}/{}", escaped(key)), item)).collect()
        }
        _ => return Vec::new(),
    };
    let deeper = inner.iter().flat_map(|(at, item)| parts(item, at.clone()));
    inner.iter().map(|(at, _)| at.clone()).chain(deeper).collect()
}

fn without(value: &Value, part: &str) -> Value {
    let mut value = value.clone();
    let (outer, last) = part.rsplit_once('/').unwrap();
    match value.pointer_mut(outer).unwrap() {
        Value::Array(list) => _ = list.remove(last.parse().unwrap()),
        Value::Object(fields) => _ = fields.remove(&last.replace("~1", "/").replace("~0", "~")),
        _ => unreachable!("only lists and objects have parts"),
    }
    value
}

#[test]
fn what_two_evaluators_differ_about_is_made_small() {
    fn all(asked: &[Connection], allowed: bool) -> Result<Vec<Verdict>, String> {
        Ok(asked.iter().map(|_| Verdict { allowed, by: None }).collect())
    }
    // One of them has never heard of DENY.
    let whole: Judge =
        |world, asked| all(asked, !world.policies.iter().any(|policy| policy["spec"]["action"] == "DENY"));
    let broken: Judge = |_, asked| all(asked, true);
    let found = (0..100).map(Maker::new).find_map(|mut maker| {
        let world = maker.world();
        let asked = [maker.connection(&world)];
        (whole(&world, &asked) != broken(&world, &asked)).then(|| explain(world, &asked, whole, broken))
    });
    let told: String = found.unwrap().split_whitespace().collect();
    assert!(told.contains(r#""spec":{"action":"DENY"}}],"root"#), "{told}");
}
