//! What a sample's time is spent for: the innermost frame that says so.

use super::stacks::{Stack, is_kernel};

/// A part of the work, and what its functions' names contain.
struct Group {
    name: &'static str,
    functions: &'static [&'static str],
}

/// Of samples in the kernel. The first that fits a frame has it; so what is special stands before what is general.
const KERNEL: &[Group] = &[
    Group {
        name: "kernel: wake-ups of others",
        functions: &["sock_def_readable", "ep_poll_callback", "try_to_wake_up", "__wake_up"],
    },
    Group { name: "kernel: waiting (epoll)", functions: &["epoll_wait", "ep_poll", "sys_epoll_ctl"] },
    Group { name: "kernel: hooks", functions: &["bpf_prog_", "__cgroup_bpf_run", "bpf_trampoline"] },
    Group { name: "kernel: copies", functions: &["copy_from_iter", "copy_to_iter", "skb_copy_datagram"] },
    Group { name: "kernel: page faults, mmap", functions: &["exc_page_fault", "sys_m", "sys_brk"] },
    // Bridges, veth and the peer's half of TCP: on one machine they run in the time of whoever sends.
    Group {
        name: "kernel: network beyond the send (softirq)",
        functions: &["net_rx_action", "do_softirq", "__napi_poll", "process_backlog"],
    },
    Group {
        name: "kernel: connect, accept, close",
        functions: &[
            "sys_connect",
            "sys_accept",
            "sys_close",
            "sys_socket",
            "sys_shutdown",
            "sys_bind",
            "sys_setsockopt",
            "sys_getsockopt",
            "__fput",
            "task_work_run",
        ],
    },
    Group { name: "kernel: send", functions: &["sys_send", "sys_write", "tcp_sendmsg"] },
    Group { name: "kernel: receive", functions: &["sys_recv", "sys_read", "tcp_recvmsg"] },
    Group { name: "kernel: interrupts", functions: &["asm_sysvec_", "sysvec_", "irq_exit"] },
];
const KERNEL_OTHER: &str = "kernel: other";

/// Of samples outside of it.
const USER: &[Group] = &[
    Group {
        name: "memory: allocation",
        functions: &["malloc", "calloc", "realloc", "cfree", "_int_free", "__rust_alloc", "__rust_dealloc"],
    },
    Group { name: "memory: copies", functions: &["memcpy", "memmove", "memset"] },
    Group {
        name: "TLS: cryptography",
        functions: &[
            "aws_lc", "aes_", "gcm", "EVP_", "CRYPTO_", "chacha", "sha256", "x25519", "mlkem", "p256",
        ],
    },
    Group { name: "TLS: records and handshakes", functions: &["rustls", "webpki", "x509"] },
    Group { name: "HTTP/2", functions: &["h2::", "http::", "pillion_agent::hbone"] },
    Group {
        name: "telemetry",
        functions: &["pillion_agent::telemetry", "prometheus", "worker::record", "tracing"],
    },
    Group { name: "relay", functions: &["worker::relay"] },
    Group { name: "worker: other", functions: &["pillion_agent::"] },
    Group { name: "tokio", functions: &["tokio::", "mio::"] },
];
const USER_OTHER: &str = "other";

/// The group of a sample. Whoever calls what is in no group of its own has it: a hash map of the relay's is relay.
pub fn of(stack: &Stack) -> &'static str {
    let in_kernel = is_kernel(stack.leaf());
    let (groups, other) = if in_kernel { (KERNEL, KERNEL_OTHER) } else { (USER, USER_OTHER) };
    let group =
        |frame: &String| groups.iter().find(|group| group.functions.iter().any(|name| frame.contains(name)));
    let frames = stack.frames.iter().rev().take_while(|frame| is_kernel(frame) == in_kernel);
    frames.filter_map(group).next().map_or(other, |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(frames: &[&str]) -> &'static str {
        of(&Stack { thread: String::new(), frames: frames.iter().map(ToString::to_string).collect() })
    }

    #[test]
    fn the_innermost_frame_that_says_something_decides() {
        let send = ["tokio::run", "__x64_sys_sendto_[k]", "tcp_sendmsg_[k]"];
        assert_eq!(group(&send), "kernel: send");
        assert_eq!(
            group(&[&send[..], &["net_rx_action_[k]"]].concat()),
            "kernel: network beyond the send (softirq)"
        );
        assert_eq!(group(&["pillion_agent::worker::relay::run", "core::hash"]), "relay");
        assert_eq!(group(&["h2::send", "rustls::seal", "aes_gcm_enc"]), "TLS: cryptography");
    }

    #[test]
    fn kernel_and_user_are_not_mixed() {
        assert_eq!(group(&["h2::send", "asm_unheard_of_[k]"]), KERNEL_OTHER);
        assert_eq!(group(&["_start"]), USER_OTHER);
    }
}
