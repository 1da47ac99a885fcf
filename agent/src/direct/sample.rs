//! What workers read off the direct connections that stay open.

use super::log::Message;
use crate::kernel::{AttestedFlow, Bytes};
use std::sync::mpsc::Sender;

/// One pod's ends of the direct connections that were open at one moment.
#[derive(Debug)]
pub struct Sample {
    /// The pod's netns cookie.
    pub netns: u64,
    pub flows: Vec<SampledFlow>,
}

#[derive(Clone, Copy, Debug)]
pub struct SampledFlow {
    pub flow: AttestedFlow,
    /// Whether the pod's end is the client's.
    pub is_client: bool,
    /// Sent and received by the pod's end.
    pub bytes: Bytes,
}

/// The way of samples to the recorder; clones lead to the same.
#[derive(Clone)]
pub struct Samples(pub(super) Sender<Message>);

impl Samples {
    /// Never waits. When the recorder has ended nobody is told any more.
    pub fn send(&self, sample: Sample) {
        let _ = self.0.send(Message::Sample(sample));
    }
}
