//! What the hooks log (feature `bpf-log`): read from their ring buffer, passed on to the `log` crate.
//!
//! Each statement costs a connection 6 µs, so there are two switches: the build's feature, and `--bpf-log`.

use super::KernelError;

/// Says whether the statements that this build may have are to run. They are compiled by the verifier as constants:
/// one that is switched off is no instruction at all.
#[cfg(feature = "bpf-log")]
pub const fn level(log_hooks: bool) -> u8 {
    if log_hooks { aya_log::Level::Trace as u8 } else { 0 }
}

#[cfg(not(feature = "bpf-log"))]
pub fn check(log_hooks: bool) -> Result<(), KernelError> {
    if log_hooks { Err(KernelError::LogNotBuilt) } else { Ok(()) }
}

#[cfg(feature = "bpf-log")]
pub use reader::HookLog;

#[cfg(feature = "bpf-log")]
mod reader {
    use super::KernelError;
    use crate::kernel::sys;
    use aya::Ebpf;
    use aya_log::EbpfLogger;
    use std::os::fd::AsFd as _;
    use tokio::sync::oneshot;

    /// The thread that reads the hooks' log; it ends when this is dropped.
    pub struct HookLog {
        _stop: oneshot::Sender<()>,
    }

    impl HookLog {
        pub fn start(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
            let failed = |error: &dyn std::fmt::Display| KernelError::Log { reason: error.to_string() };
            let logger = EbpfLogger::init(ebpf).map_err(|error| failed(&error))?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(|error| failed(&error))?;
            let (stop, stopped) = oneshot::channel();
            std::thread::Builder::new()
                .name("hook-log".to_owned())
                .spawn(move || {
                    runtime.block_on(async {
                        tokio::select! {
                            result = read(logger) => if let Err(error) = result {
                                tracing::warn!(%error, "the hooks' log ended");
                            },
                            _ = stopped => {}
                        }
                    });
                })
                .map_err(|error| failed(&error))?;
            Ok(Self { _stop: stop })
        }
    }

    async fn read(mut logger: EbpfLogger<&'static dyn log::Log>) -> std::io::Result<()> {
        let records = sys::watch(logger.as_fd().try_clone_to_owned()?)?;
        loop {
            let mut ready = records.readable().await?;
            // Before the read: a record that comes during it makes the descriptor ready again.
            ready.clear_ready();
            logger.flush();
        }
    }
}
