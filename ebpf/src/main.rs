//! Pillion's eBPF programs: they capture the connections of the pods in the mesh, and vouch for those that stay on
//! the node.
//!
//! Pods are told apart by the cookie of their network namespace. A connection passes the programs in this order:
//!
//! 1. `connect` (cgroup root): an app's connect() is turned to the worker's listener in the same pod, and where it
//!    wanted to go is written down in the socket's own storage; or it is left alone, for the direct path.
//! 2. `sockops` (cgroup root): the record travels from the connecting socket to the accepted one; a direct connection
//!    is attested before its SYN leaves, and the agent is told of its opening and its end. What may be neither is held back
//!    (`device`).
//! 3. `path` (tc, at the node's end of a pod's veth): packets of direct connections go straight into the other pod; what
//!    should be one and is not attested is sent back (`refuse`).
//! 4. `guard` (sk_lookup, in the pod): plaintext that nobody vouches for is passed, counted or refused; where policies
//!    say which networks it may come from, the agent is told of what they do not allow (`denials`).
//! 5. `getpeername` and `getsockname` (cgroup root): either app sees the addresses that it would see without a mesh.
//!
//! Programs decide nothing else: which pods are captured, what they exclude and who may speak to whom is the agent's
//! to say, in the maps (`maps`, `local`, `node`; `flows` is the programs' own, and `usage` limits each pod's share of it).
//! What is missing there, or finds no room, is refused. Kernel 5.15 or later (`bpf_get_netns_cookie` in sock_ops).

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod connect;
mod context;
mod denials;
mod device;
mod flows;
mod getpeername;
mod getsockname;
mod guard;
mod local;
mod manner;
mod maps;
mod node;
mod packet;
mod path;
mod refuse;
mod sockops;
mod usage;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// So that clippy, rustdoc and `--workspace` builds see the crate on the host, where it does nothing.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
