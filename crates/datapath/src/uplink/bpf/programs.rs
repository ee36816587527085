//! What the two programs decide.
//!
//! ```text
//! frame -- socket filter --> base            frame -- ingress --> host's stack
//!   not for this machine:  no                  tagged:                         yes
//!   tagged:                first octets only   ARP request for a VM's address: no
//!   ARP:                   yes                 IPv4 to a VM:                   no
//!   IPv4 to the host:      no                  IPv6 to a VM:                   no
//!   IPv6 to the host:      only ND (133..137)  solicitation for a VM's:        no
//!   anything else:         yes                 anything else:                  yes
//! ```
//! ARP and neighbour discovery to the host reach the base as well: the base may have asked in the
//! host's name. A tagged frame reaches the base as a stub, enough to be counted: it may be one of
//! very many that are the host's. "Yes" at the ingress means that other filters decide (UNSPEC).
//!
//! Both programs see the frame from its Ethernet header on. A field that is not there, because the
//! frame is too short, decides nothing: the base counts malformed frames, and the host ignores them.

use std::os::fd::BorrowedFd;

use super::super::UplinkError;
use super::assembler::{Assembler, Helper, Label, Reg, Size, When};

/// Offsets in `struct __sk_buff`.
const PACKET_TYPE: i16 = 4;
const VLAN_PRESENT: i16 = 20;

/// The highest packet type that is for this machine: host, broadcast, multicast.
const FOR_US: i32 = 2;

/// Where things lie in a frame.
pub(super) const ETHERTYPE_AT: i32 = 12;
const ARP_OPERATION_AT: i32 = 20;
const ARP_TARGET_AT: i32 = 38;
pub(super) const IP4_DESTINATION_AT: i32 = 30;
pub(super) const IP6_NEXT_HEADER_AT: i32 = 20;
pub(super) const IP6_DESTINATION_AT: i32 = 38;
pub(super) const ICMP6_TYPE_AT: i32 = 54;
const ND_TARGET_AT: i32 = 62;

pub(super) const ETHERTYPE_IP4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IP6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
pub(super) const ICMP6: i32 = 58;
pub(super) const ND_FIRST: i32 = 133;
const ND_SOLICITATION: i32 = 135;
pub(super) const ND_LAST: i32 = 137;

/// Results of a socket filter: how many octets the socket gets.
const NOTHING: i32 = 0;
const STUB: i32 = 64;
const ALL: i32 = -1;

/// Results at the ingress.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// Where on the program's stack a field and a map's key lie.
const FIELD: i16 = -8;
pub(super) const KEY: i16 = -32;
pub(super) const KEY_ADDRESS: i16 = -28;

/// Steps that both programs are made of. R6 holds the context throughout.
impl Assembler {
    fn begin(&mut self) {
        self.copy(Reg::R6, Reg::R1);
    }

    /// Copies `len` octets of the frame to the stack; `missing` if it is too short.
    fn fetch(&mut self, frame_at: i32, stack_at: i16, len: i32, missing: Label) {
        self.copy(Reg::R1, Reg::R6);
        self.set(Reg::R2, frame_at);
        self.copy(Reg::R3, Reg::R10);
        self.add(Reg::R3, stack_at.into());
        self.set(Reg::R4, len);
        self.call(Helper::LoadBytes);
        self.jump(When::NotEqual, Reg::R0, 0, missing);
    }

    /// R0 = a field of the frame as it lies in memory; `missing` if it is too short.
    fn fetch_field(&mut self, frame_at: i32, size: Size, missing: Label) {
        let len = match size {
            Size::Byte => 1,
            Size::Half => 2,
            Size::Word => 4,
        };
        self.fetch(frame_at, FIELD, len, missing);
        self.load(size, Reg::R0, Reg::R10, FIELD);
    }

    /// Jumps if the address of `len` octets in the frame is in the map.
    fn jump_if_in(
        &mut self,
        map: BorrowedFd<'_>,
        frame_at: i32,
        len: i32,
        to: Label,
        missing: Label,
    ) {
        self.store(Size::Word, Reg::R10, KEY, len.saturating_mul(8));
        self.fetch(frame_at, KEY_ADDRESS, len, missing);
        self.load_map(Reg::R1, map);
        self.copy(Reg::R2, Reg::R10);
        self.add(Reg::R2, KEY.into());
        self.call(Helper::MapLookup);
        self.jump(When::NotEqual, Reg::R0, 0, to);
    }
}

/// A 16-bit field as the program finds it when it loads it without swapping.
pub(super) fn field(value: u16) -> i32 {
    value.to_be().into()
}

pub(super) fn finish(program: Assembler) -> Result<Vec<u8>, UplinkError> {
    program.assemble().map_err(|e| UplinkError::Kernel {
        action: "put a filter program together".to_owned(),
        source: std::io::Error::other(e),
    })
}

/// Decides what a packet socket gets: not what is addressed to the host itself.
pub(in super::super) fn socket_filter(
    host4: BorrowedFd<'_>,
    host6: BorrowedFd<'_>,
) -> Result<Vec<u8>, UplinkError> {
    let mut a = Assembler::default();
    let [accept, reject, tagged, ip4, ip6, to_host6] = std::array::from_fn(|_| a.label());

    a.begin();
    a.load(Size::Word, Reg::R0, Reg::R6, PACKET_TYPE);
    a.jump(When::Above, Reg::R0, FOR_US, reject);
    a.load(Size::Word, Reg::R0, Reg::R6, VLAN_PRESENT);
    a.jump(When::NotEqual, Reg::R0, 0, tagged);
    a.fetch_field(ETHERTYPE_AT, Size::Half, accept);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_IP4), ip4);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_IP6), ip6);
    a.go(accept);

    a.place(ip4);
    a.jump_if_in(host4, IP4_DESTINATION_AT, 4, reject, accept);
    a.go(accept);

    a.place(ip6);
    a.jump_if_in(host6, IP6_DESTINATION_AT, 16, to_host6, accept);
    a.go(accept);

    a.place(to_host6);
    a.fetch_field(IP6_NEXT_HEADER_AT, Size::Byte, reject);
    a.jump(When::NotEqual, Reg::R0, ICMP6, reject);
    a.fetch_field(ICMP6_TYPE_AT, Size::Byte, reject);
    a.jump(When::Below, Reg::R0, ND_FIRST, reject);
    a.jump(When::Above, Reg::R0, ND_LAST, reject);
    a.go(accept);

    a.place(reject);
    a.finish_with(NOTHING);
    a.place(tagged);
    a.finish_with(STUB);
    a.place(accept);
    a.finish_with(ALL);
    finish(a)
}

/// Decides at the card's ingress what the host's stack does not get: what is for a VM.
pub(in super::super) fn ingress(
    vm4: BorrowedFd<'_>,
    vm6: BorrowedFd<'_>,
) -> Result<Vec<u8>, UplinkError> {
    let mut a = Assembler::default();
    let [pass, shot, arp, ip4, ip6] = std::array::from_fn(|_| a.label());

    a.begin();
    a.load(Size::Word, Reg::R0, Reg::R6, VLAN_PRESENT);
    a.jump(When::NotEqual, Reg::R0, 0, pass);
    a.fetch_field(ETHERTYPE_AT, Size::Half, pass);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_IP4), ip4);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_IP6), ip6);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_ARP), arp);
    a.go(pass);

    a.place(ip4);
    a.jump_if_in(vm4, IP4_DESTINATION_AT, 4, shot, pass);
    a.go(pass);

    a.place(arp);
    a.fetch_field(ARP_OPERATION_AT, Size::Half, pass);
    a.jump(When::NotEqual, Reg::R0, field(ARP_REQUEST), pass);
    a.jump_if_in(vm4, ARP_TARGET_AT, 4, shot, pass);
    a.go(pass);

    a.place(ip6);
    a.jump_if_in(vm6, IP6_DESTINATION_AT, 16, shot, pass);
    a.fetch_field(IP6_NEXT_HEADER_AT, Size::Byte, pass);
    a.jump(When::NotEqual, Reg::R0, ICMP6, pass);
    a.fetch_field(ICMP6_TYPE_AT, Size::Byte, pass);
    a.jump(When::NotEqual, Reg::R0, ND_SOLICITATION, pass);
    a.jump_if_in(vm6, ND_TARGET_AT, 16, shot, pass);
    a.go(pass);

    a.place(shot);
    a.finish_with(TC_ACT_SHOT);
    a.place(pass);
    a.finish_with(TC_ACT_UNSPEC);
    finish(a)
}

/// Lets the first octets of everything through.
#[cfg(test)]
pub(in super::super) fn cut(octets: i32) -> Vec<u8> {
    let mut a = Assembler::default();
    a.finish_with(octets);
    a.assemble().unwrap()
}
