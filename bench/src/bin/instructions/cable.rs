//! A card for the worker: one end of a cable whose other end is the kernel's, both in the namespace
//! of this process, which must be a fresh one.
//!
//! The kernel at the far end is the LAN's router: it answers ARP for its address there, throws away
//! what is sent on through it, and sends to the VMs what this process asks it to.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;

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

/// The router sends one frame of `octets` octets to each of these addresses.
pub fn send(to: impl Iterator<Item = IpAddr>, octets: usize) {
    let socket = UdpSocket::bind((ROUTER, 4000)).expect("the router's address");
    let payload = vec![0; octets - HEADERS];
    for address in to {
        socket.send_to(&payload, (address, 5000)).expect("a way to the VMs");
    }
}
