use super::*;
use crate::manifest::parse;
use crate::manifest::test_dir::TempDir;

/// What is in force of the policies `p`, the oldest state of the manifests first: each as the actions, and the
/// mode of plaintext.
fn in_force(states: &[&str]) -> Vec<(Vec<String>, Vec<InForce>)> {
    let mut last_good = LastGood::default();
    let states = states.iter().map(|text| {
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let (instead, refusals) = last_good.resolve(&objects.iter().collect::<Vec<_>>(), &[]);
        let said = |sourced: &Sourced| match &sourced.object {
            Object::AuthorizationPolicy(policy) => {
                let selected: Vec<_> = policy.selector.match_labels.values().cloned().collect();
                Some(format!(
                    "{:?} {} {}",
                    policy.policy.action,
                    policy.policy.rules.len(),
                    selected.join(",")
                ))
            }
            Object::PeerAuthentication(policy) => Some(format!("{:?}", policy.spec.mtls.mode)),
            _ => None,
        };
        let said = objects.iter().chain(&instead).filter_map(said).collect();
        (said, refusals.iter().map(|refusal| refusal.in_force).collect())
    });
    states.collect()
}

fn policy(spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {spec}}}\n"
    )
}

const GOOD: &str = "{selector: {matchLabels: {app: cart}}, rules: [{}, {}]}";
const BAD: &str = "{selector: {matchLabels: {app: cart}}, rulez: []}";

// proves: POL-1, SEC-2
#[test]
fn the_last_good_form_of_a_policy_stays_until_it_is_mended_or_gone() {
    let (good, bad) = (policy(GOOD), policy(BAD));
    let states = in_force(&[&good, &bad, &bad, &good, "", &bad]);
    let kept = vec!["Allow 2 cart".to_owned()];
    assert_eq!(states[0], (kept.clone(), vec![]));
    assert_eq!(states[1], (kept.clone(), vec![InForce::LastGood]));
    assert_eq!(states[2], states[1]);
    assert_eq!(states[3], (kept, vec![]));
    assert_eq!(states[4], (vec![], vec![]));
    // It is another policy now, which never was right.
    assert_eq!(states[5], (vec!["Deny 1 cart".to_owned()], vec![InForce::StandIn]));
}

// proves: POL-1, SEC-2, SEC-3
#[test]
fn a_policy_that_never_was_right_closes_what_it_may_be_for_from_the_beginning() {
    for (spec, expected) in
        [(BAD, "Deny 1 cart"), ("{selector: {matchLabels: 5}, rules: [{}]}", "Deny 1 "), ("5", "Deny 1 ")]
    {
        let bad = policy(spec);
        let others = policy("{}").replace("name: p", "name: other");
        let states = in_force(&[&bad, &bad, &policy("{}"), &bad, &others, &(others.clone() + &bad)]);
        assert_eq!(states[0], (vec![expected.to_owned()], vec![InForce::StandIn]), "{spec}");
        assert_eq!(states[1], states[0], "{spec}");
        assert_eq!(states[2], (vec!["Allow 0 ".to_owned()], vec![]), "{spec}");
        assert_eq!(states[3].1, [InForce::LastGood], "{spec}");
        // It comes while the agent runs, and means what it means to an agent that starts with it.
        assert_eq!(states[5].0, ["Allow 0 ", expected], "{spec}");
        assert_eq!(states[5].1, [InForce::StandIn], "{spec}");
    }
    let mtls = policy("{mtls: {mode: STRICKT}}").replace("AuthorizationPolicy", "PeerAuthentication");
    assert_eq!(in_force(&["", &mtls])[1], (vec!["Strict".to_owned()], vec![InForce::StandIn]));
}

/// What stands in for this policy, which is wrong.
fn standing_in(text: &str) -> Arc<AuthorizationPolicy> {
    let objects = parse("x.yaml", text.as_bytes()).unwrap();
    let (instead, _) = LastGood::default().resolve(&[&objects[0]], &[]);
    match &instead[0].object {
        Object::AuthorizationPolicy(policy) => policy.clone(),
        other => panic!("{text}: {other:?}"),
    }
}

// proves: SEC-3
#[test]
fn what_is_only_for_gateways_has_a_stand_in_for_nobody_and_all_else_one_for_pods() {
    for (spec, is_for_pods) in [
        ("{targetRefs: [{kind: Gateway}], rulez: []}", false),
        ("{targetRef: {kind: Gateway}, rulez: []}", false),
        ("{targetRefs: [], rulez: []}", true),
        ("{targetRefs: waypoint}", true),
        ("{targetRefs: [{}], selector: {matchLabels: {app: cart}}}", true),
        ("{targetRefs: [{}], selector: {matchLabels: 5}}", true),
        ("{targetRefs: [{}], selector: {}, rulez: []}", false),
    ] {
        assert_eq!(!standing_in(&policy(spec)).has_target, is_for_pods, "{spec}");
    }
}

#[test]
fn what_would_not_decide_has_a_stand_in_that_does_not_decide() {
    let audit = standing_in(&policy("{action: AUDIT, rulez: []}"));
    assert_eq!((audit.policy.action, audit.policy.rules.len()), (Action::Audit, 0));
    for (value, is_enforced) in [("true", false), ("1", false), ("ture", true), ("false", true)] {
        let annotated = format!("{{name: p, annotations: {{istio.io/dry-run: '{value}'}}}}");
        let text = policy(BAD).replace("{name: p}", &annotated);
        assert_eq!(standing_in(&text).policy.is_enforced(), is_enforced, "{value}");
    }
}

/// The policies of one agent after the other, each with the file that the last one left: the names of what is in force
/// instead, and how.
fn restarted(file: &std::path::Path, text: &str) -> Vec<(String, InForce)> {
    let objects = parse("x.yaml", text.as_bytes()).unwrap();
    let mut last_good = LastGood::open(Some(file.to_owned()));
    let (instead, refusals) = last_good.resolve(&objects.iter().collect::<Vec<_>>(), &[]);
    let action = |sourced: &Sourced| match &sourced.object {
        Object::AuthorizationPolicy(policy) => {
            format!("{:?} {} {}", policy.policy.action, policy.policy.rules.len(), policy.policy.dry_run)
        }
        Object::PeerAuthentication(policy) => format!("{:?}", policy.spec.mtls.mode),
        other => panic!("{other:?}"),
    };
    instead.iter().map(action).zip(refusals.iter().map(|refusal| refusal.in_force)).collect()
}

// proves: SEC-3
#[test]
fn the_last_good_form_outlives_the_agent_as_long_as_the_policy_is_the_same() {
    let dir = TempDir::new("last-good");
    let file = dir.0.join("policies.json");
    let named = |uid: &str, spec: &str| {
        let metadata =
            format!("{{name: p, uid: {uid}, annotations: {{istio.io/dry-run: 'true', other: x}}}}");
        policy(spec).replace("{name: p}", &metadata)
    };
    let mtls = |mode: &str| {
        policy(&format!("{{mtls: {{mode: {mode}}}}}"))
            .replace("AuthorizationPolicy", "PeerAuthentication")
            .replace("name: p", "name: q")
    };
    let good = named("a", GOOD) + &mtls("DISABLE");
    let bad = named("a", BAD) + &mtls("OFF");
    let kept =
        vec![("Allow 2 true".to_owned(), InForce::LastGood), ("Disable".to_owned(), InForce::LastGood)];
    assert_eq!(restarted(&file, &good), []);
    assert_eq!(restarted(&file, &bad), kept);
    // A third agent knows it from the first one's file, though the second one never read it from the policy.
    assert_eq!(restarted(&file, &bad), kept);
    // A policy of the same name that was made anew never was right.
    let anew = restarted(&file, &named("b", BAD));
    assert_eq!(anew, [("Deny 1 true".to_owned(), InForce::StandIn)]);
    // What is gone is forgotten, as it is by an agent that goes on.
    assert_eq!(restarted(&file, &mtls("OFF"))[0].1, InForce::StandIn);
    restarted(&file, &good);
    assert_eq!(restarted(&file, ""), []);
    assert_eq!(restarted(&file, &bad)[0].1, InForce::StandIn);
}

/// A policy of this generation.
fn of_generation(generation: i64, spec: &str) -> String {
    policy(spec).replace("{name: p}", &format!("{{name: p, uid: a, generation: {generation}}}"))
}

// proves: SEC-3
#[test]
fn a_form_is_the_last_good_one_only_where_no_generation_after_it_was_missed() {
    let dir = TempDir::new("last-good-generation");
    let file = dir.0.join("policies.json");
    let last_good = [("Allow 2 false".to_owned(), InForce::LastGood)];
    restarted(&file, &of_generation(1, GOOD));
    for generation in [2, 2, 3] {
        assert_eq!(restarted(&file, &of_generation(generation, BAD)), last_good, "all of them were seen");
    }
    // The fourth may have been good, and have closed more.
    assert_eq!(restarted(&file, &of_generation(5, BAD))[0].1, InForce::StandIn);
    assert_eq!(
        restarted(&file, &of_generation(6, BAD))[0].1,
        InForce::StandIn,
        "it stays closed until it is mended"
    );
    restarted(&file, &of_generation(7, GOOD));
    assert_eq!(restarted(&file, &of_generation(8, BAD)), last_good);
    // A cluster that is back in time: of the form that it has nothing is known.
    assert_eq!(restarted(&file, &of_generation(4, BAD))[0].1, InForce::StandIn);

    let states = in_force(&[&of_generation(1, GOOD), &of_generation(3, BAD)]);
    assert_eq!(states[1].1, [InForce::StandIn], "also of an agent that goes on");
}

// proves: SEC-3
#[test]
fn a_kind_that_the_cluster_does_not_have_at_the_moment_loses_none_of_its_policies() {
    let dir = TempDir::new("last-good-absent");
    let file = dir.0.join("policies.json");
    restarted(&file, &of_generation(1, GOOD));
    let mut without_kind = LastGood::open(Some(file.clone()));
    assert!(without_kind.knows(PolicyKind::AuthorizationPolicy));
    assert!(!without_kind.knows(PolicyKind::PeerAuthentication));
    let (instead, _) = without_kind.resolve(&[], &[PolicyKind::AuthorizationPolicy]);
    assert_eq!(instead, []);
    assert_eq!(restarted(&file, &of_generation(2, BAD))[0].1, InForce::LastGood);
    let (_, _) = LastGood::open(Some(file.clone())).resolve(&[], &[PolicyKind::PeerAuthentication]);
    assert_eq!(
        restarted(&file, &of_generation(2, BAD))[0].1,
        InForce::StandIn,
        "its kind is there, and it is gone"
    );
}

// proves: SEC-3
#[test]
fn a_policy_that_is_nested_deep_is_kept_with_the_others() {
    let dir = TempDir::new("last-good-deep");
    let file = dir.0.join("policies.json");
    let deep = (0..125).fold("1".to_owned(), |inner, _| format!("{{\"a\":{inner}}}"));
    let target = format!("{{\"targetRef\": {deep}, \"rules\": [{{}}, {{}}]}}");
    let text = format!(
        r#"{{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {{"name": "deep"}}, "spec": {target}}}"#
    );
    let mut objects = parse("x.json", text.as_bytes()).unwrap();
    objects.extend(parse("x.yaml", policy(GOOD).as_bytes()).unwrap());
    LastGood::open(Some(file.clone())).resolve(&objects.iter().collect::<Vec<_>>(), &[]);
    assert_eq!(restarted(&file, &policy(BAD))[0].1, InForce::LastGood);
}

// proves: SEC-3
#[test]
fn a_file_that_is_broken_or_cannot_be_written_never_brings_an_older_form_back() {
    let dir = TempDir::new("last-good-broken");
    let file = dir.0.join("policies.json");
    for broken in ["", "{", "[]", "{\"version\": 3, \"policies\": []}"] {
        restarted(&file, &policy(GOOD));
        std::fs::write(&file, broken).unwrap();
        assert_eq!(restarted(&file, &policy(BAD))[0].1, InForce::StandIn, "{broken:?}");
    }
    restarted(&file, &policy(GOOD));
    // The next state cannot be written: nothing is left of the one before.
    std::fs::create_dir(file.with_extension("draft")).unwrap();
    let objects = parse("x.yaml", policy("{}").as_bytes()).unwrap();
    let mut last_good = LastGood::open(Some(file.clone()));
    last_good.resolve(&[&objects[0]], &[]);
    let error = last_good.error().unwrap();
    assert!(error.contains("policies.json") && error.contains("--state-dir"), "{error}");
    assert!(!file.exists());
    assert_eq!(restarted(&file, &policy(BAD))[0].1, InForce::StandIn);
    // It is written as soon as it can be.
    std::fs::remove_dir(file.with_extension("draft")).unwrap();
    last_good.resolve(&[&objects[0]], &[]);
    assert_eq!(last_good.error(), None);
    assert_eq!(restarted(&file, &policy(BAD))[0].1, InForce::LastGood);
}

#[test]
fn a_policy_without_a_name_is_a_broken_manifest() {
    for metadata in ["{}", "{name: 5}", "{name: p, namespace: 5}"] {
        let text = policy(BAD).replace("{name: p}", metadata);
        assert!(parse("x.yaml", text.as_bytes()).is_err(), "{metadata}");
    }
}

#[test]
fn a_refusal_is_a_sentence() {
    let objects = parse("x.yaml", policy(BAD).as_bytes()).unwrap();
    let (_, refusals) = LastGood::default().resolve(&[&objects[0]], &[]);
    let said = refusals[0].to_string();
    assert!(
        said.starts_with("AuthorizationPolicy default/p is refused: x.yaml, document 1, spec.rulez: "),
        "{said}"
    );
}
