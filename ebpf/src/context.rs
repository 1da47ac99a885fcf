//! Reads of the programs' contexts, and writes.

use aya_ebpf::{
    bindings::{bpf_sock_addr, bpf_sock_ops},
    programs::SockOpsContext,
};
use core::{ffi::c_void, ptr};
use pillion_ebpf_common::{Address, HandoffKey, Ip, mapped, unmapped};

/// Reads 4 bytes at a constant offset of a context or a socket, as one instruction that LLVM leaves alone.
///
/// Plain reads, volatile ones too, get merged out of two branches into `pointer + variable`, which the verifier
/// refuses ("dereference of modified ctx ptr"). clang has `preserve_static_offset` for this, rustc has nothing.
///
/// # Safety
/// `base` is a pointer that the verifier lets a program read at `OFFSET`.
#[inline(always)]
pub unsafe fn load<const OFFSET: usize>(base: *const c_void) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: one aligned read, which the verifier checks.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({base} + {offset})",
                value = out(reg) value,
                base = in(reg) base,
                offset = const OFFSET,
                options(nostack, readonly, preserves_flags)
            );
        }
        value as u32
    }
    // So that clippy and rustdoc see the crate on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        base.byte_add(OFFSET).cast::<u32>().read()
    }
}

/// As [`load`], 8 bytes.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn load_u64<const OFFSET: usize>(base: *const c_void) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: one aligned read, which the verifier checks.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({base} + {offset})",
                value = out(reg) value,
                base = in(reg) base,
                offset = const OFFSET,
                options(nostack, readonly, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        base.byte_add(OFFSET).cast::<u64>().read()
    }
}

/// Writes the address that a system call shows or takes, in network byte order. Volatile: LLVM would make one copy of 16 bytes out
/// of the writes.
///
/// # Safety
/// `address` is the context of a program that the verifier lets write the address.
#[inline(always)]
pub unsafe fn set_user_ip6(address: *mut bpf_sock_addr, ip: &Ip) {
    // SAFETY: the caller's promise.
    unsafe {
        let user_ip6 = &raw mut (*address).user_ip6;
        ptr::write_volatile(&raw mut (*user_ip6)[0], ip[0]);
        ptr::write_volatile(&raw mut (*user_ip6)[1], ip[1]);
        ptr::write_volatile(&raw mut (*user_ip6)[2], ip[2]);
        ptr::write_volatile(&raw mut (*user_ip6)[3], ip[3]);
    }
}

/// A 32-bit field: `field!(pointer, type, name)`.
macro_rules! field {
    ($base:expr, $type:ty, $name:ident) => {
        $crate::context::load::<{ core::mem::offset_of!($type, $name) }>($base.cast())
    };
}

/// An IPv6 address: `ip6_field!(pointer, type, name)`.
macro_rules! ip6_field {
    ($base:expr, $type:ty, $name:ident) => {
        [
            $crate::context::load::<{ core::mem::offset_of!($type, $name) }>($base.cast()),
            $crate::context::load::<{ core::mem::offset_of!($type, $name) + 4 }>($base.cast()),
            $crate::context::load::<{ core::mem::offset_of!($type, $name) + 8 }>($base.cast()),
            $crate::context::load::<{ core::mem::offset_of!($type, $name) + 12 }>($base.cast()),
        ]
    };
}

/// A 64-bit field: `wide_field!(pointer, type, name)`.
macro_rules! wide_field {
    ($base:expr, $type:ty, $name:ident) => {
        $crate::context::load_u64::<{ core::mem::offset_of!($type, $name) }>($base.cast())
    };
}

pub(crate) use {field, ip6_field, wide_field};

/// A port in host byte order, from the low half of a field that holds it in network byte order.
#[inline(always)]
pub fn port_from_network(field: u32) -> u32 {
    u32::from(u16::from_be(field as u16))
}

/// The other way round.
#[inline(always)]
pub fn port_to_network(port: u16) -> u32 {
    u32::from(port.to_be())
}

const AF_INET: u32 = 2;

/// The two ends of a connection, as its socket sees them. Ports are in host byte order.
pub struct Ends {
    pub local_ip: Ip,
    pub local_port: u32,
    pub remote_ip: Ip,
    pub remote_port: u32,
}

impl Ends {
    #[inline(always)]
    pub unsafe fn of(ctx: &SockOpsContext) -> Self {
        let ops = ctx.ops;
        // SAFETY: the context is the kernel's, and the verifier checks every access to it.
        unsafe {
            let (local_ip, remote_ip) = if field!(ops, bpf_sock_ops, family) == AF_INET {
                (mapped(field!(ops, bpf_sock_ops, local_ip4)), mapped(field!(ops, bpf_sock_ops, remote_ip4)))
            } else {
                (ip6_field!(ops, bpf_sock_ops, local_ip6), ip6_field!(ops, bpf_sock_ops, remote_ip6))
            };
            Self {
                local_ip,
                // In host byte order, unlike the remote one, which the kernel keeps in the upper half of a
                // big-endian word.
                local_port: field!(ops, bpf_sock_ops, local_port),
                remote_ip,
                remote_port: u32::from_be(field!(ops, bpf_sock_ops, remote_port)),
            }
        }
    }

    #[inline(always)]
    pub fn local(&self) -> Address {
        Address { ip: self.local_ip, port: self.local_port }
    }

    #[inline(always)]
    pub fn remote(&self) -> Address {
        Address { ip: self.remote_ip, port: self.remote_port }
    }

    /// Whether it stays within its pod: both ends are at one address, or one of them is loopback.
    #[inline(always)]
    pub fn is_own(&self) -> bool {
        self.local_ip == self.remote_ip || is_loopback(&self.local_ip) || is_loopback(&self.remote_ip)
    }

    /// The key under which the connection's record is handed over, on the connecting side.
    #[inline(always)]
    pub fn key_as_client(&self, netns: u64) -> HandoffKey {
        HandoffKey {
            netns,
            source_ip: self.local_ip,
            source_port: self.local_port,
            destination_port: self.remote_port,
        }
    }

    /// The same key, on the accepting side.
    #[inline(always)]
    pub fn key_as_server(&self, netns: u64) -> HandoffKey {
        HandoffKey {
            netns,
            source_ip: self.remote_ip,
            source_port: self.remote_port,
            destination_port: self.local_port,
        }
    }
}

#[inline(always)]
pub fn is_loopback(ip: &Ip) -> bool {
    match unmapped(ip) {
        Some(ip4) => ip4.to_ne_bytes()[0] == 127,
        None => ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] == 1_u32.to_be(),
    }
}
