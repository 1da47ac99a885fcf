//! Who may connect to whom: what Istio documents, a reference that is written from it, and the agent.

mod agent;
mod compare;
mod random;
mod reference;
mod table;
mod world;

use compare::compare;
use reference::Reference;
use std::collections::HashSet;
use std::env;
use world::{Connection, Verdict, World};

/// Set to the number that a failed run has told, it repeats that run.
const SEED: &str = "PILLION_POLICY_SEED";
/// Set, it makes the run longer or shorter.
const WORLDS: &str = "PILLION_POLICY_WORLDS";
const WORLDS_BY_DEFAULT: u64 = 10_000;
const CONNECTIONS: usize = 100;

#[test]
fn policies_mean_what_istio_documents() {
    let mut names = HashSet::new();
    let mut wrong = Vec::new();
    for case in table::cases() {
        assert!(names.insert(case.name.clone()), "two cases are called {:?}", case.name);
        assert!(case.source.starts_with("https://istio.io/latest/docs/"), "{}: {}", case.name, case.source);
        for (number, asked) in case.asked().enumerate() {
            let expected = Ok(vec![asked.expected]);
            let connection = [asked.connection];
            for (who, said) in [
                ("reference", by_reference(&asked.world, &connection)),
                ("agent", agent::judge(&asked.world, &connection)),
            ] {
                if said != expected {
                    let place = format!("{} ({}), connection {}", case.name, case.source, number + 1);
                    wrong.push(format!("{place}: the {who} says {said:?}, not {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn random_policies_mean_to_the_agent_what_they_mean_to_the_reference() {
    let seed = number(SEED).unwrap_or_else(rand::random);
    // Shown when the test fails.
    println!("{SEED}={seed} repeats this run");
    let worlds = number(WORLDS).unwrap_or(WORLDS_BY_DEFAULT);
    let seen = compare(seed, worlds, CONNECTIONS, by_reference, agent::judge);
    println!("allowed?, by a rule?: {seen:?}");
    let all = worlds * CONNECTIONS as u64;
    for end in [(true, true), (true, false), (false, true), (false, false)] {
        let part = seen.get(&end).copied().unwrap_or_default() as u64;
        assert!(worlds < WORLDS_BY_DEFAULT || part * 20 > all, "{end:?} hardly ever happens: {seen:?}");
    }
}

/// What comes in plain has to be accepted first.
fn by_reference(world: &World, asked: &[Connection]) -> Result<Vec<Verdict>, String> {
    let reference = Reference::new(world);
    let verdict = |connection: &Connection| match connection.identity {
        None if !reference.takes_plaintext(connection.destination.port()) => Verdict::refused(),
        _ => reference.authorize(connection),
    };
    Ok(asked.iter().map(verdict).collect())
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is to be a number, not {text:?}")))
}
