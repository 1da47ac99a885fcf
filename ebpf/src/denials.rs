//! What the guards tell of plain connections that policies do not allow: anybody can send as many SYNs as they like, so
//! that it has a ring buffer of its own, and pushes nothing out of the one that tells of real connections.

use crate::flows::NO_WAKEUP;
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use pillion_ebpf_common::{Address, Denial};

/// 256 KiB hold 4,096 denials: what nobody has read by then is only counted.
#[map]
static DENIALS: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

/// How many denials found no room.
#[map]
static DENIALS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Tells the agent.
#[inline(always)]
pub fn tell(netns: u64, client: Address, server: Address) {
    match DENIALS.reserve::<Denial>(0) {
        Some(mut room) => {
            // SAFETY: a helper without arguments.
            let time = unsafe { bpf_ktime_get_ns() };
            room.write(Denial { time, netns, client, server });
            room.submit(NO_WAKEUP);
        }
        None => {
            if let Some(lost) = DENIALS_LOST.get_ptr_mut(0) {
                // SAFETY: this CPU's own value.
                unsafe { *lost += 1 };
            }
        }
    }
}
