//! How much is said of what is wrong with objects: whoever writes them chooses how many are, and in how many ways.

use super::ManifestError;
use super::error::Origin;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// What is said of one object or file.
const OF_ONE: usize = 16;

/// What is said of all objects of a namespace.
const OF_NAMESPACE: usize = 128;

/// Lines of the log at a time.
const LINES: usize = 64;

/// What is said of an object, or of a namespace.
#[derive(Default)]
struct Said {
    count: usize,
    /// Which of all that is said was the last.
    last: usize,
}

/// At most [`OF_ONE`] errors of each object, and [`OF_NAMESPACE`] of each namespace; what is left out is counted in the last one.
pub(super) fn limited(errors: Vec<ManifestError>) -> Vec<ManifestError> {
    if errors.len() <= OF_ONE {
        return errors;
    }
    let (mut objects, mut namespaces): (HashMap<Origin, Said>, HashMap<String, Said>) = Default::default();
    // How many more errors there are than those that are said, by the last one that is.
    let mut left_out: HashMap<usize, usize> = HashMap::new();
    let mut said: Vec<ManifestError> = Vec::new();
    for error in errors {
        let of_object = objects.entry(error.origin.clone()).or_default();
        let mut of_none = Said::default();
        let of_namespace = match error.origin.namespace() {
            Some(namespace) => namespaces.entry(namespace.to_owned()).or_default(),
            None => &mut of_none,
        };
        if of_object.count == OF_ONE {
            *left_out.entry(of_object.last).or_default() += 1;
        } else if of_namespace.count == OF_NAMESPACE {
            *left_out.entry(of_namespace.last).or_default() += 1;
        } else {
            for of in [of_object, of_namespace] {
                *of = Said { count: of.count + 1, last: said.len() };
            }
            said.push(error);
        }
    }
    for (at, count) in left_out {
        said[at].message += &format!(" (and {count} more errors, which are left out)");
    }
    said
}

/// Those that were not said before, for the log, and how many are left out.
pub(super) fn new_ones<'a, T: Eq + Hash>(now: &'a [T], before: &[T]) -> (Vec<&'a T>, usize) {
    if now.is_empty() {
        return (vec![], 0);
    }
    let before: HashSet<&T> = before.iter().collect();
    let mut new: Vec<&T> = now.iter().filter(|said| !before.contains(said)).collect();
    let left_out = new.len().saturating_sub(LINES);
    new.truncate(LINES);
    (new, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Place;

    fn error(namespace: usize, name: usize, what: usize) -> ManifestError {
        let object = format!("EndpointSlice ns-{namespace}/slice-{name}");
        Place::object(object.into()).error("endpoints", format!("error {what}"))
    }

    // proves: ISO-3
    #[test]
    fn of_objects_that_are_wrong_in_many_ways_little_is_said_and_what_is_left_out_is_counted() {
        let many = (0..100).flat_map(|name| (0..1_000).map(move |what| error(1, name, what)));
        let said = limited(many.chain([error(2, 0, 0)]).collect());
        assert_eq!(said.len(), OF_NAMESPACE + 1);
        assert!(said[OF_ONE - 1].message.ends_with("(and 984 more errors, which are left out)"), "{said:?}");
        assert_eq!(said.last().unwrap().message, "error 0");
        let counted: usize = said
            .iter()
            .filter_map(|e| e.message.split_once("(and ")?.1.split(' ').next()?.parse::<usize>().ok())
            .sum();
        assert_eq!(counted + OF_NAMESPACE, 100_000);
        // The same objects say the same again.
        let again = (0..100).flat_map(|name| (0..1_000).map(move |what| error(1, name, what)));
        assert_eq!(limited(again.chain([error(2, 0, 0)]).collect()), said);
    }

    #[test]
    fn what_is_new_is_logged_and_no_more_than_some_lines_of_it() {
        let all: Vec<_> = (0..20_000).map(|name| error(name, name, 0)).collect();
        let (new, left_out) = new_ones(&all, &all[..19_990]);
        assert_eq!((new.len(), left_out), (10, 0));
        let (new, left_out) = new_ones(&all, &[]);
        assert_eq!((new.len(), left_out), (LINES, 20_000 - LINES));
    }
}
