//! Owns a bed and waits: the test of what a killed owner leaves kills it.

use pillion_tests::{Bed, apps, requirements};

fn main() -> anyhow::Result<()> {
    requirements::ensure(requirements::APPS)?;
    let bed = Bed::new("owner")?;
    let web = bed.node("n1")?.pod("web").create()?;
    let redis = apps::redis(&web, 6379)?;
    println!("bed: {} {} .", bed.id(), redis.pid());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
