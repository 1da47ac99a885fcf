//! What client and sink say to each other, besides the bytes that are counted. Numbers are big-endian.

use std::time::Duration;

use super::meter::Metered;

/// Client to sink, first: how long its clock shall run, from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub warm_up: Duration,
    pub seconds: Duration,
}

/// Sink to client, after the client's end: what it has counted after the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt(pub Metered);

impl Order {
    pub const LENGTH: usize = 16;

    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        bytes([nanos(self.warm_up), nanos(self.seconds)])
    }

    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let [warm_up, seconds] = numbers(bytes);
        Self { warm_up: Duration::from_nanos(warm_up), seconds: Duration::from_nanos(seconds) }
    }
}

impl Receipt {
    pub const LENGTH: usize = 24;

    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        bytes([self.0.bytes, nanos(self.0.time), self.0.all])
    }

    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let [bytes, time, all] = numbers(bytes);
        Self(Metered { bytes, time: Duration::from_nanos(time), all })
    }
}

/// Runs of 584 years do not fit.
fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

fn bytes<const N: usize, const LENGTH: usize>(numbers: [u64; N]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn numbers<const LENGTH: usize, const N: usize>(bytes: [u8; LENGTH]) -> [u64; N] {
    std::array::from_fn(|i| {
        bytes[8 * i..8 * i + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let order = Order { warm_up: Duration::from_millis(500), seconds: Duration::from_secs(3600) };
        assert_eq!(Order::from_bytes(order.to_bytes()), order);
        let receipt = Receipt(Metered { bytes: u64::MAX - 1, time: Duration::from_nanos(1), all: u64::MAX });
        assert_eq!(Receipt::from_bytes(receipt.to_bytes()), receipt);
    }
}
