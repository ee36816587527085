//! What a front end is offered, and what follows from what it takes.
//!
//! Every feature here is one that a Linux guest uses well and that the base can make up for where
//! a receiver lacks it. Several queue pairs are offered where the port has them: a front end that takes
//! the protocol's MQ counts on it (Cloud Hypervisor then refuses to go on if the port has fewer than its
//! own count of rings). What is absent on purpose: LOG_ALL and LOG_SHMFD (the base cannot mark what it writes for a live migration),
//! INFLIGHT_SHMFD (rings complete in order, so the used index says all; packed rings have
//! a journal), CONFIG (a network card's
//! configuration space is the front end's business), MTU (a guest learns it by DHCP and router
//! advertisements).

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};

const fn bit(number: u32) -> u64 {
    1u64.wrapping_shl(number)
}

/// VIRTIO_NET_F_CSUM: the guest may leave checksums to the base.
pub const CSUM: u64 = bit(0);
/// VIRTIO_NET_F_GUEST_CSUM: the base may leave checksums to the guest.
pub const GUEST_CSUM: u64 = bit(1);
/// VIRTIO_NET_F_GUEST_TSO4: the guest takes large TCP sends over IPv4.
pub const GUEST_TSO4: u64 = bit(7);
/// VIRTIO_NET_F_GUEST_TSO6: and over IPv6.
pub const GUEST_TSO6: u64 = bit(8);
/// VIRTIO_NET_F_GUEST_ECN: and with congestion notified.
pub const GUEST_ECN: u64 = bit(9);
/// VIRTIO_NET_F_HOST_TSO4: the guest makes large TCP sends over IPv4.
pub const HOST_TSO4: u64 = bit(11);
/// VIRTIO_NET_F_HOST_TSO6: and over IPv6.
pub const HOST_TSO6: u64 = bit(12);
/// VIRTIO_NET_F_HOST_ECN: and with congestion notified.
pub const HOST_ECN: u64 = bit(13);
/// VIRTIO_NET_F_MRG_RXBUF: one frame may fill several of the guest's buffers.
pub const MRG_RXBUF: u64 = bit(15);
/// VIRTIO_NET_F_MQ: several queue pairs. Which of them are in use the driver says to its front end.
pub const MQ: u64 = bit(22);
/// VIRTIO_F_ANY_LAYOUT: a legacy guest may cut a chain where it likes.
pub const ANY_LAYOUT: u64 = bit(27);
/// VIRTIO_F_RING_INDIRECT_DESC.
pub const RING_INDIRECT_DESC: u64 = bit(28);
/// VIRTIO_F_RING_EVENT_IDX.
pub const RING_EVENT_IDX: u64 = bit(29);
/// VHOST_USER_F_PROTOCOL_FEATURES: rings start disabled, and the protocol has features too.
pub const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = bit(32);
/// VIRTIO_F_RING_PACKED.
pub const RING_PACKED: u64 = bit(34);
/// VIRTIO_F_IN_ORDER.
pub const IN_ORDER: u64 = bit(35);

/// The virtio features that the base offers; where a port has several queue pairs, [`MQ`] too.
pub const OFFERED: u64 = CSUM
    | GUEST_CSUM
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | ANY_LAYOUT
    | RING_INDIRECT_DESC
    | RING_EVENT_IDX
    | PROTOCOL_FEATURES
    | VERSION_1
    | RING_PACKED
    | IN_ORDER;

/// REPLY_ACK: a request may ask to be told whether it was carried out.
pub const REPLY_ACK: u64 = VhostUserProtocolFeatures::REPLY_ACK.bits();
/// CONFIGURE_MEM_SLOTS: memory may come and go a region at a time.
pub const MEM_SLOTS: u64 = VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS.bits();

/// MQ: the front end may ask how many queue pairs there are.
pub const PROTOCOL_MQ: u64 = VhostUserProtocolFeatures::MQ.bits();

/// The protocol features that the base offers where a port has one queue pair.
pub const PROTOCOL_OFFERED: u64 = REPLY_ACK | MEM_SLOTS;

/// What a port with so many queue pairs offers: virtio features, and the protocol's. Several pairs do
/// without memory slots: QEMU 7.2 adds each region once for every pair, and takes the refusal of the
/// second time for a failure of the card. A table of regions it sends once.
pub fn offered(pairs: usize) -> (u64, u64) {
    match pairs {
        0 | 1 => (OFFERED, PROTOCOL_OFFERED),
        _ => (OFFERED | MQ, REPLY_ACK | PROTOCOL_MQ),
    }
}
