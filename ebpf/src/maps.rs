//! The maps, and the socket-local storage. The agent pins every one of them by its name.

use crate::usage::{self, BPF_NOEXIST, EEXIST};
use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::{bpf_ktime_get_ns, bpf_sk_storage_get},
    macros::{btf_map, map},
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use core::{ffi::c_void, ptr};
use pillion_ebpf_common::{
    ExcludedCidr, HandoffKey, Ip, PodEntry, PodPort, SocketRecord, cidr,
    flags::{DIRECT, HAS_EXCLUDED_CIDRS, HAS_EXCLUDED_PORTS},
    kind::NONE,
    table,
};

/// Captured pods by netns cookie. 4096 is eight times what the largest nodes run.
#[map]
static PODS: HashMap<u64, PodEntry> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Pods that belong to the mesh, by netns cookie. Redundant on purpose: a pod that is in here and not in `PODS` is
/// refused, so that a lost entry never sends traffic out in the clear.
#[map]
static MEMBERS: HashMap<u64, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Since when each pod is a member (CLOCK_MONOTONIC, in nanoseconds), by netns cookie.
#[map]
static SINCE: HashMap<u64, u64> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// 131072 are 128 pods that use up their quota.
#[map]
static EXCLUDED_PORTS: HashMap<PodPort, u8> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// As above; a network that holds all of IPv4 by the way takes two.
#[map]
static EXCLUDED_CIDRS: LpmTrie<ExcludedCidr, u8> = LpmTrie::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Records of connections between their SYN and their accept(): an entry lives for microseconds. One that is never
/// accepted, or whose record the accepted socket had no memory for, lives as long as the client's end.
///
/// No LRU: an evicted entry would be a lost destination, while a full table refuses new connections only: a guard lets
/// nothing in that should have an entry and has none. 262144 is 16 pods that use up their quota.
#[map]
static HANDOFF: HashMap<HandoffKey, SocketRecord> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[btf_map]
static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();

/// What the mesh has to do with a network namespace.
pub enum Membership {
    Captured(PodEntry),
    /// In the mesh, and its entry is missing.
    Refused,
    None,
}

#[inline(always)]
pub fn membership(netns: u64) -> Membership {
    if let Some(pod) = pod(netns) {
        return Membership::Captured(pod);
    }
    // SAFETY: a lookup; the value is not read.
    match unsafe { MEMBERS.get(netns) } {
        // Captured between the two lookups?
        Some(_) => pod(netns).map_or(Membership::Refused, Membership::Captured),
        None => Membership::None,
    }
}

/// Whether the pod has become a member just now: what had passed the connect hook before is on its way to its SYN.
#[inline(always)]
pub fn is_new(netns: u64) -> bool {
    /// A connect() takes microseconds between the two, and longer where another process gets the CPU meanwhile.
    const ON_ITS_WAY: u64 = 20_000_000;
    // SAFETY: a lookup, whose value is copied, and a helper without arguments.
    unsafe { SINCE.get(netns).copied().is_some_and(|since| bpf_ktime_get_ns() < since + ON_ITS_WAY) }
}

/// Whether connections from this namespace are attested: a pod that left the mesh has no standing, whatever it has
/// opened before.
#[inline(always)]
pub fn is_attested(netns: u64) -> bool {
    pod(netns).is_some_and(|pod| pod.flags & DIRECT != 0)
}

/// The captured pod in this namespace.
#[inline(always)]
pub fn pod(netns: u64) -> Option<PodEntry> {
    // SAFETY: a lookup; the entry is copied before the agent could change it under the program.
    unsafe { PODS.get(netns) }.copied()
}

/// Whether the pod keeps that destination out of the mesh.
#[inline(always)]
pub fn is_excluded(netns: u64, pod: &PodEntry, ip: &Ip, port: u32) -> bool {
    if pod.flags & HAS_EXCLUDED_PORTS != 0 {
        // SAFETY: a lookup; the value is not read.
        if unsafe { EXCLUDED_PORTS.get(PodPort { netns, port, zero: 0 }) }.is_some() {
            return true;
        }
    }
    pod.flags & HAS_EXCLUDED_CIDRS != 0
        && EXCLUDED_CIDRS
            .get(Key::new(ExcludedCidr::ALL_BITS, ExcludedCidr { netns, ip: *ip }))
            .is_some_and(|verdict| *verdict == cidr::EXCLUDED)
}

/// Hands a connection's record over to whoever accepts it. False when the table, or the pod's share of it, is full: then
/// the pod's guard refuses the connection.
#[inline(always)]
pub fn hand_off(key: &HandoffKey, record: &SocketRecord) -> bool {
    let is_written = usage::of(key.netns).is_some_and(|usage| {
        if !usage.handoff().has_room() {
            return false;
        }
        match HANDOFF.insert(key, record, BPF_NOEXIST) {
            Ok(()) => {
                usage.handoff().add();
                true
            }
            // An earlier connection of the same addresses has left it. It is counted already.
            Err(EEXIST) => HANDOFF.insert(key, record, 0).is_ok(),
            Err(_) => false,
        }
    });
    if !is_written {
        usage::count_failed(table::HANDOFF);
    }
    is_written
}

/// Not a copy: the stack of a program has 512 bytes.
#[inline(always)]
pub fn handed_off(key: &HandoffKey) -> Option<&'static SocketRecord> {
    // SAFETY: a lookup; the entry outlives the program's run, and only the two ends of its own connection write it.
    unsafe { HANDOFF.get(key) }
}

#[inline(always)]
pub fn is_handed_off(key: &HandoffKey) -> bool {
    // SAFETY: a lookup; the value is not read.
    unsafe { HANDOFF.get(key) }.is_some()
}

#[inline(always)]
pub fn forget_handoff(key: &HandoffKey) {
    // Whoever removes it takes it off the pod's share.
    if HANDOFF.remove(key).is_ok()
        && let Some(usage) = usage::of(key.netns)
    {
        usage.handoff().subtract();
    }
}

/// The record of a socket, if it has one. Not a copy, as above.
///
/// # Safety
/// `socket` comes from a program's context and is not null.
#[inline(always)]
pub unsafe fn record(socket: *mut bpf_sock) -> Option<&'static SocketRecord> {
    // SAFETY: the verifier checks the socket; the storage lives as long as the socket does, which is longer than the program's run.
    unsafe {
        bpf_sk_storage_get(storage(), socket.cast(), ptr::null_mut(), 0).cast::<SocketRecord>().as_ref()
    }
}

/// Makes the record of a socket that has one say nothing.
///
/// # Safety
/// As [`record`].
#[inline(always)]
pub unsafe fn forget_record(socket: *mut bpf_sock) {
    // SAFETY: as in `record`; a word that the programs read one at a time.
    unsafe {
        let stored = bpf_sk_storage_get(storage(), socket.cast(), ptr::null_mut(), 0).cast::<SocketRecord>();
        if !stored.is_null() {
            (*stored).kind = NONE;
        }
    }
}

/// Writes (or overwrites) the record of a socket. False when the kernel had no memory for it.
///
/// # Safety
/// As [`record`].
#[inline(always)]
pub unsafe fn set_record(socket: *mut bpf_sock, record: &SocketRecord) -> bool {
    // SAFETY: the caller's promise.
    unsafe { set_record_as(socket, record, record.kind) }
}

/// The same, of another kind than the record says.
///
/// # Safety
/// As [`record`].
#[inline(always)]
pub unsafe fn set_record_as(socket: *mut bpf_sock, record: &SocketRecord, kind: u32) -> bool {
    let initial = ptr::from_ref(record).cast_mut().cast();
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: as in `record`. The kernel reads `initial` only when it makes the storage. The storage and what it is made from
    // do not overlap (a plain assignment would be a call of memmove).
    unsafe {
        let stored = bpf_sk_storage_get(storage(), socket.cast(), initial, flags).cast::<SocketRecord>();
        if stored.is_null() {
            usage::count_failed(table::SOCKETS);
            return false;
        }
        ptr::copy_nonoverlapping(record, stored, 1);
        (*stored).kind = kind;
    }
    true
}

/// aya's own methods take a `SockAddrContext` only.
#[inline(always)]
fn storage() -> *mut c_void {
    (&raw const SOCKETS).cast_mut().cast()
}
