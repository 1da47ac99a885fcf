//! How much of the shared tables each pod uses, and how often a program could not write to a table. One pod alone never
//! fills a table for the others, and nothing that fails goes uncounted.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use core::ptr;
use pillion_ebpf_common::{Usage, quota, table};

/// Each captured pod's use, by netns cookie; the agent makes the entries.
#[map]
static USAGE: HashMap<u64, Usage> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// How many inserts have failed, by the table's number.
#[map]
static INSERTS_FAILED: PerCpuArray<u64> = PerCpuArray::with_max_entries(table::NAMES.len() as u32, 0);

/// linux/bpf.h: the insert fails where there is an entry.
pub const BPF_NOEXIST: u64 = 1;
pub const EEXIST: i32 = -17;

/// A pod's entry in `USAGE`.
pub struct PodUsage(*mut Usage);

/// `None` for a namespace that the agent has not captured: it gets nothing in the shared tables.
#[inline(always)]
pub fn of(netns: u64) -> Option<PodUsage> {
    USAGE.get_ptr_mut(netns).map(PodUsage)
}

/// What a pod uses of one table, and the most that it may.
pub struct Share {
    used: *mut u64,
    quota: u64,
}

impl PodUsage {
    #[inline(always)]
    pub fn handoff(&self) -> Share {
        // SAFETY: the entry; the address of one word of it.
        Share { used: unsafe { &raw mut (*self.0).handoff }, quota: quota::HANDOFF }
    }

    #[inline(always)]
    pub fn flows(&self) -> Share {
        // SAFETY: as above.
        Share { used: unsafe { &raw mut (*self.0).flows }, quota: quota::FLOWS }
    }

    #[inline(always)]
    pub fn node_flows(&self) -> Share {
        // SAFETY: as above.
        Share { used: unsafe { &raw mut (*self.0).node_flows }, quota: quota::NODE_FLOWS }
    }
}

impl Share {
    /// Two programs at once may both find the last place: the quota is exceeded by as many as there are CPUs, at most.
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        // SAFETY: a word of the entry, which others change atomically.
        is_below(unsafe { ptr::read_volatile(self.used) }, self.quota)
    }

    #[inline(always)]
    pub fn add(&self) {
        // SAFETY: as above.
        unsafe { add(self.used, 1) }
    }

    #[inline(always)]
    pub fn subtract(&self) {
        // SAFETY: as above.
        unsafe { add(self.used, MINUS_ONE) }
    }
}

/// Signed: an entry that is older than its pod's `USAGE` (which was lost, and made anew) takes it below zero.
#[inline(always)]
fn is_below(used: u64, quota: u64) -> bool {
    (used as i64) < quota as i64
}

pub const MINUS_ONE: u64 = u64::MAX;

/// Adds to a word of a map's value, atomically. BPF_XADD: every kernel has it, and it gives no answer. Rust has no atomic
/// addition for a target without compare-and-exchange.
///
/// # Safety
/// `word` is a word of a map's value, at a multiple of 8 bytes, which nobody writes but by this function.
#[inline(always)]
pub unsafe fn add(word: *mut u64, difference: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one aligned atomic addition, which the verifier checks.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) += {difference}",
            word = in(reg) word,
            difference = in(reg) difference,
            options(nostack, preserves_flags)
        );
    }
    // So that clippy and rustdoc see the crate on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        *word = (*word).wrapping_add(difference);
    }
}

/// Counts an insert that has failed.
#[inline(always)]
pub fn count_failed(table: u32) {
    if let Some(failed) = INSERTS_FAILED.get_ptr_mut(table) {
        // SAFETY: this CPU's own value.
        unsafe { *failed += 1 };
    }
}
