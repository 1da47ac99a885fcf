//! How contestants are called and told apart: a title, and a class whose colour is in `style.css`.

use crate::bench::results::Results;

/// The known ones, in the order in which they are shown: name, title.
const KNOWN: [(&str, &str); 7] = [
    ("none", "No mesh"),
    ("pillion", "Pillion"),
    ("envoy-sidecar", "Envoy sidecar"),
    ("envoy-sidecar-c1", "Envoy, 1 thread"),
    ("none-same-node", "No mesh, same node"),
    ("pillion-same-node", "Pillion, same node"),
    ("pillion-direct", "Pillion, direct"),
];

/// Colours for those that are not known here; more than these begin again.
pub const OTHERS: usize = 3;

/// All that have a result or are missing: the known ones in their order, then others as they came.
pub fn contestants(results: &Results) -> Vec<&str> {
    let measured = results.results.iter().map(|s| s.contestant.as_str());
    let mut all: Vec<&str> = vec![];
    for name in measured.chain(results.missing.iter().map(|m| m.contestant.as_str())) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.sort_by_key(|name| KNOWN.iter().position(|(known, _)| known == name).unwrap_or(KNOWN.len()));
    all
}

/// Those whose numbers answer the question in one look: across nodes, each mesh in its usual form, no baselines.
pub fn headliners(results: &Results) -> Vec<&str> {
    let aside = ["none", "none-same-node", "pillion-same-node", "pillion-direct", "envoy-sidecar-c1"];
    contestants(results).into_iter().filter(|name| !aside.contains(name)).collect()
}

pub fn title(contestant: &str) -> &str {
    KNOWN.iter().find(|(name, _)| *name == contestant).map_or(contestant, |(_, title)| title)
}

/// A class of `style.css`, the same one wherever a contestant is drawn.
pub fn class(results: &Results, contestant: &str) -> String {
    if KNOWN.iter().any(|(name, _)| *name == contestant) {
        return format!("c-{contestant}");
    }
    let others =
        contestants(results).into_iter().filter(|name| !KNOWN.iter().any(|(known, _)| known == name));
    let place = others.into_iter().position(|name| name == contestant).unwrap_or_default();
    format!("c-other-{}", place % OTHERS)
}
