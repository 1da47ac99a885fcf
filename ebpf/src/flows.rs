//! Direct connections: who opened them, and what became of them.

use crate::{
    context::Ends,
    usage::{self, BPF_NOEXIST, EEXIST, MINUS_ONE, PodUsage},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_ktime_get_ns,
    macros::{classifier, map},
    maps::{HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use core::ptr;
use pillion_ebpf_common::{Address, Event, Flow, FlowEnd, FlowKey, table};

/// Open connections on the direct path, and those of pods with themselves, each with the namespace that it came from. An
/// entry attests as long as the client's socket lives, and leads packets as long as the other's does. It counts for the
/// client, and once the client's socket is gone for the server, which keeps it. Where the table, or
/// the client's share of it, is full, the connection is refused: on the direct path by the client's veth, within a pod by
/// the pod's guard. 1048576 is 32 pods that use up their quota.
#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(1_048_576, BPF_F_NO_PREALLOC);

/// 4 MiB hold 32,000 events: of 10,000 connections a second, the last 0.8 s.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// How many events found no room.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Not linux/bpf.h's name: aya's bindings leave it out. The agent comes round by itself, so that no connection pays for
/// waking it.
pub const NO_WAKEUP: u64 = 1;

/// What is attested of a connection beside its client.
pub struct Attestation {
    /// The netns cookie of the server.
    pub server: u64,
    /// The veths of client and server; 0 and 0 where it stays within its pod.
    pub devices: [u32; 2],
}

/// Attests that the connection comes from this namespace, and notes which way its packets go. False when there is no room
/// for it: then nothing attests the connection, and it is refused.
#[inline(always)]
pub fn attest(ends: &Ends, client: u64, attestation: &Attestation) -> bool {
    let is_written = usage::of(client)
        .is_some_and(|usage| usage.flows().has_room() && insert(ends, client, attestation, &usage));
    if !is_written {
        usage::count_failed(table::FLOWS);
    }
    is_written
}

#[inline(always)]
fn insert(ends: &Ends, client: u64, attestation: &Attestation, usage: &PodUsage) -> bool {
    let (key, client_is_low) = FlowKey::new(ends.local(), ends.remote());
    let [own, other] = attestation.devices;
    let (low_device, high_device) = if client_is_low { (own, other) } else { (other, own) };
    let flow = Flow {
        client,
        server: attestation.server,
        // SAFETY: a helper without arguments.
        opened: unsafe { bpf_ktime_get_ns() },
        open: 1,
        low_device,
        high_device,
        client_received: 0,
        server_received: 0,
        client_is_low: u32::from(client_is_low),
        client_closed: 0,
        server_open: 0,
        zero: 0,
    };
    match FLOWS.insert(key, flow, BPF_NOEXIST) {
        Ok(()) => {}
        // An earlier connection of the same addresses: its server has not ended yet, or its client's pod is dead.
        Err(EEXIST) => {
            let Some(former) = FLOWS.get_ptr(key) else { return false };
            // SAFETY: the entry.
            let charged = unsafe { charged(former) };
            remove(&key, charged);
            if FLOWS.insert(key, flow, BPF_NOEXIST).is_err() {
                return false;
            }
        }
        Err(_) => return false,
    }
    usage.flows().add();
    true
}

/// Removes an entry, and takes it off the share that it counts for. Of two that do so at once, one does.
#[inline(always)]
fn remove(key: &FlowKey, charged: u64) {
    if FLOWS.remove(key).is_ok()
        && let Some(usage) = usage::of(charged)
    {
        usage.flows().subtract();
    }
}

/// The pod that an entry counts for: the client's, as long as its socket is there.
///
/// # Safety
/// `flow` is an entry.
#[inline(always)]
unsafe fn charged(flow: *const Flow) -> u64 {
    // SAFETY: the caller's promise; the mark is changed once.
    unsafe {
        match ptr::read_volatile(&raw const (*flow).client_closed) {
            0 => (*flow).client,
            _ => (*flow).server,
        }
    }
}

/// The client's socket is gone: from now on the entry counts for the server. Before `open` is changed, so that whoever removes
/// the entry knows.
///
/// # Safety
/// As [`charged`]; once for an entry.
#[inline(always)]
unsafe fn charge_server(flow: *mut Flow) {
    // SAFETY: the caller's promise.
    let (client, server) = unsafe { ((*flow).client, (*flow).server) };
    if let Some(usage) = usage::of(server) {
        usage.flows().add();
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut (*flow).client_closed, 1) };
    if let Some(usage) = usage::of(client) {
        usage.flows().subtract();
    }
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

/// A socket of this namespace has accepted the connection: who opened it, if it is a direct one, and to this namespace.
/// From now on the entry waits for the server's end, too.
#[inline(always)]
pub fn accept(ends: &Ends, netns: u64) -> Option<u64> {
    let (key, local_is_low) = FlowKey::new(ends.local(), ends.remote());
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the entry; the mark is the server's, and `open` is changed atomically.
    unsafe {
        if !is_server(&*flow, local_is_low, netns) || (*flow).server_open != 0 {
            return None;
        }
        ptr::write_volatile(&raw mut (*flow).server_open, 1);
        usage::add(&raw mut (*flow).open, 1);
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
        } else if is_server(&*flow, local_is_low, netns) {
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
    // SAFETY: the entry, which stays readable while the program runs.
    unsafe {
        if is_client(&*flow, local_is_low, netns) {
            end(&key, flow, true)
        } else if is_server(&*flow, local_is_low, netns) {
            end(&key, flow, false)
        } else {
            None
        }
    }
}

/// Ends one end of an entry, and removes the entry where it was the last. `None` where that end was not open: a socket of
/// an earlier connection of the same addresses takes nothing from this one.
///
/// # Safety
/// `flow` is the entry of `key`.
#[inline(always)]
unsafe fn end(key: &FlowKey, flow: *mut Flow, is_client: bool) -> Option<End> {
    // SAFETY: each end writes its own mark, and `open` is changed atomically.
    unsafe {
        let received = if is_client {
            if (*flow).client_closed != 0 {
                return None;
            }
            charge_server(flow);
            (*flow).client_received
        } else {
            if (*flow).server_open == 0 {
                return None;
            }
            ptr::write_volatile(&raw mut (*flow).server_open, 0);
            (*flow).server_received
        };
        usage::add(&raw mut (*flow).open, MINUS_ONE);
        if ptr::read_volatile(&raw const (*flow).open) == 0 {
            remove(key, charged(flow));
        }
        Some(End { is_client, received })
    }
}

/// Run by the agent, for an end that it has found no socket behind: what the socket's own callback would have done. The
/// kernel may have lost the callback, or another project's program may have switched it off.
#[classifier]
pub fn end_flow(ctx: TcContext) -> i32 {
    const ETHERNET_HEADER: usize = 14;
    let Ok(asked) = ctx.load::<FlowEnd>(ETHERNET_HEADER) else { return NOT_FOUND };
    let Some(flow) = FLOWS.get_ptr_mut(asked.key) else { return NOT_FOUND };
    // SAFETY: the entry, which stays readable while the program runs.
    unsafe {
        if (*flow).opened != asked.opened {
            return NOT_FOUND;
        }
        match end(&asked.key, flow, asked.is_client != 0) {
            Some(_) => ENDED,
            None => NOT_FOUND,
        }
    }
}

/// What [`end_flow`] answers.
const NOT_FOUND: i32 = 0;
const ENDED: i32 = 1;

/// Whether the local end is the client's: another pod may have the same addresses by now, and a connection of its own.
#[inline(always)]
fn is_client(flow: &Flow, local_is_low: bool, netns: u64) -> bool {
    flow.client_is_low == u32::from(local_is_low) && flow.client == netns
}

/// Whether the local end is the server's: a pod may make connections under any addresses within itself.
#[inline(always)]
fn is_server(flow: &Flow, local_is_low: bool, netns: u64) -> bool {
    flow.client_is_low != u32::from(local_is_low) && flow.server == netns
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
