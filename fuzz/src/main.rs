//! One program for all fuzz targets (`pillion_agent::fuzz::TARGETS`): `PILLION_FUZZ` names the one to run. The rest of the command
//! line is libFuzzer's.
//!
//! libFuzzer learns which inputs lead somewhere new, if it is built for that (`cargo xtask fuzz`). Otherwise it would forget its
//! corpus: then each input is made of one of the files in the directory that `PILLION_FUZZ_SEEDS` names.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use pillion_agent::fuzz::{TARGETS, Target};
use std::env;
use std::fs;
use std::path::Path;
use std::process::exit;
use std::sync::LazyLock;

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("PILLION_FUZZ").unwrap_or_default();
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, run)) => *run,
        None => {
            let all: Vec<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
            eprintln!("PILLION_FUZZ is to name a target, and is {name:?}: one of {}", all.join(", "));
            exit(2)
        }
    }
});

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| match env::var_os("PILLION_FUZZ_SEEDS") {
    Some(dir) => read(Path::new(&dir)).unwrap_or_else(|e| {
        eprintln!("PILLION_FUZZ_SEEDS {}: {e}", dir.display());
        exit(2)
    }),
    None => vec![],
});

fn read(dir: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    fs::read_dir(dir)?.map(|entry| fs::read(entry?.path())).collect()
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let seed = seed as usize;
    // Every fourth input goes on from the one before.
    let size = match SEEDS.get(seed / 4 % SEEDS.len().max(1)).filter(|_| !seed.is_multiple_of(4)) {
        Some(chosen) => {
            let size = chosen.len().min(max_size);
            data[..size].copy_from_slice(&chosen[..size]);
            size
        }
        None => size,
    };
    fuzzer_mutate(data, size, max_size)
});

fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
