//! The headers in front of a datagram on its way to a guest.
//!
//! They are the same for all datagrams of one family that go to one guest, but for those that leave
//! work to it. So they are made once per receiver and batch, and copied before each datagram.

use virtqueue::NetHeader;

use crate::datagram::ethertype;
use crate::names::Mac;
use crate::storage::HEADERS;

/// The headers in front of a datagram that goes to one guest and needs no more to be done to it, for
/// either family.
pub struct Envelope {
    four: [u8; HEADERS],
    six: [u8; HEADERS],
}

impl Envelope {
    /// For the guest with this MAC address.
    pub fn to(mac: Mac) -> Self {
        Self { four: headers(mac, ethertype::IP4), six: headers(mac, ethertype::IP6) }
    }

    /// Writes them before the datagram that lies behind the room for them.
    #[inline]
    pub fn put_on(&self, whole: &mut [u8]) {
        let Some((headers, datagram)) = whole.split_first_chunk_mut::<HEADERS>() else { return };
        *headers = *self.of(datagram);
    }

    /// Those for a datagram.
    #[inline]
    pub fn of(&self, datagram: &[u8]) -> &[u8; HEADERS] {
        let six = datagram.first().is_some_and(|b| b >> 4 == 6);
        if six { &self.six } else { &self.four }
    }
}

/// A virtio-net header that says nothing but that the frame lies in one buffer, and an Ethernet header
/// from the base to the guest.
#[inline]
fn headers(mac: Mac, ethertype: u16) -> [u8; HEADERS] {
    let one = NetHeader { num_buffers: 1, ..NetHeader::default() };
    let [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11] = one.to_bytes();
    let [d0, d1, d2, d3, d4, d5] = mac.0;
    let [s0, s1, s2, s3, s4, s5] = Mac::BASE.0;
    let [t0, t1] = ethertype.to_be_bytes();
    [
        n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, d0, d1, d2, d3, d4, d5, s0, s1, s2, s3,
        s4, s5, t0, t1,
    ]
}
