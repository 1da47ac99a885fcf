//! Bulk, with the tool that everybody measures it with. Nothing is judged by its speed here.

use pillion_tests::{Pair, apps};

// proves: TCP-2, TEL-1
#[test]
fn iperf3_runs_both_ways_with_many_streams_and_the_metrics_agree() {
    let pair = Pair::new("iperf3").unwrap();
    apps::iperf3(&pair.server, 5201).unwrap();
    // What the receiver had read when the test ended, and what the sender had written: the rest was under way.
    let mut total = [(0.0, 0.0); 2];
    for host in [pair.server.ip4().to_string(), pair.server.ip6().to_string()] {
        for direction in [&[][..], &["-R"]] {
            let said = pair
                .client
                .command("iperf3")
                .args(["-J", "-c", &host, "-P", "8", "-n", "400M"])
                .args(direction)
                .run()
                .unwrap();
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            let bytes = |sum: &str| said["end"][sum]["bytes"].as_f64().unwrap();
            let total = &mut total[direction.len()];
            (total.0, total.1) = (total.0 + bytes("sum_received"), total.1 + bytes("sum_sent"));
        }
    }
    let counted = |agent: &pillion_tests::Agent, name: &str| agent.metrics().unwrap().sum(name, &[]);
    for agent in [&pair.near, &pair.far] {
        // iperf3's own control connections come on top: a few KB each.
        for (name, (read, written)) in
            [("istio_tcp_received_bytes_total", total[0]), ("istio_tcp_sent_bytes_total", total[1])]
        {
            let counted = counted(agent, name);
            let fits = counted >= read && counted < written + 1e6;
            assert!(read > 500e6 && fits, "{name}: {counted}, iperf3 says {read} to {written}");
        }
    }
}
