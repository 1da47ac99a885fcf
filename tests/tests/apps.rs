//! The applications of the bed work in plain: what fails with an agent is then the agent's.

use std::net::IpAddr;

use pillion_tests::{Bed, Pod, apps, requirements};

fn two_pods(name: &str) -> (Bed, Pod, Pod) {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new(name).unwrap();
    let client = bed.node("n1").unwrap().pod("client").create().unwrap();
    let server = bed.node("n2").unwrap().pod("server").create().unwrap();
    (bed, client, server)
}

#[test]
fn redis_answers() {
    let (_bed, client, server) = two_pods("redis");
    apps::redis(&server, 6379).unwrap();
    for host in [server.ip4().to_string(), server.ip6().to_string()] {
        let answer = client.command("redis-cli").args(["-h", &host, "SET", "key", "value"]).run().unwrap();
        assert_eq!(answer, "OK\n");
    }
}

#[test]
fn postgres_copies_both_ways() {
    let (_bed, client, server) = two_pods("postgres");
    let postgres = apps::postgres(&server, 5432).unwrap();
    let rows: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    for host in [server.ip4().to_string(), server.ip6().to_string()] {
        let sql = ["-c", "DROP TABLE IF EXISTS t", "-c", "CREATE TABLE t (n int)", "-c", "COPY t FROM STDIN"];
        postgres.psql(&client, &host).args(sql).input(rows.as_bytes()).run().unwrap();
        assert_eq!(postgres.psql(&client, &host).args(["-c", "COPY t TO STDOUT"]).run().unwrap(), rows);
    }
}

#[test]
fn dropbear_speaks_first_and_runs_commands() {
    let (_bed, client, server) = two_pods("dropbear");
    let dropbear = apps::dropbear(&server, 22).unwrap();
    for host in [IpAddr::from(server.ip4()), server.ip6().into()] {
        assert_eq!(dropbear.ssh(&client, host, "cat").input("through ssh").run().unwrap(), "through ssh");
    }
}

#[test]
fn iperf3_measures() {
    let (_bed, client, server) = two_pods("iperf3");
    apps::iperf3(&server, 5201).unwrap();
    let host = server.ip6().to_string();
    let report = client.command("iperf3").args(["-c", &host, "-n", "64M", "-J"]).run().unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["end"]["sum_sent"]["bytes"].as_u64().unwrap() >= 64 << 20);
}

#[test]
fn echo_sends_back_and_says_whom_it_saw() {
    let (_bed, client, server) = two_pods("echo");
    let echo = apps::echo(&server, 7).unwrap();
    let script = "import socket,sys; s=socket.create_connection((sys.argv[1],7)); print(s.getsockname()[1]); \
                  s.sendall(b'x'*100000); s.shutdown(1); print(len(s.makefile().read()))";
    let said = apps::python(&client, script, [server.ip4().to_string()]).run().unwrap();
    let (port, length) = said.trim().split_once('\n').unwrap();
    assert_eq!(length, "100000");
    assert_eq!(echo.log().trim(), format!("{}:{port} {}:7", client.ip4(), server.ip4()));
}
