//! The algorithms, best first.

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use std::sync::{Arc, LazyLock};

/// Hybrid post-quantum key exchange first, then what every peer has.
static GROUPS: [&dyn SupportedKxGroup; 4] = [
    aws_lc_rs::kx_group::X25519MLKEM768,
    aws_lc_rs::kx_group::X25519,
    aws_lc_rs::kx_group::SECP256R1,
    aws_lc_rs::kx_group::SECP384R1,
];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        // AES-128-GCM first: a quarter cheaper than AES-256 where the CPU has AES, and as sound for data in flight.
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: GROUPS.to_vec(),
        ..aws_lc_rs::default_provider()
    })
});

pub(super) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}
