//! What the chart makes is what an API server takes, whatever the values.

use crate::Standing;

#[test]
fn an_api_server_takes_what_each_set_of_values_makes() {
    let Standing { api, chart, bed: _bed } = Standing::new("deploy-objects").unwrap();
    for values in [
        &[][..],
        &["nri.enabled=false", "agent.accessLog=true", "agent.direct=off", "image.pullSecrets={pull}"],
        &["startupTaint.enabled=true", "startupTaint.key=example.org/wait"],
        &[
            "ca.replicas=3",
            "ca.podDisruptionBudget.enabled=true",
            "ca.networkPolicy.enabled=true",
            "ca.secretIsGiven=true",
        ],
        &["ca.enabled=false", "ca.address=istiod.istio-system.svc:15012", "uninstall.enabled=false"],
        &[
            "mesh.trustDomainAliases={old.example,older.example}",
            "hostPaths.netns={/var/run/netns,/run/netns}",
            "agent.extraArgs={--metrics-idle=30m}",
            "agent.extraEnv[0].name=PILLION_BPF_LOG",
            "agent.extraEnv[0].value=\"true\"",
            "agent.updateStrategy.maxSurge=0",
            "agent.updateStrategy.maxUnavailable=10%",
        ],
    ] {
        let objects = chart.template(values).unwrap();
        let dry = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
        let said = api.kubectl(&dry, &objects).unwrap_or_else(|error| panic!("{values:?}: {error:#}"));
        assert!(said.contains("daemonset.apps/pillion created"), "{values:?}: {said}");
    }
}
