//! Reads of the programs' contexts.

use core::ffi::c_void;

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

pub(crate) use {field, ip6_field};

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
