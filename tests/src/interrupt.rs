//! Ctrl-C: a bed is removed also when its owner is asked to end, and an installation is left in order.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::{ending, requirements, sweep};

/// Somebody waits for the signal, and will clean up.
static AWAITED: AtomicBool = AtomicBool::new(false);
static CAME: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
/// What is done before the beds are removed.
static LAST: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// From now on SIGINT, SIGTERM and SIGHUP remove this process's beds and end it, with the shell's exit status
/// (128 + signal). Call it first in `main`: threads inherit the mask.
pub fn clean_up_on_signals() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            if AWAITED.swap(false, Ordering::SeqCst) {
                *CAME.0.lock().expect("no holder panics") = true;
                CAME.1.notify_all();
                continue;
            }
            eprintln!("\n{signal}: removing the test bed");
            ending::begin();
            if let Some(last) = LAST.lock().expect("no holder panics").take() {
                last();
            }
            requirements::allow_services();
            if let Err(error) = remove_beds() {
                eprintln!("{error:#}");
            }
            process::exit(128 + signal as i32);
        }
    })?;
    Ok(())
}

/// Does this when a signal comes, before the beds are removed: a task saves what it has found so far.
pub fn before_the_end(last: impl FnOnce() + Send + 'static) {
    *LAST.lock().expect("no holder panics") = Some(Box::new(last));
}

/// What was being made when the signal came may be finished behind the first look's back, or be in its way: looks
/// again until nothing is left.
fn remove_beds() -> Result<()> {
    const LOOKS: usize = 20;
    for _ in 1..LOOKS {
        if sweep::remove_own().is_ok_and(|removed| removed.is_empty()) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    sweep::remove_own().map(drop)
}

/// Waits for one of those signals and lets the caller go on: the bed is kept until then.
pub fn wait() {
    AWAITED.store(true, Ordering::SeqCst);
    let came = CAME.0.lock().expect("no holder panics");
    drop(CAME.1.wait_while(came, |came| !*came));
}
