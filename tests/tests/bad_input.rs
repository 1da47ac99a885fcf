//! What people get wrong: one clear sentence each, and an exit status; never a panic.

use std::fs;
use std::time::Duration;

use pillion_tests::{AgentOptions, Bed, Pair, apps};

/// Runs an agent that must not start, and gives what it said.
fn refused(bed: &Bed, options: &AgentOptions) -> String {
    let agent = bed.node("n1").unwrap().agent_command(options).unwrap();
    let output = agent.timeout(Duration::from_secs(20)).output().unwrap();
    assert!(
        output.status.code().is_some_and(|code| code == 1 || code == 2),
        "{:?}: {}",
        output.status,
        output.stderr
    );
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    output.stderr
}

#[track_caller]
fn expect(said: &str, words: &[&str]) {
    let last =
        said.lines().rfind(|line| line.contains("pillion:") || line.contains("error:")).unwrap_or(said);
    assert!(words.iter().all(|word| last.contains(word)), "{words:?} not in: {last}\n{said}");
}

#[test]
fn an_unknown_flag_is_named() {
    let bed = Bed::new("flag").unwrap();
    expect(&refused(&bed, &AgentOptions::default().arg("--frobnicate")), &["--frobnicate"]);
    expect(
        &refused(&bed, &AgentOptions::default().arg("--drain-timeout=soon")),
        &["--drain-timeout", "soon"],
    );
}

#[test]
fn a_cgroup_root_that_is_none_is_named() {
    let bed = Bed::new("cgroup").unwrap();
    let elsewhere = bed.dir().to_owned();
    expect(
        &refused(&bed, &AgentOptions::default().cgroup_root(&elsewhere)),
        &["cgroup", elsewhere.to_str().unwrap()],
    );
}

#[test]
fn a_taken_port_is_named() {
    let bed = Bed::new("port").unwrap();
    let node = bed.node("n1").unwrap();
    let taken = node
        .command("/usr/bin/python3")
        .args(["-m", "http.server", "15020", "--bind", "::"])
        .start()
        .unwrap();
    taken.wait_listening(15020).unwrap();
    expect(&refused(&bed, &AgentOptions::default()), &["15020"]);
}

#[test]
fn a_missing_manifest_directory_is_named() {
    let bed = Bed::new("manifests").unwrap();
    let missing = bed.dir().join("not-here");
    expect(&refused(&bed, &AgentOptions::default().manifests(&missing)), &["not-here"]);
}

#[test]
fn a_broken_authority_is_named_and_left_as_it_is() {
    let bed = Bed::new("ca").unwrap();
    bed.node("n1").unwrap().start_agent(&AgentOptions::default()).unwrap().stop().unwrap();
    let files: Vec<_> = fs::read_dir(bed.ca_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.iter().for_each(|file| fs::write(file, "not a key").unwrap());
    let said = refused(&bed, &AgentOptions::default());
    expect(&said, &[bed.ca_dir().to_str().unwrap()]);
    assert!(files.iter().all(|file| fs::read_to_string(file).unwrap() == "not a key"));
}

#[test]
fn a_pod_without_its_network_namespace_is_named_and_the_others_are_served() {
    let pair = Pair::new("netns").unwrap();
    let lost = pair.near.node().pod("lost").captured().create().unwrap();
    let file = pair.bed.manifest_dir().join("pod-lost.yaml");
    let yaml =
        fs::read_to_string(&file).unwrap().replace(&lost.netns().display().to_string(), "/run/netns/no-such");
    pair.bed.write_manifest("pod-lost.yaml", &yaml).unwrap();
    let failed = |dump: &serde_json::Value| {
        let mut workers = dump["workers"].as_array().unwrap().iter();
        workers.any(|w| {
            w["pod"] == "lost" && w["state"] == "failed" && w["reason"].to_string().contains("no-such")
        })
    };
    pair.near.wait_config("the pod, with the path that is missing", failed).unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let url = format!("http://{}/hello", pair.server.ip4());
    assert_eq!(pair.client.command("curl").args(["-sS", "-m", "5", &url]).run().unwrap(), "hello\n");
}

#[test]
fn a_broken_manifest_is_reported_by_file_document_and_field_and_the_last_good_state_stays() {
    let pair = Pair::new("yaml").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let generation = pair.near.config_dump().unwrap()["generation"].clone();
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: fine}\nspec: {}\n---\n\
                  apiVersion: v1\nkind: Pod\nmetadata: {name: broken}\nspec: {nodeName: [1]}\n";
    pair.bed.write_manifest("zz-broken.yaml", broken).unwrap();
    let reported = |dump: &serde_json::Value| {
        let errors = dump["manifests"]["errors"].as_array().unwrap();
        errors.iter().any(|e| {
            e["file"].to_string().contains("zz-broken.yaml") && e["field"].to_string().contains("nodeName")
        })
    };
    let dump = pair.near.wait_config("the error", reported).unwrap();
    assert_eq!(dump["generation"], generation);
    let url = format!("http://{}/hello", pair.server.ip4());
    assert_eq!(pair.client.command("curl").args(["-sS", "-m", "5", &url]).run().unwrap(), "hello\n");
    assert!(pair.near.metrics().unwrap().sum("pillion_manifest_errors", &[]) >= 1.0);
    pair.bed.remove_manifest("zz-broken.yaml").unwrap();
    let mended = |dump: &serde_json::Value| dump["manifests"]["errors"].as_array().unwrap().is_empty();
    pair.near.wait_config("no error", mended).unwrap();
}

#[test]
fn two_pods_with_one_address_are_reported() {
    let pair = Pair::new("twins").unwrap();
    let yaml = fs::read_to_string(pair.bed.manifest_dir().join("pod-server.yaml")).unwrap();
    let twin = yaml.replace("name: server", "name: twin");
    pair.bed.write_manifest("pod-twin.yaml", &twin).unwrap();
    let ip = pair.server.ip4().to_string();
    let reported = |dump: &serde_json::Value| {
        let errors = dump["manifests"]["errors"].as_array().unwrap();
        errors.iter().any(|error| error["message"].to_string().contains(&ip))
    };
    pair.near.wait_config("the address that two have", reported).unwrap();
}
