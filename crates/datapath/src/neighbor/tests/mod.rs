//! The LAN side against a LAN played by the test. What it sends is read by smoltcp; time is moved by
//! hand.
#![allow(clippy::arithmetic_side_effects)]

mod claims;
mod groups;
mod hostile;
mod resolution;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6ExtHeader, Ipv6Packet, MldAddressRecord, MldRepr, NdiscNeighborFlags,
    NdiscRepr,
};

use super::*;
use crate::datagram::craft;
use crate::datagram::{ethertype, parse};
use crate::names::Owner;

pub const CARD: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub const THIRD: Mac = Mac([2, 0, 0, 0, 0, 3]);
pub const VM4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const PEER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const HOST4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const VM6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0x12, 0x3456);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x20);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub const HOST_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub const PORT: PortId = PortId(7);
pub const VM: Asker = Asker { owner: Owner::Port(PORT), address: Some(IpAddr::V4(VM4)) };

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn settings() -> Settings {
    Settings {
        mac: CARD,
        prefixes: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        on_link: true,
        gateway4: Some(GATEWAY4),
        gateway6: Some(GATEWAY6),
        host4: Some(HOST4),
        host6: Some(HOST6),
        link_local: Some(HOST_LINK),
    }
}

/// A frame, as a foreign implementation reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Arp { to: Mac, reply: bool, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr },
    Ns { to: Mac, source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, link: Option<Mac> },
    Na { to: Mac, source: Ipv6Addr, destination: Ipv6Addr, flags: NdiscNeighborFlags },
    Report { to: Mac, source: Ipv6Addr, records: Vec<(u8, Ipv6Addr)> },
}

fn mac(bytes: &[u8]) -> Mac {
    Mac(*bytes.first_chunk().unwrap())
}

pub fn read(frame: &[u8], card: Mac) -> Seen {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!(ethernet.src_addr().0, card.0, "a frame with another source than the card");
    let to = Mac(ethernet.dst_addr().0);
    if ethernet.ethertype() == EthernetProtocol::Arp {
        let packet = ArpPacket::new_checked(ethernet.payload()).unwrap();
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: sender,
            target_hardware_addr,
            target_protocol_addr: target,
        } = ArpRepr::parse(&packet).unwrap()
        else {
            panic!("not ARP for IPv4")
        };
        assert_eq!(source_hardware_addr.0, card.0);
        let reply = operation == ArpOperation::Reply;
        return Seen::Arp { to, reply, sender, target_mac: Mac(target_hardware_addr.0), target };
    }
    let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let (message, limit) = if ip.next_header() == IpProtocol::HopByHop {
        let options = Ipv6ExtHeader::new_checked(ip.payload()).unwrap();
        assert_eq!(options.next_header(), IpProtocol::Icmpv6);
        assert_eq!(options.payload(), [5, 2, 0, 0, 1, 0], "router alert for MLD, padding");
        (&ip.payload()[8..], 1)
    } else {
        (ip.payload(), 255)
    };
    assert_eq!(ip.hop_limit(), limit);
    let packet = Icmpv6Packet::new_checked(message).unwrap();
    let checksums = ChecksumCapabilities::default();
    match Icmpv6Repr::parse(&source, &destination, &packet, &checksums).unwrap() {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr }) => {
            let link = lladdr.map(|l| mac(l.as_bytes()));
            Seen::Ns { to, source, destination, target, link }
        }
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) => {
            assert_eq!(target_addr, source, "spoken for itself");
            assert_eq!(mac(lladdr.unwrap().as_bytes()), card);
            Seen::Na { to, source, destination, flags }
        }
        Icmpv6Repr::Mld(MldRepr::Report { nr_mcast_addr_rcrds, mut data }) => {
            assert_eq!(destination, "ff02::16".parse::<Ipv6Addr>().unwrap());
            let mut records = Vec::new();
            for _ in 0..nr_mcast_addr_rcrds {
                let record = MldAddressRecord::new_checked(data).unwrap();
                assert_eq!((record.num_srcs(), record.aux_data_len()), (0, 0));
                records.push((record.record_type().into(), record.mcast_addr()));
                data = &data[20..];
            }
            assert!(data.is_empty());
            Seen::Report { to, source, records }
        }
        other => panic!("unexpected message {other:?}"),
    }
}

/// The LAN side with a clock of its own.
pub struct Bench {
    pub lan: Lan,
    pub now: Instant,
    pub out: Outbox,
    pub seen: Vec<Seen>,
    pub events: Vec<Event>,
    pub learned: Vec<(IpAddr, Option<Mac>)>,
}

impl Bench {
    pub fn new(settings: Settings) -> Self {
        let (lan, out) = (Lan::new(settings), Outbox::new());
        let (seen, events, learned) = (Vec::new(), Vec::new(), Vec::new());
        Self { lan, now: Instant::now(), out, seen, events, learned }
    }

    /// One that holds the VM's addresses.
    pub fn holding() -> Self {
        let mut bench = Self::new(settings());
        let addresses = [(VM4.into(), PORT), (VM6.into(), PORT)];
        bench.lan.restore_claimed(addresses, &mut bench.out);
        bench.out.clear();
        bench
    }

    fn collect(&mut self) {
        for (header, rest) in self.out.frames() {
            let frame = [&header[..], rest].concat();
            self.seen.push(read(&frame, self.lan.settings().mac));
        }
        self.events.extend(self.out.events());
        self.learned.extend_from_slice(self.out.learned());
        self.out.clear();
    }

    pub fn lookup(&mut self, hop: impl Into<IpAddr>, asker: Asker) -> Lookup {
        let lookup = self.lan.lookup(self.now, hop.into(), asker, &mut self.out);
        self.collect();
        lookup
    }

    pub fn claim(&mut self, address: impl Into<IpAddr>) {
        self.lan.claim(self.now, address.into(), PORT, &mut self.out);
        self.collect();
    }

    pub fn release(&mut self, address: impl Into<IpAddr>) {
        self.lan.release(self.now, address.into(), &mut self.out);
        self.collect();
    }

    pub fn feed(&mut self, frame: &[u8]) -> Result<Heard, Counter> {
        let (ethernet, payload) = parse(frame)?;
        let heard = self.lan.input(self.now, &ethernet, &payload, &mut self.out);
        self.collect();
        heard
    }

    /// Moves time on, polling whenever something is due.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.lan.next_deadline().filter(|d| *d <= end) {
            self.now = self.now.max(due);
            self.lan.poll(self.now, &mut self.out);
            self.collect();
        }
        self.now = end;
    }

    /// What was sent since the last call.
    pub fn sent(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// What was told since the last call.
    pub fn told(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

/// An ARP message from somebody on the LAN.
pub fn arp(from: Mac, reply: bool, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &from.0[..], &ethertype::ARP.to_be_bytes()].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, if reply { 2 } else { 1 }]);
    frame.extend(from.0);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame.resize(60, 0);
    frame
}

/// An ICMPv6 datagram in a frame from somebody on the LAN.
pub fn frame6(from: Mac, datagram: &[u8]) -> Vec<u8> {
    [&CARD.0, &from.0[..], &ethertype::IP6.to_be_bytes(), datagram].concat()
}

fn option(kind: u8, link: Option<Mac>) -> Vec<u8> {
    link.map_or(Vec::new(), |mac| [&[kind, 1], &mac.0[..]].concat())
}

/// A neighbour solicitation.
pub fn ns(from: Mac, source: Ipv6Addr, target: Ipv6Addr, link: Option<Mac>) -> Vec<u8> {
    let destination = ndp::solicited_node(target);
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &option(1, link)].concat();
    frame6(from, &craft::icmp6((source, destination), 255, message))
}

/// A neighbour advertisement.
pub fn na(from: Mac, target: Ipv6Addr, to: Ipv6Addr, flags: u8, link: Option<Mac>) -> Vec<u8> {
    let head = [136, 0, 0, 0, flags, 0, 0, 0];
    let message = [&head, &target.octets()[..], &option(2, link)].concat();
    frame6(from, &craft::icmp6((target, to), 255, message))
}

pub fn arp_request(to: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Seen {
    Seen::Arp { to, reply: false, sender, target_mac: Mac([0; 6]), target }
}
