use super::*;
use crate::manifest::parse;
use crate::mesh::{MtlsMode, PodName};
use std::net::IpAddr;

fn mesh(manifests: &str) -> Result<Mesh, String> {
    let objects = parse("x.yaml", manifests.as_bytes()).unwrap();
    build(&objects, &Settings::default(), &Mesh::default())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn pod(name: &str, ip: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, \
         status: {{podIPs: [{{ip: '{ip}'}}]}}{more}}}\n"
    )
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{clusterIP: '{ip}', ports: [{{port: 80}}]}}}}\n"
    )
}

#[test]
fn pods_are_found_by_name_and_by_address() {
    let mesh = mesh(&(pod("a", "10.0.0.1", "") + &pod("b", "::ffff:10.0.0.2", ""))).unwrap();
    let name = PodName { namespace: "shop".into(), name: "b".into() };
    assert!(Arc::ptr_eq(&mesh.workloads[&name], &mesh.by_address[&"10.0.0.2".parse().unwrap()]));
}

#[test]
fn two_pods_with_one_address_are_an_error_naming_both() {
    assert_eq!(
        mesh(&(pod("a", "10.0.0.1", "") + &pod("b", "10.0.0.1", ""))).unwrap_err(),
        "x.yaml, document 2, status.podIPs: pod shop/b and pod shop/a (x.yaml, document 1) both have the \
         address 10.0.0.1"
    );
}

#[test]
fn an_address_may_be_had_again_once_its_pod_is_done() {
    let done = |phase| {
        let done = format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: job}}, \
             status: {{phase: {phase}, podIP: 10.0.0.1}}}}\n"
        );
        mesh(&(pod("a", "10.0.0.1", "") + &done))
    };
    for phase in ["Succeeded", "Failed"] {
        let mesh = done(phase).unwrap();
        assert_eq!(mesh.by_address[&"10.0.0.1".parse().unwrap()].name.name, "a");
        assert_eq!(mesh.workloads.len(), 2);
    }
    assert!(done("Running").is_err());
}

#[test]
fn in_a_cluster_a_pod_that_ends_yields_its_address() {
    let build = |manifests: &str| {
        let objects = parse("x.yaml", manifests.as_bytes()).unwrap();
        let (mesh, errors) =
            build_apart(&objects, &Settings::default(), &Mesh::default(), &mut CompiledServices::default());
        let address = "10.0.0.1".parse().unwrap();
        let name = |name: &str| PodName { namespace: "shop".into(), name: name.into() };
        let has = |pod: &str| mesh.workloads[&name(pod)].addresses.contains(&address);
        assert_eq!((has("a"), has("b")).0, mesh.by_address[&address].name.name == "a");
        assert_ne!(has("a"), has("b"));
        (mesh.by_address[&address].name.name.clone(), errors.len())
    };
    let at = |name: &str, more: &str| {
        pod(name, "10.0.0.1", "").replace("namespace: shop", &format!("namespace: shop, {more}"))
    };
    let (ending, new) =
        ("deletionTimestamp: '2026-01-02T00:00:00Z'", "creationTimestamp: '2026-01-03T00:00:00Z'");
    let old = "creationTimestamp: '2026-01-01T00:00:00Z'";
    assert_eq!(build(&(at("a", ending) + &at("b", old))), ("b".into(), 0));
    assert_eq!(build(&(at("a", old) + &at("b", ending))), ("a".into(), 0));
    // Nobody ends: the cluster contradicts itself, and says so.
    assert_eq!(build(&(at("a", old) + &at("b", new))), ("b".into(), 1));
    assert_eq!(build(&(at("a", new) + &at("b", old))), ("a".into(), 1));
}

#[test]
fn in_a_cluster_a_pod_that_is_wrong_is_in_the_mesh_at_its_strictest() {
    let wrong = "labels: {pillion.dev/capture: 'true'}, annotations: {pillion.dev/netns: /proc/1/ns/net, \
                 pillion.dev/on-agent-loss: shut, \
                 pillion.dev/exclude-inbound-ports: '80,http'}";
    let text = pod("a", "10.0.0.1", "").replace("namespace: shop", &format!("namespace: shop, {wrong}"));
    let objects = parse("x.yaml", (text + &pod("b", "10.0.0.2", "")).as_bytes()).unwrap();
    assert!(build(&objects, &Settings::default(), &Mesh::default()).is_err());
    let (mesh, errors) =
        build_apart(&objects, &Settings::default(), &Mesh::default(), &mut CompiledServices::default());
    assert_eq!((errors.len(), mesh.workloads.len()), (3, 2));
    let a = &mesh.by_address[&"10.0.0.1".parse().unwrap()];
    assert!(a.captured && a.netns.is_none() && a.exclusions == Default::default());
    assert_eq!(a.on_agent_loss, crate::mesh::OnAgentLoss::Closed);
}

#[test]
fn what_has_not_changed_is_shared_with_the_generation_before() {
    let before = mesh(&(pod("a", "10.0.0.1", "") + &pod("b", "10.0.0.2", ""))).unwrap();
    let objects = parse("x.yaml", (pod("a", "10.0.0.1", "") + &pod("b", "10.0.0.3", "")).as_bytes()).unwrap();
    let after = build(&objects, &Settings::default(), &before).unwrap();
    let is_shared = |name: &str| {
        let name = PodName { namespace: "shop".into(), name: name.into() };
        Arc::ptr_eq(&before.workloads[&name], &after.workloads[&name])
    };
    assert!(is_shared("a") && !is_shared("b"));
}

#[test]
fn host_network_pods_share_their_nodes_address() {
    let host = |name| pod(name, "10.0.0.1", ", spec: {hostNetwork: true}");
    let mesh = mesh(&(host("a") + &host("b"))).unwrap();
    assert!(mesh.by_address.is_empty());
}

#[test]
fn a_cluster_ip_that_another_object_claims_is_an_error_that_names_it() {
    let error = mesh(&(service("a", "10.96.0.1") + &service("b", "10.96.0.1"))).unwrap_err();
    assert!(error.contains("service shop/b and service shop/a (x.yaml, document 1)"), "{error}");
    let error = mesh(&(service("a", "10.96.0.1") + &pod("b", "10.96.0.1", ""))).unwrap_err();
    assert!(error.contains("pod shop/b claims the address 10.96.0.1, which is a Service's"), "{error}");
}

#[test]
fn an_object_defined_twice_is_an_error_naming_both_places() {
    let mut objects = parse("one.yaml", pod("a", "10.0.0.1", "").as_bytes()).unwrap();
    objects.extend(parse("two.yaml", pod("a", "10.0.0.2", "").as_bytes()).unwrap());
    let errors = build(&objects, &Settings::default(), &Mesh::default()).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "two.yaml, document 1, metadata.name: pod shop/a is already defined in one.yaml, document 1"
    );
}

#[test]
fn a_namespaces_label_captures_its_pods() {
    let namespace = "---\n{apiVersion: v1, kind: Namespace, \
                     metadata: {name: shop, labels: {pillion.dev/capture: enabled}}}\n";
    let mesh = mesh(&(pod("a", "10.0.0.1", "") + namespace)).unwrap();
    assert!(mesh.by_address[&"10.0.0.1".parse().unwrap()].captured);
}

// proves: ID-3
#[test]
fn policies_say_what_a_pod_accepts() {
    let policies = "---\n{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                    metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}\n\
                    ---\n{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, \
                    metadata: {name: cart, namespace: shop}, \
                    spec: {selector: {matchLabels: {app: cart}}, portLevelMtls: {8080: {mode: PERMISSIVE}}}}\n\
                    ---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
                    metadata: {name: fence, namespace: shop}, spec: {podSelector: {matchLabels: {app: cart}}}}\n\
                    ---\n{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, labels: {app: cart}}, \
                    status: {podIP: 10.0.0.2}}\n";
    let mesh = mesh(&(pod("a", "10.0.0.1", "") + policies)).unwrap();
    let at = |address: &str| &mesh.by_address[&address.parse().unwrap()];
    assert_eq!(at("10.0.0.1").mtls.mode(8080), MtlsMode::Strict);
    assert_eq!(at("10.0.0.2").mtls.mode(8080), MtlsMode::Permissive);
    assert_eq!(at("10.0.0.2").mtls.mode(80), MtlsMode::Strict);
    assert_eq!(at("10.0.0.1").network_policy, None);
    assert_eq!(at("10.0.0.2").network_policy.as_deref(), Some("fence"));
}

#[test]
fn a_broken_policy_is_named_with_file_document_and_field() {
    let policy = |spec: &str| {
        let text = format!(
            "{}---\n{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p}}, \
             spec: {spec}}}\n",
            pod("a", "10.0.0.1", "")
        );
        match parse("x.yaml", text.as_bytes()) {
            Ok(objects) => build(&objects, &Settings::default(), &Mesh::default()).unwrap_err(),
            Err(errors) => errors,
        }
    };
    for (spec, expected) in [
        (
            "{mtls: {mode: strict}}",
            "x.yaml, document 2, spec.mtls.mode: unknown variant `strict`, expected one of",
        ),
        ("{mtls: {mod: STRICT}}", "x.yaml, document 2, spec.mtls.mod: unknown field `mod`, expected `mode`"),
        ("{mtsl: {mode: STRICT}}", "x.yaml, document 2, spec.mtsl: unknown field `mtsl`, expected one of"),
        ("{selector: {app: cart}}", "x.yaml, document 2, spec.selector.app: unknown field `app`"),
        ("{portLevelMtls: {http: {}}}", "x.yaml, document 2, spec.portLevelMtls: \"http\" is no port: use"),
        ("{portLevelMtls: {0: {}}}", "x.yaml, document 2, spec.portLevelMtls: \"0\" is no port: use"),
        ("{portLevelMtls: {'080': {}}}", "x.yaml, document 2, spec.portLevelMtls: \"080\" is no port: use"),
        ("{portLevelMtls: {80: {mode: 1}}}", "x.yaml, document 2, spec.portLevelMtls.80.mode: "),
        ("{portLevelMtls: {80: {}}}", "x.yaml, document 2, spec.portLevelMtls: has ports, but no selector"),
    ] {
        let error = policy(spec)[0].to_string();
        assert!(error.starts_with(expected), "{spec}: {error}");
    }
}

#[test]
fn the_policy_generation_follows_the_nodes_captured_pods() {
    let pod = |name: &str, node: &str, labels: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{labels}}}}}, \
             spec: {{nodeName: {node}}}}}\n"
        )
    };
    let captured = "pillion.dev/capture: enabled";
    let strict = "---\n{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                  metadata: {name: p, namespace: default}, spec: {mtls: {mode: STRICT}}}\n";
    let next = |previous: &Mesh, text: &str| {
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        build(&objects, &Settings::default(), previous).unwrap()
    };
    let here = pod("here", "n1", captured);
    let steps = [
        (here.clone(), 1),
        // Another node's pods, pods outside the mesh and Services are not what verdicts depend on.
        (here.clone() + &pod("there", "n2", captured), 1),
        (here.clone() + &pod("plain", "n1", ""), 1),
        (here.clone() + &service("web", "10.96.0.1"), 1),
        (here.clone() + strict, 5),
        (here.clone(), 6),
        (here.clone() + &pod("more", "n1", captured), 7),
        (pod("here", "n1", "") + &pod("more", "n1", captured), 8),
        (String::new(), 9),
        (String::new(), 9),
    ];
    let mut mesh = next(&Mesh::default(), &pod("there", "n2", captured));
    assert_eq!((mesh.generation, mesh.policy), (1, 0));
    mesh = Mesh::default();
    for (i, (text, expected)) in steps.iter().enumerate() {
        mesh = next(&mesh, text);
        assert_eq!((mesh.generation, mesh.policy), (i as u64 + 1, *expected), "step {}", i + 1);
    }
}

#[test]
fn equal_objects_give_equal_meshes() {
    let text = pod("a", "10.0.0.1", "") + &service("a", "10.96.0.1");
    assert!(same(&mesh(&text).unwrap(), &mesh(&(text.clone() + "# a comment")).unwrap()));
    assert!(!same(&mesh(&text).unwrap(), &mesh(&service("a", "10.96.0.1")).unwrap()));
}

/// What a cluster's objects mean after those before.
fn of_cluster(manifests: &str, previous: &Mesh) -> (Mesh, usize) {
    let objects = parse("x.yaml", manifests.as_bytes()).unwrap();
    let (mesh, errors) =
        build_apart(&objects, &Settings::default(), previous, &mut CompiledServices::default());
    (mesh, errors.len())
}

fn with_uid(pod: &str, more: &str) -> String {
    pod.replace("namespace: shop", &format!("namespace: shop, uid: one{more}"))
}

// proves: SEC-3
#[test]
fn a_namespace_that_vanishes_or_is_not_heard_of_releases_no_pod() {
    let namespace = |labels: &str| {
        format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{{labels}}}}}}}\n")
    };
    let (on, off) = (namespace("pillion.dev/capture: enabled"), namespace(""));
    let web = with_uid(&pod("web", "10.0.0.1", ""), "");
    let name = PodName { namespace: "shop".into(), name: "web".into() };
    let is_captured = |mesh: &Mesh| mesh.workloads[&name].captured;

    let (before, _) = of_cluster(&(on.clone() + &web), &Mesh::default());
    let (vanished, _) = of_cluster(&web, &before);
    assert!(is_captured(&vanished) && vanished.may_capture("shop"));
    let (later, _) = of_cluster(&web, &vanished);
    assert!(is_captured(&later), "it stays so, however many generations pass");
    let (released, _) = of_cluster(&(off.clone() + &web), &later);
    assert!(!is_captured(&released), "its object says so");
    let (ended, _) = of_cluster("", &later);
    assert!(ended.captured_namespaces.is_empty(), "it has no pods any more");

    let (unheard, _) = of_cluster(&web, &Mesh::default());
    assert!(is_captured(&unheard) && unheard.may_capture("shop"), "nobody has said that it is not");
    let own = with_uid(&pod("web", "10.0.0.1", ""), ", labels: {pillion.dev/capture: disabled}");
    assert!(!is_captured(&of_cluster(&own, &Mesh::default()).0), "its own label says so");

    let (plain, _) = of_cluster(&(off + &web), &Mesh::default());
    let (vanished, _) = of_cluster(&web, &plain);
    assert!(!is_captured(&vanished) && !vanished.may_capture("shop"), "it stays what it was");
    // A pod that was in the mesh by its own label stays, too, when both are gone.
    let labelled = with_uid(&pod("web", "10.0.0.1", ""), ", labels: {pillion.dev/capture: enabled}");
    let (before, _) = of_cluster(&(namespace("") + &labelled), &Mesh::default());
    assert!(is_captured(&of_cluster(&web, &before).0));
}

// proves: SEC-3
#[test]
fn a_directorys_namespace_whose_file_is_gone_releases_no_pod() {
    let namespace = "---\n{apiVersion: v1, kind: Namespace, \
                     metadata: {name: shop, labels: {pillion.dev/capture: enabled}}}\n";
    let build = |text: &str, previous: &Mesh| {
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        build(&objects, &Settings::default(), previous).unwrap()
    };
    let web = pod("web", "10.0.0.1", "");
    let is_captured = |mesh: &Mesh| mesh.by_address[&"10.0.0.1".parse().unwrap()].captured;
    assert!(!is_captured(&build(&web, &Mesh::default())), "a directory need not have Namespaces");
    let before = build(&(web.clone() + namespace), &Mesh::default());
    assert!(is_captured(&build(&web, &build(&web, &before))));
}

// proves: SEC-3
#[test]
fn no_other_pods_status_takes_a_captured_pods_address() {
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let of = |name: &str, capture: &str, more: &str| {
        let labels =
            format!("namespace: shop, uid: {name}, labels: {{pillion.dev/capture: {capture}}}{more}");
        pod(name, "10.0.0.1", "").replace("namespace: shop", &labels)
    };
    let at = |day: u8| format!(", creationTimestamp: '2026-01-0{day}T00:00:00Z'");
    let ends = ", deletionTimestamp: '2026-01-05T00:00:00Z'";
    let owner = |mesh: &Mesh| mesh.by_address[&address].name.name.clone();
    for (victim, other) in [
        // Newer; older, beside one that ends.
        (of("victim", "enabled", &at(1)), of("a-other", "disabled", &at(2))),
        (of("victim", "enabled", ends), of("other", "disabled", &at(2))),
    ] {
        let (mesh, errors) = of_cluster(&(victim.clone() + &other), &Mesh::default());
        assert_eq!((owner(&mesh).as_str(), errors), ("victim", 1));
        assert!(mesh.disputed.contains(&address));
        assert!(mesh.workloads.values().filter(|pod| pod.addresses.contains(&address)).count() == 1);
    }
    // Another captured pod does not take it from the one that has it, and nothing is plain as long as both claim it.
    let (victim, other) = (of("victim", "enabled", &at(1)), of("other", "enabled", &at(2)));
    let (before, _) = of_cluster(&victim, &Mesh::default());
    let (mesh, errors) = of_cluster(&(victim.clone() + &other), &before);
    assert_eq!((owner(&mesh).as_str(), errors), ("victim", 1));
    let (after, errors) = of_cluster(&other, &mesh);
    assert_eq!((owner(&after).as_str(), errors, after.disputed.len()), ("other", 0, 0));
}

// proves: SEC-3
#[test]
fn no_pods_status_takes_a_services_address() {
    let web = service("web", "10.96.0.1");
    for labels in ["", "labels: {pillion.dev/capture: enabled}, "] {
        let other = pod("other", "10.96.0.1", "").replace("namespace", &format!("{labels}namespace"));
        let (mesh, errors) = of_cluster(&(web.clone() + &other), &Mesh::default());
        let address = "10.96.0.1".parse().unwrap();
        assert_eq!((mesh.services.contains_key(&address), errors), (true, 1));
        assert!(!mesh.by_address.contains_key(&address));
    }
}
