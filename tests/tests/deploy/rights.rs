//! Each account may do what its program does, and no more.

use pillion_tests::ApiServer;
use pillion_tests::chart::NAMESPACE;

use crate::Standing;

/// Whether the account of that name may: `verb what [namespace]`; without a namespace in all of them.
fn may(api: &ApiServer, account: &str, asked: &str) -> bool {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
    let words: Vec<&str> = asked.split(' ').collect();
    let (what, subresource) = match words[1].rsplit_once("//") {
        Some((what, subresource)) => (what, format!("--subresource={subresource}")),
        None => (words[1], "--subresource=".to_owned()),
    };
    let place = words.get(2).map_or("--all-namespaces".to_owned(), |name| format!("--namespace={name}"));
    // It ends with 1 for "no".
    match api.kubectl(&["auth", "can-i", words[0], what, &subresource, &place, &account], "") {
        Ok(said) => said.trim() == "yes",
        Err(error) => {
            assert!(error.to_string().trim_end().ends_with("no"), "{asked}: {error:#}");
            false
        }
    }
}

#[test]
fn accounts_may_do_what_they_need_and_nothing_near_it() {
    let Standing { api, chart: _, bed: _bed } = Standing::installed("deploy-rights", &[]).unwrap();
    for (account, allowed, denied) in [
        (
            "pillion",
            &[
                "list pods",
                "watch namespaces",
                "watch services",
                "list endpointslices.discovery.k8s.io",
                "watch networkpolicies.networking.k8s.io",
                "watch peerauthentications.security.istio.io",
                "list authorizationpolicies.security.istio.io",
                "patch authorizationpolicies.security.istio.io//status",
                "patch peerauthentications.security.istio.io//status",
                "create events.events.k8s.io",
                "watch configmaps/pillion-ca-root-cert pillion-system",
                "get daemonsets.apps/pillion pillion-system",
            ][..],
            &[
                "get pods",
                "update pods",
                "list secrets",
                "get secrets/pillion-ca pillion-system",
                "get configmaps/other pillion-system",
                "list configmaps pillion-system",
                "update configmaps/pillion-ca-root-cert pillion-system",
                "patch authorizationpolicies.security.istio.io",
                "delete daemonsets.apps/pillion pillion-system",
                "get nodes",
                "patch nodes",
                "create serviceaccounts//token",
                "create pods//exec",
            ][..],
        ),
        (
            "pillion-ca",
            &[
                "create tokenreviews.authentication.k8s.io",
                "list pods",
                "watch pods",
                "create secrets pillion-system",
                "get secrets/pillion-ca pillion-system",
                "watch secrets/pillion-ca pillion-system",
                "update secrets/pillion-ca pillion-system",
                "create configmaps pillion-system",
                "watch configmaps/pillion-ca-root-cert pillion-system",
                "update configmaps/pillion-ca-root-cert pillion-system",
            ],
            &[
                "get secrets/other pillion-system",
                "list secrets pillion-system",
                "get secrets/pillion-ca default",
                "create secrets default",
                "update configmaps/other pillion-system",
                "delete secrets/pillion-ca pillion-system",
                "get nodes",
                "create serviceaccounts//token",
            ],
        ),
    ] {
        for asked in allowed {
            assert!(may(&api, account, asked), "{account} may not {asked}");
        }
        for asked in denied {
            assert!(!may(&api, account, asked), "{account} may {asked}");
        }
    }
}

#[test]
fn who_uninstalls_may_delete_the_agents_and_nothing_else() {
    let Standing { api, chart, bed: _bed } = Standing::new("deploy-uninstall").unwrap();
    api.kubectl(&["apply", "--filename=-"], &chart.template(&[]).unwrap()).unwrap();
    for asked in ["get", "delete"] {
        let asked = format!("{asked} daemonsets.apps/pillion pillion-system");
        assert!(may(&api, "pillion-uninstall", &asked), "{asked}");
    }
    for asked in [
        "delete daemonsets.apps/other pillion-system",
        "delete daemonsets.apps/pillion default",
        "list pods pillion-system",
        "delete pods pillion-system",
        "patch daemonsets.apps/pillion pillion-system",
    ] {
        assert!(!may(&api, "pillion-uninstall", asked), "{asked}");
    }
}
