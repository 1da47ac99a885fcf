//! HBONE: TCP connections as HTTP/2 CONNECT streams in mutual TLS, as Istio's ambient mesh speaks it.
//!
//! The border of the engine is narrow on purpose: open a stream, bytes out, bytes in, credit back, reset. The
//! engine behind it is the `h2` crate; nothing outside this folder names it, so that another can take its place.
//! Everything here lives on one worker's thread (`Rc`, not `Arc`).

mod batch;
mod client;
mod forwarded;
mod frames;
mod held;
mod ledger;
mod load;
mod sending;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod window;

#[cfg(test)]
use batch::FRAMES_A_TURN;

pub use client::{Client, Driver, OpenError};
pub use forwarded::{format_forwarded, parse_forwarded};
pub use ledger::{Account, Towards, held_by_pod, is_full, keep_to_budget, pod_budget};
pub use server::{Gone, Request, Server};
pub use stream::{Incoming, Outgoing, Stream, StreamError};

/// Where a pod's worker takes HBONE connections (Istio's number).
pub const HBONE_PORT: u16 = 15008;

/// Streams on one connection before another is opened. More of them share one flush and one handshake; fewer
/// lose less when a connection dies. ztunnel opens 100.
const STREAMS_PER_CONNECTION: usize = 200;

/// What a peer may open on one connection to us. Above what peers want, so that their choice counts.
const STREAMS_ACCEPTED: u32 = 1024;

/// The largest credit HTTP/2 can give a connection. Streams are held back by their own windows; a smaller one
/// here would let a few stalled streams stop all others. It cannot be used up: what streams hold unread makes their windows
/// smaller (`window.rs`), and they are reset (`ledger.rs`) long before they hold as much.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Frames of this size are accepted and asked for: four TLS records, so that a frame never waits long for its end.
const FRAME_SIZE: u32 = 64 * 1024;

/// Bytes of one stream that may wait for the wire, while memory is not short (`ledger.rs`). One frame in flight and one behind
/// it.
const SEND_BUFFER: usize = 2 * FRAME_SIZE as usize;

/// Request headers are a few hundred bytes; a peer that sends more is not a mesh peer.
const HEADER_LIST_SIZE: u32 = 16 * 1024;

/// Requests that a peer may have withdrawn before this side has looked at them. An app that opens and resets connections
/// in a burst makes as many, and one more ends every stream of the connection (the engine's defence against "rapid
/// reset", CVE-2023-44487; its default is 20). So the limit is above what may be read before all is looked at
/// (`batch::FRAMES_A_TURN`): a flood waits its turn, and the limit is never met.
const WITHDRAWN_REQUESTS: usize = batch::FRAMES_A_TURN;

/// Streams that the engine remembers for a second after it has reset them, so that frames which were on their way are
/// dropped without an answer. For a stream that it has forgotten, it answers each frame with one more reset. The engine ends the
/// connection after 1,024 such answers unless it is told otherwise: here it is told so, since the peer is proven, and one app's refused or aborted connections must
/// not end the connections of others.
const RESET_STREAMS_REMEMBERED: usize = 1024;

/// What small frames may cost before the engine ends the connection. It counts those as well that come to streams which it has
/// reset, and never gives back what they cost: in the end, an app whose connections are refused would end the streams of others.
/// So it has no limit: streams take their frames at once ([`held`]), and `batch::FRAMES_A_TURN` bounds what nobody has taken yet.
const SMALL_FRAMES_BUDGET: usize = usize::MAX;
