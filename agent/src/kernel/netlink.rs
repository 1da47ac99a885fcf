//! Questions to the kernel by netlink, asked in the calling thread's network namespace.

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;

/// The kernel fills no more than this at a time (`netlink_recvmsg`), so no answer is ever cut.
const ANSWER: usize = 32 << 10;

/// Asks for one object of route netlink, or for all of a kind, and gives what comes.
pub fn ask(question: RouteNetlinkMessage, all: bool) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut answers = Vec::new();
    let flags = if all { NLM_F_DUMP } else { 0 };
    Netlink::open(NETLINK_ROUTE)?.ask(question, flags, |answer| answers.push(answer))?;
    Ok(answers)
}

/// A way to one of the kernel's netlink families, in the namespace that the calling thread was in when it was opened.
pub struct Netlink {
    socket: Socket,
    answer: Vec<u8>,
}

impl Netlink {
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, answer: vec![0; ANSWER] })
    }

    /// Gives every object of the answer to `each`; an acknowledgement has none. `flags` are those of a message that
    /// is not a plain question for one object (NLM_F_DUMP, NLM_F_ACK).
    pub fn ask<Q, A>(&mut self, question: Q, flags: u16, mut each: impl FnMut(A)) -> io::Result<()>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        loop {
            let length = self.socket.recv(&mut &mut self.answer[..], 0)?;
            let mut rest = &self.answer[..length];
            while !rest.is_empty() {
                let message = NetlinkMessage::<A>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                // Messages begin at multiples of four bytes.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => each(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    _ => return Ok(()),
                }
            }
            if flags & NLM_F_DUMP != NLM_F_DUMP {
                return Ok(());
            }
        }
    }
}
