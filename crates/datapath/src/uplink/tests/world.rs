//! Two network namespaces joined by a cable: the machine with its card, and outside.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{RecvFlags, recv};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use virtqueue::NetHeader;

use crate::names::Mac;
use crate::netlink::{Link, Netlink};
use crate::uplink::sys;

pub(crate) const CARD: &str = "card";
pub(crate) const PEER: &str = "peer";
pub(crate) const CARD_MAC: Mac = Mac([0x02, 0, 0, 0, 1, 1]);
pub(crate) const PEER_MAC: Mac = Mac([0x02, 0, 0, 0, 1, 2]);

/// What a test stands in: the thread is in the machine's namespace.
pub(crate) struct World {
    machine: OwnedFd,
    outside: OwnedFd,
    pub netlink: Netlink,
    pub card: Link,
    pub peer: Link,
}

fn here() -> OwnedFd {
    open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn new_namespace() -> OwnedFd {
    sys::unshare_network()
        .expect("this test makes network namespaces and needs root (CAP_SYS_ADMIN)");
    let mut netlink = Netlink::open().unwrap();
    let lo = netlink.link("lo").unwrap().unwrap();
    netlink.set_link_up(lo.index, true).unwrap();
    here()
}

fn enter(namespace: &OwnedFd) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

impl World {
    /// Runs a test in a fresh world, on a thread of its own.
    pub fn run(test: impl FnOnce(&mut Self) + Send) {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let outside = new_namespace();
                    let machine = new_namespace();
                    let mut world = Self::build(machine, outside);
                    test(&mut world);
                })
                .join()
                .unwrap_or_else(|e| std::panic::resume_unwind(e));
        });
    }

    fn build(machine: OwnedFd, outside: OwnedFd) -> Self {
        let mut netlink = Netlink::open().unwrap();
        netlink.add_veth(CARD, PEER, outside.as_fd());
        let card = netlink.link(CARD).unwrap().unwrap();
        let ready = |netlink: &mut Netlink, name: &str, mac: Mac| {
            let link = netlink.link(name).unwrap().unwrap();
            netlink.set_link_mac(link.index, mac);
            netlink.set_link_without_addresses(link.index).unwrap();
            netlink.set_link_up(link.index, true).unwrap();
        };
        ready(&mut netlink, CARD, CARD_MAC);
        let mut world = Self { machine, outside, netlink, peer: card.clone(), card };
        world.peer = world.outside(|netlink| {
            ready(netlink, PEER, PEER_MAC);
            netlink.link(PEER).unwrap().unwrap()
        });
        world.card = world.netlink.link(CARD).unwrap().unwrap();
        world
    }

    /// Takes the card out and puts in a new one of the same name.
    pub fn replace_card(&mut self) {
        self.netlink.remove_link(self.card.index);
        let dup = |fd: &OwnedFd| fd.try_clone().unwrap();
        *self = Self::build(dup(&self.machine), dup(&self.outside));
    }

    /// Does something outside.
    pub fn outside<T>(&self, something: impl FnOnce(&mut Netlink) -> T) -> T {
        enter(&self.outside);
        let result = something(&mut Netlink::open().unwrap());
        enter(&self.machine);
        result
    }

    /// Somebody on the LAN who sends and sees raw frames.
    pub fn peer(&self) -> Peer {
        self.outside(|_| Peer::open(self.peer.index))
    }

    /// Gives machine and outside addresses on the cable: .1 and .2, ::1 and ::2.
    pub fn address(&mut self) {
        for net in ["203.0.113.1/24", "2001:db8:1::1/64"] {
            self.netlink.add_address(self.card.index, net);
        }
        let peer = self.peer.index;
        self.outside(|netlink| {
            for net in ["203.0.113.2/24", "2001:db8:1::2/64"] {
                netlink.add_address(peer, net);
            }
        });
    }
}

/// Sets a kernel parameter of the current namespace.
pub(crate) fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

/// Waits until a descriptor is readable; false if it is not in time.
pub(crate) fn readable(fd: impl AsFd) -> bool {
    readable_within(fd, Duration::from_secs(5))
}

/// Waits until a descriptor is readable; false if it is not in time.
pub(crate) fn readable_within(fd: impl AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut fds, Some(&time)).unwrap() > 0
}

/// A raw socket with virtio-net headers.
pub(crate) struct Peer(OwnedFd);

impl Peer {
    fn open(index: u32) -> Self {
        let socket = sys::packet_socket().unwrap();
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
            sys::set_int(socket.as_fd(), libc::SOL_PACKET, option, 1).unwrap();
        }
        sys::bind(socket.as_fd(), index, libc::ETH_P_ALL as u16).unwrap();
        Self(socket)
    }

    pub fn send_with(&self, header: NetHeader, frame: &[u8]) {
        let header = header.to_bytes();
        let parts = [IoSlice::new(&header[..NetHeader::SHORT_LEN]), IoSlice::new(frame)];
        rustix::io::writev(&self.0, &parts).unwrap();
    }

    pub fn send(&self, frame: &[u8]) {
        self.send_with(NetHeader::default(), frame);
    }

    /// The next frame that somebody else sent, `None` if there is none within the time.
    pub fn receive_within(&self, time: Duration) -> Option<(NetHeader, Vec<u8>)> {
        if !readable_within(&self.0, time) {
            return None;
        }
        let mut buffer = vec![0; 128 * 1024];
        let (len, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty()).unwrap();
        let mut header = [0; NetHeader::LEN];
        header[..NetHeader::SHORT_LEN].copy_from_slice(&buffer[..NetHeader::SHORT_LEN]);
        let frame = buffer[NetHeader::SHORT_LEN..len].to_vec();
        Some((NetHeader::from_bytes(header), frame))
    }

    pub fn receive(&self) -> (NetHeader, Vec<u8>) {
        self.receive_within(Duration::from_secs(1)).expect("a frame in time")
    }
}

/// An Ethernet header.
pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16) -> [u8; 14] {
    let mut bytes = [0; 14];
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..].copy_from_slice(&kind.to_be_bytes());
    bytes
}

/// A frame from outside to the card.
pub(crate) fn frame_in(kind: u16, datagram: &[u8]) -> Vec<u8> {
    [&ethernet(CARD_MAC, PEER_MAC, kind)[..], datagram].concat()
}

/// The sum that IP checksums are made of.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 datagram.
pub(crate) fn ip4(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (from.parse().unwrap(), to.parse().unwrap());
    let len = (20 + payload.len()) as u16;
    let mut header = [0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0].to_vec();
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header.extend(from.octets());
    header.extend(to.octets());
    let checksum = fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header.extend(payload);
    header
}

/// An IPv6 datagram.
pub(crate) fn ip6(from: &str, to: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), to.parse().unwrap());
    let [h, l] = (payload.len() as u16).to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, h, l, next, hops];
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(payload);
    bytes
}

/// An ICMPv6 message in its datagram, checksum filled in.
pub(crate) fn icmp6(from: &str, to: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = ip6(from, to, 58, 255, message);
    let pseudo = sum(&bytes[8..40]) + 58 + message.len() as u32;
    let checksum = fold(pseudo + sum(message));
    bytes[42..44].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// A neighbour solicitation for `target`, to its solicited-node group.
pub(crate) fn solicitation(from: &str, target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(PEER_MAC.0);
    let to = Mac([0x33, 0x33, 0xff, a, b, c]);
    [&ethernet(to, PEER_MAC, 0x86dd)[..], &icmp6(from, &group.to_string(), &message)].concat()
}

/// An ARP request from outside.
pub(crate) fn arp_request(from: &str, target: &str) -> Vec<u8> {
    let (from, target): (Ipv4Addr, Ipv4Addr) = (from.parse().unwrap(), target.parse().unwrap());
    let mut bytes = ethernet(Mac::BROADCAST, PEER_MAC, 0x0806).to_vec();
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(PEER_MAC.0);
    bytes.extend(from.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    bytes
}

/// Does something on a thread that has no capability at all.
pub(crate) fn without_capabilities(something: impl FnOnce() + Send) {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).unwrap();
            something();
        });
        thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}
