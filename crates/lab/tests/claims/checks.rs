//! What the tests of this file compare by, and the end of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lab::capture::{Capture, Tap};
use lab::driver::DriverPort;
use lab::frames;
use lab::instance::Counters;
use lab::scene::{CARD, LAN_CARD, Pair, Scene};
use lab::wired::{LIMIT, Wired, Wiring};
use virtqueue::NetHeader;

/// Octets of the largest datagram of most of these tests.
pub const JUMBO: u16 = 9000;
/// More than AF_XDP takes: the packet socket serves, which leaves large sends whole.
pub const BEYOND_XDP: u16 = 12_000;
/// How long nothing may come where nothing is to come.
pub const QUIET: Duration = Duration::from_millis(30);

/// A name and a whole datagram.
pub type Case = (&'static str, Vec<u8>);

/// A running base, and all that ever passed its card.
pub struct Stage {
    /// The base with its drivers and the machine outside.
    pub w: Wired,
    lan: Capture,
}

impl Stage {
    /// Sets it up on a fresh scene.
    pub fn set(wiring: &Wiring) -> Self {
        Self::on(Scene::set().unwrap(), wiring)
    }

    /// Sets it up on a scene that was changed before.
    pub fn on(scene: Scene, wiring: &Wiring) -> Self {
        let lan = Capture::start(&scene.outside, LAN_CARD).unwrap();
        Self { w: Wired::on(scene, wiring).unwrap(), lan }
    }

    /// A cable for 9000 octets, and drivers that know everything.
    pub fn jumbo() -> Self {
        Self::set(&Wiring { mtu: JUMBO, ..Wiring::default() })
    }

    /// A cable on which large sends stay whole, whatever driver is asked for.
    pub fn beyond_xdp() -> Self {
        Self::set(&Wiring { mtu: BEYOND_XDP, ..Wiring::default() })
    }

    /// Makes the base find the machine outside, so that nothing has to wait any more.
    pub fn meet_outside(&mut self, from: Pair, to: Pair) {
        for (source, destination) in from.into_iter().zip(to) {
            let hello = b"a datagram that finds the way".to_vec();
            let hello = frames::datagram(source, destination, frames::protocol::EXPERIMENT, hello);
            let frame = self.w.from_a(&hello);
            self.w.a.send_plain(&frame).unwrap();
            self.w
                .seen_outside("the first datagram", |f| frames::datagram_of(&f.bytes) == hello)
                .unwrap();
        }
        self.w.tap.drain().unwrap();
    }

    /// The next datagrams of `from` that the card sends, each with its virtio-net header: `count`
    /// of them, and no more.
    pub fn out(&self, from: Pair, count: usize) -> Vec<(NetHeader, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let limit = if found.len() < count { LIMIT } else { QUIET };
            let Some(frame) = self.w.tap.receive(limit).unwrap() else { return found };
            let datagram = frames::datagram_of(&frame.bytes);
            if !frame.outgoing && source(datagram).is_some_and(|s| from.contains(&s)) {
                assert_eq!(frame.bytes[..12], [self.w.lan_mac, self.w.card_mac].concat());
                found.push((frame.header, datagram.to_vec()));
            }
        }
    }

    /// A packet socket on the base's TUN device: sees and sends what the host's stack does.
    pub fn host_tap(&self) -> Tap {
        let ps = self.w.instance.ps().unwrap();
        let device = ps.pointer("/networks/0/host_device").and_then(|d| d.as_str()).unwrap();
        Tap::open(&self.w.scene.host, device).unwrap()
    }

    /// Runs an ethtool command for the host's card.
    pub fn card(&self, settings: &str) {
        card(&self.w.scene, settings);
    }

    /// Ends it: each datagram has met one fate, and every frame that the card ever sent carries its
    /// own MAC address. Gives the counters.
    pub fn end(self) -> Counters {
        let counters = self.w.instance.balanced(LIMIT).unwrap();
        for frame in self.lan.stop().unwrap().iter().filter(|f| !f.outgoing) {
            assert_eq!(frame.bytes[6..12], self.w.card_mac, "{:02x?}", frame.bytes);
        }
        counters
    }
}

/// Runs an ethtool command for the host's card.
pub fn card(scene: &Scene, settings: &str) {
    scene.host.run(&format!("ethtool -K {CARD} {settings}")).unwrap();
}

/// The source address of a datagram.
pub fn source(datagram: &[u8]) -> Option<IpAddr> {
    match datagram.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*datagram.get(12..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*datagram.get(8..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// The next frame that a driver gets, but for the base's router advertisements.
pub fn next(port: &mut DriverPort) -> Option<(NetHeader, Vec<u8>)> {
    next_within(port, LIMIT)
}

/// Nothing comes.
pub fn nothing_more(port: &mut DriverPort) {
    if let Some((_, frame)) = next_within(port, QUIET) {
        panic!("one more came: {frame:02x?}");
    }
}

fn next_within(port: &mut DriverPort, limit: Duration) -> Option<(NetHeader, Vec<u8>)> {
    let advertisement = |frame: &[u8]| {
        let is = |at, octet: u8| frame.get(at) == Some(&octet);
        is(12, 0x86) && is(20, frames::protocol::ICMP6) && is(54, 134)
    };
    port.receive_matching(limit, |_, frame| !advertisement(frame)).unwrap()
}

/// What arrived is what was sent: these, in this order, and no other.
pub fn same(way: &str, sent: &[Case], arrived: &[Vec<u8>]) {
    for (i, (name, datagram)) in sent.iter().enumerate() {
        let Some(came) = arrived.get(i) else { panic!("{way}: {name}: nothing came") };
        let place = came.iter().zip(datagram).position(|(a, b)| a != b);
        assert!(
            came == datagram,
            "{way}: {name}: {} octets were sent, {} came; the first that differs: {place:?}",
            datagram.len(),
            came.len()
        );
    }
    assert_eq!(arrived.len(), sent.len(), "{way}: something more came");
}

/// The last checks of a header that leaves nothing to do.
pub fn is_plain(header: &NetHeader) -> bool {
    NetHeader { num_buffers: 0, ..*header } == NetHeader::default()
}
