//! A card for the worker: one end of a cable whose other end is the kernel's, both in the namespace
//! of this process, which must be a fresh one.
//!
//! The kernel at the far end is the LAN's router: it answers ARP for its address there, throws away
//! what is sent on through it, and sends to the VMs what this process asks it to.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use datapath::names::NetworkId;
use datapath::neighbor::{Lan, Settings};
use datapath::netlink::Netlink;
use datapath::state::StateMemory;
use datapath::uplink::{Guard, PacketUplink};
use datapath::worker::{UplinkFacts, UplinkSetup};

const CARD: &str = "card";
const FAR: &str = "far";
/// The router's address.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The address from which the base asks for the router.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Somewhere behind the router.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// For everything that must happen; valgrind is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

/// Runs a command line that must succeed (split at blanks).
fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("iproute2");
    assert!(status.success(), "`ip {line}` ended with {status}");
}

/// Lays the cable and opens the card for the worker, with room for so many frames.
pub fn lay(state: &StateMemory, network: NetworkId, frames: u32) -> UplinkSetup {
    ip(&format!("link add {CARD} type veth peer name {FAR}"));
    // Without IPv6 neither end says anything by itself.
    for end in [CARD, FAR] {
        ip(&format!("link set {end} addrgenmode none"));
        ip(&format!("link set {end} up"));
    }
    let mut netlink = Netlink::open().expect("a netlink socket");
    let link = netlink.link(CARD).expect("an answer").expect("the card");
    let mac = link.mac.expect("an Ethernet card");
    ip(&format!("addr add {ROUTER}/24 dev {FAR}"));
    // To the VMs by way of one neighbour, so that nobody has to be asked for.
    let way = "203.0.113.3";
    ip(&format!("neigh add {way} lladdr {mac} dev {FAR} nud permanent"));
    ip(&format!("route add 198.18.0.0/15 via {way} dev {FAR}"));
    let guard = Guard::open("count").expect("maps");
    let filter = guard.socket_filter().expect("a socket filter");
    let card = PacketUplink::open(link.index, frames, &filter, state, network).expect("a card");
    let settings =
        Settings { mac, gateway4: Some(ROUTER), host4: Some(HOST), ..Settings::default() };
    let facts = UplinkFacts { mac, mtu: link.mtu, up: true };
    UplinkSetup { card, facts, lan: Lan::new(settings) }
}

/// The router sends one frame of `octets` octets to each of these addresses. When this returns, all
/// of them lie in the card's ring: if they came while the worker reads it, batches would be short.
pub fn send(to: impl Iterator<Item = IpAddr>, octets: usize) {
    let socket = UdpSocket::bind((ROUTER, 4000)).expect("the router's address");
    let payload = vec![0; octets - HEADERS];
    let mut expected = received();
    for address in to {
        socket.send_to(&payload, (address, 5000)).expect("a way to the VMs");
        expected += 1;
    }
    let until = Instant::now() + PATIENCE;
    while received() < expected {
        assert!(Instant::now() < until, "the card has {} of {expected} frames", received());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// IPv4 datagrams that this namespace's stack has received. It gets its copy of what comes to the
/// card after the packet socket has got its own.
fn received() -> u64 {
    let text =
        std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel's counters");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "InReceives").expect("InReceives");
    value.parse().expect("a number")
}
