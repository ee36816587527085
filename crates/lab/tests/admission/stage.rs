//! A base with two VMs on a quiet LAN, its three doors, and the places where a datagram can come out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab::capture::{Capture, Tap};
use lab::driver::DriverPort;
use lab::frames::{self, Mac, datagram_of, protocol};
use lab::instance::Counters;
use lab::neighbor::QuietNeighbor;
use lab::scene::{GATEWAY, HOST, LAN_CARD, OUTSIDE, Pair, Scene, vm};
use lab::wired::{LIMIT, Wired, Wiring};
use virtqueue::driver::DriverRing;

/// The way into the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// The first VM's driver.
    Vm,
    /// The card.
    Card,
    /// The TUN device.
    Host,
}

impl Door {
    /// Whose counters tell of it.
    pub fn owner(self) -> &'static str {
        match self {
            Self::Vm => "vm/a",
            Self::Card => "uplink/lan",
            Self::Host => "host/lan",
        }
    }
}

/// Where a datagram can come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At the first VM's driver.
    A,
    /// At the second VM's driver.
    B,
    /// On the LAN.
    Lan,
    /// At the host's stack.
    Host,
}

/// What a test expects of one datagram.
#[derive(Clone, Debug)]
struct Expected {
    what: String,
    at: Option<Place>,
}

/// Counters that say how much, or what else happened, and not what became of a datagram.
const NO_FATE: [&str; 7] = [
    "taken",
    "taken_bytes",
    "delivered",
    "delivered_bytes",
    "waited",
    "icmp_errors",
    "icmp_limited",
];
/// Octets of the text by which a datagram is known wherever it comes out.
const MARK: usize = 16;

/// Everything.
pub struct Stage {
    /// The base with its drivers and the LAN.
    pub w: Wired,
    host: Tap,
    everything: Capture,
    _neighbor: QuietNeighbor,
    expected: Vec<Expected>,
    found: BTreeMap<usize, Vec<Place>>,
    counters: Counters,
}

impl Stage {
    /// Sets it up.
    pub fn set() -> Self {
        Self::on(Scene::set().unwrap())
    }

    /// Sets it up on a scene that was changed before.
    pub fn on(scene: Scene) -> Self {
        let neighbor = QuietNeighbor::replace(&scene).unwrap();
        // The host's stack would tell that it has no route.
        scene.host.run("ip -6 route add blackhole default").unwrap();
        let everything = Capture::start(&scene.outside, LAN_CARD).unwrap();
        let w = Wired::on(scene, &Wiring::default()).unwrap();
        let ps = w.instance.ps().unwrap();
        let device = ps.pointer("/networks/0/host_device").and_then(|d| d.as_str()).unwrap();
        let host = Tap::open(&w.scene.host, device).unwrap();
        let mut stage = Self {
            w,
            host,
            everything,
            _neighbor: neighbor,
            expected: Vec::new(),
            found: BTreeMap::new(),
            counters: Counters::default(),
        };
        stage.meet_neighbors();
        // What waited for a neighbour counts when it goes.
        stage.w.instance.balanced(LIMIT).unwrap();
        stage.counters = stage.w.instance.counters_at_once().unwrap();
        stage
    }

    /// Has the base find everybody on the LAN, so that no datagram has to wait.
    fn meet_neighbors(&mut self) {
        for to in [OUTSIDE, GATEWAY] {
            for (from, to) in vm(0).into_iter().zip(to) {
                let hello = frames::datagram(from, to, protocol::EXPERIMENT, vec![1]);
                let frame = self.w.from_a(&hello);
                self.w.a.send_plain(&frame).unwrap();
                self.w
                    .seen_outside("a first datagram", |f| datagram_of(&f.bytes) == hello)
                    .unwrap();
            }
        }
        while self.w.a.receive(Duration::ZERO).unwrap().is_some() {}
    }

    /// Waits until the base is sure that the VMs' addresses are nobody else's on the LAN.
    pub fn wait_for_claims(&self) {
        lab::command::wait_until(
            2 * LIMIT,
            || "the end of the search for duplicates".to_owned(),
            || {
                let events = self.w.instance.finish(&["events", "--json"])?.stdout;
                Ok((events.matches("address_claimed").count() == 4).then_some(()))
            },
        )
        .unwrap();
    }

    /// The mark of the next datagram: to be put into it.
    pub fn mark(&self) -> Vec<u8> {
        format!("mark{:<12}", self.expected.len()).into_bytes()
    }

    /// Sends `frame` (through the host's door: a datagram) with the next mark in it, and checks that
    /// it is counted as one of `counted` says (`None`: the base never sees it) at this door's owner,
    /// and nothing else is. Where it comes out is checked now or at the end.
    pub fn send(
        &mut self,
        what: String,
        door: Door,
        frame: &[u8],
        counted: &[&str],
        at: Option<Place>,
    ) {
        assert!(frame.windows(MARK).any(|w| w == self.mark()), "{what}: no mark");
        match door {
            Door::Vm => self.w.a.send_plain(frame).unwrap(),
            Door::Card => self.w.tap.send(frame).unwrap(),
            Door::Host => self.host.send(frame).unwrap(),
        }
        self.sent(what, door, counted, at);
    }

    /// The same of a datagram with the next mark that comes through `door` by another way, and has
    /// been sent.
    pub fn sent(&mut self, what: String, door: Door, counted: &[&str], at: Option<Place>) {
        self.expected.push(Expected { what: what.clone(), at });
        let fence = self.fence(door);
        let end = Instant::now() + LIMIT;
        // What waits for a neighbour has no fate yet.
        let mut moved = self.moved(door, counted, fence);
        while moved.0.is_empty() && !counted.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
            moved = self.moved(door, counted, false);
        }
        let right = match counted {
            [] => moved.0.is_empty(),
            names => names.iter().any(|name| {
                let one = [((*name).to_owned(), 1)].into();
                moved.0 == BTreeMap::from([(door.owner().to_owned(), one)])
            }),
        };
        assert!(right, "{what}: {counted:?} of {} expected, moved: {:?}", door.owner(), moved.0);
        self.look();
    }

    /// What the base has counted since the last look, but for what is of no interest here.
    fn moved(&mut self, door: Door, counted: &[&str], fence: bool) -> Counters {
        let now = self.w.instance.counters_at_once().unwrap();
        let mut moved = now.since(&self.counters);
        self.counters = now;
        for own in moved.0.values_mut() {
            own.retain(|name, _| !NO_FATE.contains(&name.as_str()));
        }
        if fence {
            take_one(&mut moved, door.owner(), "to_vm");
        }
        let of_interest = |own: &BTreeMap<String, u64>| !own.is_empty();
        // A neighbour that the base asked answers when it likes.
        if !counted.contains(&"silent")
            && let Some(own) = moved.0.get_mut(Door::Card.owner())
        {
            own.remove("silent");
        }
        moved.0.retain(|_, own| of_interest(own));
        moved
    }

    /// Waits until the base has decided about all that was sent through this door so far. True if
    /// a datagram of its own was needed for that.
    fn fence(&mut self, door: Door) -> bool {
        let end = Instant::now() + LIMIT;
        if door == Door::Vm {
            // Buffers come back when everything is counted.
            while self.w.a.tx.queue.outstanding() > 0 {
                self.w.a.tx.reclaim();
                assert!(Instant::now() < end, "the base gives no buffers back");
                std::thread::sleep(Duration::from_micros(50));
            }
            return false;
        }
        let from = if door == Door::Card { OUTSIDE } else { HOST };
        let text = format!("fence{}", self.expected.len()).into_bytes();
        let fence = frames::datagram(from[0], vm(1)[0], protocol::EXPERIMENT, text);
        match door {
            Door::Card => self.w.tap.send(&self.w.from_lan(&fence)).unwrap(),
            _ => self.host.send(&fence).unwrap(),
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = self.w.b.receive(left).unwrap().expect("a datagram from outside").1;
            if datagram_of(&frame) == fence {
                return true;
            }
            self.note(Place::B, &frame);
        }
    }

    /// Looks everywhere.
    fn look(&mut self) {
        for (place, frame) in self.arrivals() {
            self.note(place, &frame);
        }
    }

    fn arrivals(&mut self) -> Vec<(Place, Vec<u8>)> {
        let mut all = Vec::new();
        let mut take = |place, port: &mut DriverPort| {
            while let Some((_, frame)) = port.receive(Duration::ZERO).unwrap() {
                all.push((place, frame));
            }
        };
        take(Place::A, &mut self.w.a);
        take(Place::B, &mut self.w.b);
        for (place, tap) in [(Place::Lan, &self.w.tap), (Place::Host, &self.host)] {
            while let Some(frame) = tap.receive(Duration::ZERO).unwrap() {
                if !frame.outgoing {
                    all.push((place, frame.bytes));
                }
            }
        }
        all
    }

    fn note(&mut self, place: Place, frame: &[u8]) {
        let text = frame.windows(MARK).find(|w| w.starts_with(b"mark"));
        let number = text.and_then(|t| std::str::from_utf8(&t[4..]).ok()?.trim().parse().ok());
        if let Some(number) = number {
            self.found.entry(number).or_default().push(place);
        }
    }

    /// Checks that each datagram came out where it was to come out, once, and nowhere else; that each
    /// met one fate; and that the card never spoke with another MAC address than its own.
    pub fn end(mut self) -> usize {
        std::thread::sleep(Duration::from_millis(50));
        self.look();
        for (number, expected) in self.expected.iter().enumerate() {
            let found = self.found.remove(&number).unwrap_or_default();
            let right: Vec<_> = expected.at.into_iter().collect();
            assert_eq!(found, right, "{}", expected.what);
        }
        // What people are shown is what was looked at all the time.
        let shown = self.w.instance.balanced(LIMIT).unwrap();
        assert_eq!(shown, self.w.instance.counters_at_once().unwrap());
        for frame in self.everything.stop().unwrap().iter().filter(|f| !f.outgoing) {
            assert_eq!(frame.bytes[6..12], self.w.card_mac);
        }
        self.expected.len()
    }
}

fn take_one(moved: &mut Counters, owner: &str, name: &str) {
    let own = moved.0.entry(owner.to_owned()).or_default();
    match own.get_mut(name) {
        Some(n) if *n > 1 => *n -= 1,
        Some(_) => drop(own.remove(name)),
        None => panic!("the datagram that shows the end was not counted as {name}"),
    }
}

/// The MAC address that a datagram from the LAN is sent to: a group's, all, or the card's.
pub fn mac_for(destination: std::net::IpAddr, card: Mac) -> Mac {
    match destination {
        std::net::IpAddr::V4(a) if a.is_broadcast() || a == BROADCAST => [0xff; 6],
        std::net::IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        std::net::IpAddr::V6(a) if a.is_multicast() => {
            let [.., w, x, y, z] = a.octets();
            [0x33, 0x33, w, x, y, z]
        }
        _ => card,
    }
}

/// The broadcast address of the scene's prefix.
pub const BROADCAST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(203, 0, 113, 255);

/// The VM that is expected to get what goes to this address.
pub fn owner_of(address: std::net::IpAddr) -> Option<Place> {
    let is = |pair: Pair| pair.contains(&address);
    if is(vm(0)) {
        Some(Place::A)
    } else if is(vm(1)) {
        Some(Place::B)
    } else {
        None
    }
}
