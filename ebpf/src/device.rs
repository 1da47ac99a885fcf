//! The device that a socket is bound to: what keeps it from the worker, and what holds back a connection that must not leave.

use crate::context::field;
use aya_ebpf::{
    EbpfContext, bindings::bpf_sock, helpers::generated::bpf_setsockopt, programs::SockOpsContext,
};
use core::ffi::c_void;

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const SO_BINDTOIFINDEX: i32 = 62;

/// No device has this index: the kernel gives them from 1 upwards.
const NO_DEVICE: u32 = i32::MAX as u32;

/// Takes a socket off its device. False where it stays bound: the kernel asks the app for CAP_NET_RAW.
///
/// # Safety
/// `socket` is not null, and the context's, which is the kernel's.
#[inline(always)]
pub unsafe fn leave(ctx: &impl EbpfContext, socket: *mut bpf_sock) -> bool {
    // The name is an empty C string.
    let mut no_name = 0_u32;
    // SAFETY: a field that the verifier lets this program read, and an option of the size told.
    unsafe {
        field!(socket, bpf_sock, bound_dev_if) == 0
            || set(ctx.as_ptr(), SO_BINDTODEVICE, (&raw mut no_name).cast(), size_of_val(&no_name))
    }
}

/// Whether [`hold`] has held the socket.
///
/// # Safety
/// As [`leave`].
#[inline(always)]
pub unsafe fn is_held(socket: *mut bpf_sock) -> bool {
    // SAFETY: a field that the verifier lets this program read.
    unsafe { field!(socket, bpf_sock, bound_dev_if) == NO_DEVICE }
}

/// Holds back the SYN that is about to leave. Once its device changes, the kernel looks for the connection's route again, and
/// there is none over a device that does not exist: connect(), or the first send(), fails with EHOSTUNREACH at once.
///
/// Before Linux 6.0 a program can name existing devices only. Over `lo` there is no route for IPv6 either; of IPv4 the
/// kernel drops the SYN there, and connect() fails with ETIMEDOUT.
///
/// # Safety
/// The context is the kernel's, of BPF_SOCK_OPS_TCP_CONNECT_CB.
#[inline(always)]
pub unsafe fn hold(ctx: &SockOpsContext) {
    let mut no_device = NO_DEVICE;
    let mut lo = *b"lo\0\0";
    // SAFETY: options of the sizes told.
    unsafe {
        if !set(ctx.as_ptr(), SO_BINDTOIFINDEX, (&raw mut no_device).cast(), size_of_val(&no_device)) {
            set(ctx.as_ptr(), SO_BINDTODEVICE, lo.as_mut_ptr().cast(), lo.len());
        }
    }
}

#[inline(always)]
unsafe fn set(ctx: *mut c_void, option: i32, value: *mut c_void, length: usize) -> bool {
    // SAFETY: the caller's promises.
    unsafe { bpf_setsockopt(ctx, SOL_SOCKET, option, value, length as i32) == 0 }
}
