//! The whole path: hook, worker, HBONE, worker, app.

use pillion_tests::{AgentOptions, Bed, apps, requirements};

#[test]
fn two_pods_on_two_nodes_talk_over_mutual_tls() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("mesh").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let client = n1.pod("client").captured().create().unwrap();
    let web = n2.pod("web").captured().create().unwrap();
    apps::nginx(&web, 80).unwrap();
    let a1 = n1.start_agent(&AgentOptions::default()).unwrap();
    let a2 = n2.start_agent(&AgentOptions::default()).unwrap();
    a1.wait_serving(&client).unwrap();
    a2.wait_serving(&web).unwrap();
    for host in [web.ip4().to_string(), format!("[{}]", web.ip6())] {
        let said = client.command("curl").args(["-s", "-m5", &format!("http://{host}/hello")]).run();
        eprintln!("{}\n{}", a1.log(), a2.log());
        assert_eq!(said.unwrap(), "hello\n");
    }
    eprintln!("{:#}", a1.config_dump().unwrap());
}
