//! What workers read off the direct connections that stay open.

use crate::kernel::{AttestedFlow, Bytes};
use std::net::SocketAddr;
use std::sync::mpsc::Sender;

/// One pod's connections that were open at one moment, direct ones and others.
#[derive(Debug)]
pub struct Sample {
    /// The pod's netns cookie.
    pub netns: u64,
    pub sockets: Vec<SampledSocket>,
}

#[derive(Clone, Copy, Debug)]
pub struct SampledSocket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub bytes: Bytes,
    /// The direct connection that it is an end of. A server's end is none any more once the client's socket is gone.
    pub flow: Option<AttestedFlow>,
}

/// What the recorder's thread is told.
pub(super) enum Message {
    Sample(Sample),
    Stop,
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
