//! What a neighbour does who means harm: a pod with root inside, so with CAP_NET_RAW and CAP_NET_ADMIN in its own network
//! namespace. It sends whatever frames it likes, under whatever addresses; what becomes of them on the way is the
//! node's doing.
//!
//! A test that shows an attack failing proves something only where the same attack is seen to succeed: `tests/attack.rs`
//! runs all of these on a bridge without a mesh.

mod frame;
mod neighbour;
mod segment;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::pcap::{Packets, Tcp};
use crate::pod::Pod;
use crate::record::Recording;
use crate::{ip, marker, wait};

use wire::Wire;

pub use frame::Mac;
pub use segment::{Disguise, Segment};

/// A neighbour's ARP entry is not changed again within a second (`neigh/default/locktime`).
const POISONED_WITHIN: Duration = Duration::from_secs(10);

/// A pod that sends frames of its own making.
pub struct Impostor {
    wire: Wire,
    own_ip: IpAddr,
}

impl Impostor {
    /// Sends from the pod's own network interface.
    pub fn in_pod(pod: &Pod) -> Result<Self> {
        Ok(Self { wire: Wire::of(pod)?, own_ip: pod.ip4().into() })
    }

    /// The address of its own network interface.
    pub fn mac(&self) -> Mac {
        self.wire.mac
    }

    /// Sends the segment to `victim`, whatever the segment's addresses are.
    pub fn inject(&self, victim: &Pod, segment: &Segment, disguise: Disguise) -> Result<()> {
        let to = victim.mac()?;
        segment.frames(to, self.mac(), disguise).iter().try_for_each(|frame| self.wire.send(frame))
    }

    /// Tells `victim` that `address` is here, until it believes it: a gratuitous ARP reply, or a neighbour advertisement
    /// that overrides. Nobody believes news of strangers: first the victim is made to send something there.
    pub fn poison(&self, victim: &Pod, address: IpAddr) -> Result<()> {
        victim.greet(address)?;
        let what = format!("{} to believe that {address} is at {}", victim.name(), self.mac());
        wait::until(&what, POISONED_WITHIN, || {
            self.claim(victim, address)?;
            Ok((victim.neighbour(address)? == Some(self.mac())).then_some(()))
        })
    }

    /// Tells `victim` once that `address` is here; it may believe it.
    pub fn claim(&self, victim: &Pod, address: IpAddr) -> Result<()> {
        self.wire.send(&neighbour::claim(address, self.mac(), victim)?)
    }

    /// Sends a frame to `victim` that nobody has a reason to drop, and waits until `recording`, of what the victim
    /// receives, shows it: what was sent before it has arrived by now, or never will.
    pub fn wait_arrived(&self, victim: &Pod, recording: &Recording) -> Result<()> {
        let witness = neighbour::claim(self.own_ip, self.mac(), victim)?;
        let arrived = |packets: &Packets| packets.0.iter().filter(|packet| packet.frame == witness).count();
        let before = recording.wait_for("anything", |packets| Some(arrived(packets)))?;
        // The witness may be sent from another CPU than what came before, and would overtake it.
        marker::wait_queues_empty()?;
        self.wire.send(&witness)?;
        recording.wait_for("an honest frame", |packets| (arrived(packets) > before).then_some(()))
    }

    /// Sends something harmless from `victim`'s link-layer address: the bridge learns that it is here now.
    pub fn steal_mac(&self, victim: &Pod) -> Result<()> {
        self.wire.send(&frame::nothing(victim.mac()?))
    }
}

/// What `client` and `server` said last, once the server has said `said` and no more. An attacker has to guess these
/// sequence numbers, or to overhear them; tests take them from a recording.
pub fn last_words(
    packets: &Packets,
    client: SocketAddr,
    server: SocketAddr,
    said: &[u8],
) -> Option<[Tcp; 2]> {
    packets.flows().iter().find(|flow| flow.from == server && flow.to == client && flow.bytes == said)?;
    Some([packets.last(client, server)?.clone(), packets.last(server, client)?.clone()])
}

impl Pod {
    /// Gives the pod's network namespace another's addresses, besides its own: it answers for them, and may speak under
    /// them.
    pub fn assume(&self, other: &Pod) -> Result<()> {
        let (ip4, ip6) = (other.ip4(), other.ip6());
        ip::batch(&self.netns_name(), &format!("addr add {ip4}/32 dev lo\naddr add {ip6}/128 dev lo nodad\n"))
    }

    /// The link-layer address of the pod's network interface.
    pub fn mac(&self) -> Result<Mac> {
        wire::mac_of(self)
    }

    /// Sends a datagram that nobody waits for (to RFC 863's port): the two know each other's link-layer address then.
    pub fn greet(&self, address: IpAddr) -> Result<()> {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let greet = || Ok(UdpSocket::bind((any, 0))?.send_to(b"hello", (address, 9))?);
        self.visit(greet).map(drop).with_context(|| format!("{} cannot greet {address}", self.name()))
    }

    /// Where the pod sends what is for `address`, if it has learnt that.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<Mac>> {
        let table = self.command("ip").args(["-j", "neigh", "show", "dev", "eth0"]).run()?;
        let table: Vec<serde_json::Value> = serde_json::from_str(&table).context("ip tells no JSON")?;
        let entry = table.iter().find(|entry| entry["dst"] == address.to_string());
        entry.and_then(|entry| entry["lladdr"].as_str()).map(str::parse).transpose()
    }
}
