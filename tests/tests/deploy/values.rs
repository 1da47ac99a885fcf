//! What people write into values.

use crate::chart;

#[test]
fn the_chart_lints() {
    let said = chart().unwrap().lint().unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
}

#[test]
fn a_value_that_is_mistyped_or_cannot_be_is_refused_by_its_name() {
    let chart = chart().unwrap();
    for (value, named) in [
        ("agent.acessLog=true", &["/agent", "acessLog"][..]),
        ("nri.enabeld=false", &["/nri", "enabeld"]),
        ("trustDomain=example.org", &["trustDomain"]),
        ("agent.accessLog=on", &["/agent/accessLog"]),
        ("agent.direct=always", &["/agent/direct"]),
        ("agent.drainSeconds=0", &["/agent/drainSeconds"]),
        ("agent.certLifetime=24", &["/agent/certLifetime"]),
        ("agent.capabilities={CAP_BPF}", &["/agent/capabilities/0"]),
        ("nri.passDir=/var/lib/pillion/passes", &["/nri/passDir"]),
        ("agent.updateStrategy.minReadySeconds=10", &["/agent/updateStrategy", "minReadySeconds"]),
        ("ca.replicas=0", &["/ca/replicas"]),
        ("mesh.clusterId=", &["/mesh/clusterId"]),
    ] {
        let said = chart.template(&[value]).map(drop).unwrap_err().to_string();
        assert!(named.iter().all(|name| said.contains(name)), "{value}: {said}");
    }
}

#[test]
fn another_authority_has_to_have_an_address() {
    let chart = chart().unwrap();
    let said = chart.template(&["ca.enabled=false"]).map(drop).unwrap_err().to_string();
    assert!(said.contains("ca.address is needed"), "{said}");

    let address = "istiod.istio-system.svc:15012";
    let objects = chart
        .template(&[
            "ca.enabled=false",
            &format!("ca.address={address}"),
            "ca.configMap=istio-ca-root-cert",
            "mesh.clusterId=east",
        ])
        .unwrap();
    assert!(objects.contains(&format!("--ca-addr={address}")), "{objects}");
    assert!(objects.contains("--ca-config-map=pillion-system/istio-ca-root-cert"), "{objects}");
    assert!(objects.contains("--cluster-id=east"), "{objects}");
    assert!(!objects.contains("name: pillion-ca\n"), "nothing of our own authority: {objects}");
}

#[test]
fn without_nri_the_agent_asks_by_cri() {
    let objects = chart().unwrap().template(&["nri.enabled=false"]).unwrap();
    assert!(objects.contains("--cri-socket=/run/containerd/containerd.sock"), "{objects}");
    assert!(!objects.contains("--nri-"), "{objects}");
    assert!(!objects.contains("/opt/nri"), "{objects}");
}
