//! Direct connections: who opened them, and what became of them.

use crate::context::Ends;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{HashMap, PerCpuArray, RingBuf},
};
use core::ptr;
use pillion_ebpf_common::{Address, Event, Flow, FlowKey};

/// Open connections on the direct path, each with the namespace that it came from. An entry attests as long as the
/// client's socket lives, and leads packets as long as the other's does. Where the table is full a connection is not attested, and STRICT refuses it.
#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// 4 MiB hold 32,000 events: of 10,000 connections a second, the last 0.8 s.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// How many events found no room.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Not linux/bpf.h's name: aya's bindings leave it out. The agent comes round by itself, so that no connection pays for
/// waking it.
pub const NO_WAKEUP: u64 = 1;

/// Attests that the connection comes from this namespace, and notes which way its packets go: the veths of client and
/// server.
#[inline(always)]
pub fn attest(ends: &Ends, client: u64, devices: [u32; 2]) {
    let (key, client_is_low) = FlowKey::new(ends.local(), ends.remote());
    let [low_device, high_device] = if client_is_low { devices } else { [devices[1], devices[0]] };
    let flow = Flow {
        client,
        low_device,
        high_device,
        client_received: 0,
        server_received: 0,
        client_is_low: u32::from(client_is_low),
        client_closed: 0,
        server_open: 0,
        zero: 0,
    };
    // A failed insert is a connection that nobody vouches for.
    let _ = FLOWS.insert(key, flow, 0);
}

/// Who opens the connection between a client and a server, if it is attested.
#[inline(always)]
pub fn client_of(client: Address, server: Address) -> Option<u64> {
    let (key, client_is_low) = FlowKey::new(client, server);
    // SAFETY: a lookup; the entry is copied.
    let flow = *unsafe { FLOWS.get(key) }?;
    let is_attested = flow.client_is_low == u32::from(client_is_low) && flow.client_closed == 0;
    is_attested.then_some(flow.client)
}

/// The server has accepted the connection: who opened it, if it is a direct one. From now on the entry waits for the
/// server's end, too.
#[inline(always)]
pub fn accept(ends: &Ends) -> Option<u64> {
    let (key, local_is_low) = FlowKey::new(ends.local(), ends.remote());
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the entry; this word is the server's.
    unsafe {
        if (*flow).client_is_low == u32::from(local_is_low) {
            return None;
        }
        (*flow).server_open = 1;
        Some((*flow).client)
    }
}

/// Whether a packet between the two is one of a direct connection, whichever way it goes.
#[inline(always)]
pub fn is_member(source: Address, destination: Address) -> bool {
    let (key, _) = FlowKey::new(source, destination);
    // SAFETY: a lookup; the value is not read.
    unsafe { FLOWS.get(key) }.is_some()
}

/// Which veth a packet goes to that came from this one: the other end's, if it belongs to a direct connection and came
/// from the pod that it claims to come from.
#[inline(always)]
pub fn way_of(source: Address, destination: Address, from: u32) -> Option<u32> {
    let (key, source_is_low) = FlowKey::new(source, destination);
    // SAFETY: a lookup; the entry is copied.
    let flow = *unsafe { FLOWS.get(key) }?;
    let (own, other) = match source_is_low {
        true => (flow.low_device, flow.high_device),
        false => (flow.high_device, flow.low_device),
    };
    (own == from && other != 0).then_some(other)
}

/// One end's direction is over: notes what had come from the other until then.
#[inline(always)]
pub fn note_received(ends: &Ends, netns: u64, received: u32) {
    let (key, local_is_low) = FlowKey::new(ends.local(), ends.remote());
    let Some(flow) = FLOWS.get_ptr_mut(key) else { return };
    // SAFETY: the entry; each end writes its own word of it.
    unsafe {
        if is_client(&*flow, local_is_low, netns) {
            (*flow).client_received = received;
        } else {
            (*flow).server_received = received;
        }
    }
}

/// An end of a connection.
pub struct End {
    pub is_client: bool,
    /// What it had received when its own direction was over.
    pub received: u32,
}

/// An end of a direct connection is gone; which one. The entry goes with the last: the other's packets keep their way,
/// where a firewall on the node's would not know what they belong to.
#[inline(always)]
pub fn close(ends: &Ends, netns: u64) -> Option<End> {
    let (key, local_is_low) = FlowKey::new(ends.local(), ends.remote());
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the entry; each end writes its own word and then looks at the other's, as one word each. (Were both to
    // overlook each other, an entry without any standing would stay until its addresses are used again.)
    unsafe {
        if is_client(&*flow, local_is_low, netns) {
            let received = (*flow).client_received;
            ptr::write_volatile(&raw mut (*flow).client_closed, 1);
            if ptr::read_volatile(&raw const (*flow).server_open) == 0 {
                let _ = FLOWS.remove(key);
            }
            Some(End { is_client: true, received })
        } else {
            let received = (*flow).server_received;
            ptr::write_volatile(&raw mut (*flow).server_open, 0);
            if ptr::read_volatile(&raw const (*flow).client_closed) != 0 {
                let _ = FLOWS.remove(key);
            }
            Some(End { is_client: false, received })
        }
    }
}

/// Whether the local end is the client's: another pod may have the same addresses by now, and a connection of its own.
#[inline(always)]
fn is_client(flow: &Flow, local_is_low: bool, netns: u64) -> bool {
    flow.client_is_low == u32::from(local_is_low) && flow.client == netns
}

/// Tells the agent. `event` comes without its time.
#[inline(always)]
pub fn tell(event: Event) {
    match EVENTS.reserve::<Event>(0) {
        Some(mut room) => {
            // SAFETY: a helper without arguments.
            let time = unsafe { bpf_ktime_get_ns() };
            room.write(Event { time, ..event });
            room.submit(NO_WAKEUP);
        }
        None => {
            if let Some(lost) = LOST.get_ptr_mut(0) {
                // SAFETY: this CPU's own value.
                unsafe { *lost += 1 };
            }
        }
    }
}
