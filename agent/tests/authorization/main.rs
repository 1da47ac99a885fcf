//! Who may connect to whom: what Istio documents, a reference that is written from it, and the agent.

mod agent;
mod compare;
mod random;
mod reference;
mod table;
mod world;

use compare::{Judge, compare};
use reference::Reference;
use std::collections::HashSet;
use std::env;
use world::Verdict;

/// Set to the number that a failed run has told, it repeats that run.
const SEED: &str = "PILLION_POLICY_SEED";
/// Set, it makes the run longer or shorter.
const WORLDS: &str = "PILLION_POLICY_WORLDS";
const WORLDS_BY_DEFAULT: u64 = 20_000;
const CONNECTIONS: usize = 50;

#[test]
fn policies_mean_what_istio_documents() {
    let mut names = HashSet::new();
    for case in table::cases() {
        assert!(names.insert(case.name.clone()), "two cases are called {:?}", case.name);
        assert!(case.source.starts_with("https://istio.io/latest/docs/"), "{}: {}", case.name, case.source);
        for (number, asked) in case.asked().enumerate() {
            let context = format!("{} ({}), connection {}", case.name, case.source, number + 1);
            let reference = Reference::new(&asked.world);
            let workload = agent::workload(&asked.world).unwrap_or_else(|error| panic!("{context}: {error}"));
            let port = asked.connection.destination.port();
            let accepted = asked.connection.identity.is_some() || reference.takes_plaintext(port);
            assert_eq!(agent::takes_plaintext(&workload, port), reference.takes_plaintext(port), "{context}");
            let verdict = match accepted {
                true => reference.authorize(&asked.connection),
                false => Verdict { allowed: false, by: None },
            };
            assert_eq!(verdict, asked.expected, "{context}");
        }
    }
}

#[test]
fn random_policies_mean_to_the_agent_what_they_mean_to_the_reference() {
    let seed = number(SEED).unwrap_or_else(rand::random);
    // Shown when the test fails.
    println!("{SEED}={seed} repeats this run");
    let worlds = number(WORLDS).unwrap_or(WORLDS_BY_DEFAULT);
    let reference: Judge = |world, asked| {
        let reference = Reference::new(world);
        Ok(asked.iter().map(|connection| reference.authorize(connection)).collect())
    };
    let seen = compare(seed, worlds, CONNECTIONS, reference, reference);
    println!("allowed?, by a rule?: {seen:?}");
    let all = worlds * CONNECTIONS as u64;
    for end in [(true, true), (true, false), (false, true), (false, false)] {
        let part = seen.get(&end).copied().unwrap_or_default() as u64;
        assert!(worlds < WORLDS_BY_DEFAULT || part * 20 > all, "{end:?} hardly ever happens: {seen:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is to be a number, not {text:?}")))
}
