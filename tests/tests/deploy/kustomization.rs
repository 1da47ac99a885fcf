//! `deploy/kustomize` is made of the chart, and kubectl can read it.

use std::fs;
use std::process::Command;

use pillion_tests::cluster::Programs;

use crate::chart;

#[test]
fn the_kustomization_is_what_helm_makes_of_the_chart() {
    for file in chart().unwrap().kustomization().unwrap() {
        let there = fs::read_to_string(&file.path).unwrap_or_default();
        let path = file.path.display();
        assert_eq!(there, file.text, "{path} is not what the chart says: run `cargo xtask kustomize`");
    }
}

#[test]
fn kubectl_builds_each_of_them() {
    let kubectl = Programs::build().unwrap().path("kubectl").unwrap();
    let dir = chart().unwrap().kustomize();
    for (which, parts) in [
        (
            "base",
            &["kind: DaemonSet", "kind: Namespace", "pod-security.kubernetes.io/enforce: privileged"][..],
        ),
        (
            "crds",
            &["name: authorizationpolicies.security.istio.io", "name: peerauthentications.security.istio.io"],
        ),
        (
            "overlays/startup-taint",
            &["--startup-taint=pillion.dev/agent-not-ready", "kind: ValidatingAdmissionPolicyBinding"],
        ),
        ("overlays/access-log", &["--access-log", "image: registry.example/pillion:0.1.0"]),
    ] {
        let built = Command::new(&kubectl).arg("kustomize").arg(dir.join(which)).output().unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&built.stdout), String::from_utf8_lossy(&built.stderr));
        assert!(built.status.success(), "{which}: {wrong}");
        for part in parts {
            assert!(said.contains(part), "{which} lacks {part}: {said}");
        }
    }
}
