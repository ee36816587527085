//! What the third program takes out of a card's receive path, before the kernel makes a buffer of it.
//!
//! ```text
//! frame -- XDP --> AF_XDP socket of its queue
//!   shorter than its IP header:        passed on
//!   not to the card's own address:     passed on
//!   neither IPv4 nor IPv6:             passed on (ARP; tagged)
//!   ICMPv6 133 to 137, unfragmented:   passed on
//!   IPv4 or IPv6 to a VM:              taken
//!   anything else:                     passed on
//! ```
//! What is passed on meets the packet socket and the other two programs as if this one were not
//! there; so does what is for a queue that has no socket. Only the destination decides: fragments
//! and datagrams that make no sense are taken like all others to a VM, so that no flow is divided
//! between the two ways, and the base counts what it drops.

use std::os::fd::BorrowedFd;

use super::super::UplinkError;
use super::assembler::{Assembler, Helper, Label, Reg, Size, When};
use super::programs::{
    ETHERTYPE_AT, ETHERTYPE_IP4, ETHERTYPE_IP6, ICMP6, ICMP6_TYPE_AT, IP4_DESTINATION_AT,
    IP6_DESTINATION_AT, IP6_NEXT_HEADER_AT, KEY, KEY_ADDRESS, ND_FIRST, ND_LAST, field, finish,
};
use crate::names::Mac;

/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const QUEUE: i16 = 16;

/// Octets up to the end of an IPv4 header without options, and of an IPv6 header.
const IP4_END: i32 = 34;
const IP6_END: i32 = 54;

const XDP_PASS: i32 = 2;

/// R6 holds the context, R7 the frame, R8 its end.
impl Assembler {
    /// Jumps unless the frame has so many octets.
    fn need(&mut self, octets: i32, missing: Label) {
        self.copy(Reg::R0, Reg::R7);
        self.add(Reg::R0, octets);
        self.jump_above(Reg::R0, Reg::R8, missing);
    }

    /// R0 = a field of the frame, which is long enough.
    fn field(&mut self, size: Size, frame_at: i32) {
        self.load(size, Reg::R0, Reg::R7, frame_at as i16);
    }

    /// Jumps if the address of so many words in the frame is not in the map.
    fn jump_unless_in(&mut self, map: BorrowedFd<'_>, frame_at: i32, words: i16, to: Label) {
        self.store(Size::Word, Reg::R10, KEY, i32::from(words).saturating_mul(32));
        for word in 0..words {
            let offset = word.saturating_mul(4);
            self.field(Size::Word, frame_at.saturating_add(offset.into()));
            self.store_register(Reg::R10, KEY_ADDRESS.saturating_add(offset), Reg::R0);
        }
        self.load_map(Reg::R1, map);
        self.copy(Reg::R2, Reg::R10);
        self.add(Reg::R2, KEY.into());
        self.call(Helper::MapLookup);
        self.jump(When::Equal, Reg::R0, 0, to);
    }
}

/// Decides what the AF_XDP sockets of a card with this address get.
pub(in super::super) fn redirect(
    vm4: BorrowedFd<'_>,
    vm6: BorrowedFd<'_>,
    sockets: BorrowedFd<'_>,
    mac: Mac,
) -> Result<Vec<u8>, UplinkError> {
    let mut a = Assembler::default();
    let [pass, take, ip4, ip6, not_nd] = std::array::from_fn(|_| a.label());
    let [m0, m1, m2, m3, m4, m5] = mac.0;

    a.copy(Reg::R6, Reg::R1);
    a.load(Size::Word, Reg::R7, Reg::R1, DATA);
    a.load(Size::Word, Reg::R8, Reg::R1, DATA_END);
    a.need(IP4_END, pass);
    a.field(Size::Word, 0);
    a.jump_unless_word(Reg::R0, u32::from_ne_bytes([m0, m1, m2, m3]), pass);
    a.field(Size::Half, 4);
    a.jump(When::NotEqual, Reg::R0, u16::from_ne_bytes([m4, m5]).into(), pass);
    a.field(Size::Half, ETHERTYPE_AT);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_IP4), ip4);
    a.jump(When::Equal, Reg::R0, field(ETHERTYPE_IP6), ip6);
    a.go(pass);

    a.place(ip4);
    a.jump_unless_in(vm4, IP4_DESTINATION_AT, 1, pass);
    a.go(take);

    a.place(ip6);
    a.need(IP6_END, pass);
    a.field(Size::Byte, IP6_NEXT_HEADER_AT);
    a.jump(When::NotEqual, Reg::R0, ICMP6, not_nd);
    a.need(IP6_END.saturating_add(1), pass);
    a.field(Size::Byte, ICMP6_TYPE_AT);
    a.jump(When::Below, Reg::R0, ND_FIRST, not_nd);
    a.jump(When::Above, Reg::R0, ND_LAST, not_nd);
    a.go(pass);
    a.place(not_nd);
    a.jump_unless_in(vm6, IP6_DESTINATION_AT, 4, pass);

    a.place(take);
    a.load(Size::Word, Reg::R2, Reg::R6, QUEUE);
    a.load_map(Reg::R1, sockets);
    a.set(Reg::R3, XDP_PASS);
    a.call(Helper::RedirectMap);
    a.finish();
    a.place(pass);
    a.finish_with(XDP_PASS);
    finish(a)
}
