//! Pillion's eBPF programs: they capture the connections of the pods in the mesh.
//!
//! All of them hang at the cgroup root and tell pods apart by the cookie of their network namespace. A connection
//! passes them in this order:
//!
//! 1. `connect`: an app's connect() is turned to the worker's listener in the same pod; where it wanted to go is
//!    written down in the socket's own storage.
//! 2. `sockops`: the record travels from the connecting socket to the accepted one.
//! 3. `getpeername`: either app sees the address that it would see without a mesh.
//!
//! Programs decide nothing else: which pods are captured and what they exclude is the agent's to say, in the maps.
//! Kernel 5.15 or later (`bpf_get_netns_cookie` in sock_ops).

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod connect;
mod context;
mod getpeername;
mod maps;
mod sockops;

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
