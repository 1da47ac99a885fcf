//! A node whose clock is wrong by ten minutes.
//!
//! A time namespace does not shift CLOCK_REALTIME, and the machine's clock is everybody's. So the agent is started with a
//! library before the C library that adds to CLOCK_REALTIME what a file says; the file may change while the agent runs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use pillion_tests::{AgentOptions, Bed, wait};

use crate::day::Day;

const MINUTES_10: i64 = 600;
const DAY: i64 = 24 * 3600;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *shift;

__attribute__((constructor)) static void open_shift(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY | O_CLOEXEC);
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    shift = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
    return result;
}
"#;

/// The near agent's clock.
struct Clock {
    shift: File,
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    fn new(bed: &Bed) -> Result<Self> {
        let (source, library) = (bed.dir().join("clock.c"), bed.dir().join("clock.so"));
        fs::write(&source, LIBRARY)?;
        let cc =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let cc = cc.context("cannot run cc, which Rust's linker needs as well")?;
        ensure!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        let file = bed.dir().join("clock-shift");
        fs::write(&file, 0_i64.to_ne_bytes())?;
        Ok(Self { shift: OpenOptions::new().write(true).open(&file)?, library, file })
    }

    fn options(&self) -> AgentOptions {
        let env = |path: &PathBuf| path.display().to_string();
        AgentOptions::default().env("LD_PRELOAD", &env(&self.library)).env("CLOCK_SHIFT", &env(&self.file))
    }

    /// How many seconds it is ahead.
    fn set(&self, seconds: i64) -> Result<()> {
        Ok(self.shift.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

// proves: SEC-3
#[test]
fn a_clock_that_is_wrong_by_ten_minutes_makes_nobody_plain() {
    let cell = OnceLock::new();
    let mut day = Day::with("clock ± 10 minutes", |bed| {
        let clock = Clock::new(bed)?;
        // The mesh's root is older than a day, as it is where clocks go wrong.
        clock.set(-DAY)?;
        let first = bed.node("n1")?.start_agent(&clock.options())?;
        first.stop()?;
        clock.set(0)?;
        let options = clock.options();
        let _ = cell.set(clock);
        Ok(options)
    })
    .unwrap();
    let clock = cell.get().expect("set above");
    let mut healed: f64 = 0.0;
    for shift in [MINUTES_10, -MINUTES_10] {
        // While the agent runs: its pods' certificates were made under the right clock.
        let turned = wait::now();
        clock.set(shift).unwrap();
        day.audit();
        day.endure().unwrap();
        println!("clock {shift:+} s | certificates of before | {}", day.outcomes(turned));
        // Certificates that are made under the wrong one.
        day.near.kill().unwrap();
        day.near.begin_restart().unwrap();
        day.wait_up_or_ended().unwrap();
        let restarted = wait::now();
        day.endure().unwrap();
        println!("clock {shift:+} s | certificates made under it | {}", day.outcomes(restarted));
        // They end with the agent, which a kubelet would not do for the clock alone.
        day.near.kill().unwrap();
        let mended = wait::now();
        clock.set(0).unwrap();
        day.near.begin_restart().unwrap();
        healed = healed.max(day.wait_well(mended).unwrap());
    }
    day.end(healed).unwrap();
}
