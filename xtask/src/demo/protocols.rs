//! TCP-1: protocols other than HTTP; and Service VIPs.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::ensure;

use super::check::{Check, Saw};
use super::clients::fetch;
use super::stage::Stage;

pub const ANY_TCP: Check = Check {
    id: "TCP-1",
    what: "any TCP protocol works, also one in which the server speaks first",
    look: any_tcp,
};

pub const SERVICE: Check =
    Check { id: "VIP", what: "a Service's cluster IP reaches a ready endpoint", look: service };

fn any_tcp(stage: &Stage) -> Saw {
    let (bob, store) = (&stage.bob, &stage.store);
    stage.join(&[bob, store])?;
    let mut lines = Vec::new();
    for (family, host) in [("IPv4", IpAddr::V4(store.ip4())), ("IPv6", store.ip6().into())] {
        let redis =
            |words: &[&str]| bob.command("redis-cli").args(["-h", &host.to_string()]).args(words).run();
        let (set, get) = (redis(&["SET", "key", family])?, redis(&["GET", "key"])?);
        ensure!(set == "OK\n" && get.trim() == family, "Redis said {set:?} and {get:?}");
        let begun = Instant::now();
        let said = stage.ssh.ssh(bob, host, "echo through ssh").run()?;
        let took = begun.elapsed();
        ensure!(said == "through ssh\n", "ssh said {said:?}");
        lines.push(format!(
            "{family}: redis-cli SET OK, GET {}; ssh, where the server greets, ran a command in {:.2} s",
            get.trim(),
            took.as_secs_f64()
        ));
    }
    Ok(lines)
}

fn service(stage: &Stage) -> Saw {
    const REQUESTS: usize = 10;
    let (alice, web, store) = (&stage.alice, &stage.web, &stage.store);
    stage.join(&[alice, web, store])?;
    // Nobody serves HTTP on store: a request that goes there fails.
    store.set_ready(false)?;
    let service = stage.bed.service("shop", 80, 80, &[web, store])?;
    stage.north.wait_config("the Service", |dump| {
        dump["services"].as_array().is_some_and(|all| all.iter().any(|s| s["name"] == "shop"))
    })?;
    let mut lines = Vec::new();
    for (vip, endpoint) in
        [(IpAddr::V4(service.ip4), IpAddr::V4(web.ip4())), (service.ip6.into(), web.ip6().into())]
    {
        for _ in 0..REQUESTS {
            let answer = fetch(alice, vip, "/addresses")?.body;
            ensure!(answer.ends_with(&format!("{endpoint}:80")), "an answer came from {answer}");
        }
        lines.push(format!("{vip}:80 → web at {endpoint}, {REQUESTS} of {REQUESTS} (store is not ready)"));
    }
    store.set_ready(true)?;
    Ok(lines)
}
