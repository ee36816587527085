//! What happened to each datagram, counted where it is decided, per owner and reason.
//!
//! # Theory of operation
//! Every datagram that the base takes, from a VM's ring, from the card or from the host, meets
//! exactly one fate: delivered to a VM, sent to the uplink, sent to the host, answered or heard in
//! silence by the base itself, or dropped for a named reason. A datagram waiting for a neighbour
//! has not met its fate yet. So for each owner
//! `taken + fragments = to_vm + to_uplink + to_host + to_resolver + answered + silent + sum(drops) + waiting`, and
//! no term is computed from the others: each fragment meets a fate of its own.
//!
//! Drops are counted at the owner who sent the datagram, but for those the receiver causes (no
//! receive buffer, port down): these count at the receiver, under a name that begins with `rx_`;
//! then the sender's `to_vm` counts the datagram as handed on.
//!
//! Counters lie in the state memory and survive the base. Several workers may count for one owner (one
//! sends for it while another delivers to it), so each addition is atomic, and the common datagram's
//! are added up over its batch first. They change all the time, so they are
//! the one part of that memory that nothing vouches for: a counter that was damaged is a wrong number,
//! and nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::names::Owner;
use crate::state::StateMemory;

macro_rules! counters {
    ($(#[doc = $meaning:literal] $variant:ident = $name:literal,)*) => {
        /// One counter of an owner. The order is part of the state memory's layout: append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Counter { $(#[doc = $meaning] $variant,)* }

        impl Counter {
            /// All counters, in layout order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that people and programs see.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it counts, as `docs/counters.md` says too.
            #[cfg(test)]
            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }.trim()
            }
        }
    };
}

counters! {
    /// Datagrams taken from this owner.
    Taken = "taken",
    /// Octets of them, IP headers included.
    TakenBytes = "taken_bytes",
    /// Datagrams of this owner handed to a VM.
    ToVm = "to_vm",
    /// Datagrams of this owner sent on the uplink.
    ToUplink = "to_uplink",
    /// Datagrams of this owner given to the host's stack.
    ToHost = "to_host",
    /// Messages of this owner that the base answered itself.
    Answered = "answered",
    /// Last-inch messages of this owner that call for no answer.
    Silent = "silent",
    /// Datagrams that reached this owner.
    Delivered = "delivered",
    /// Octets of them.
    DeliveredBytes = "delivered_bytes",
    /// Datagrams of this owner that had to wait for a neighbour (each also meets a fate).
    Waited = "waited",
    /// Datagrams of this owner cut into IPv4 fragments for the next link.
    Fragmented = "fragmented",
    /// Large sends to this owner cut into segments because it cannot take them whole.
    Segmented = "segmented",
    /// ICMP errors sent to this owner.
    IcmpErrors = "icmp_errors",
    /// ICMP errors not sent because this owner has caused too many.
    IcmpLimited = "icmp_limited",

    /// Frame shorter than an Ethernet header, or longer than any datagram.
    DropFrameLength = "drop.frame_length",
    /// Neither ARP nor IPv4 nor IPv6.
    DropEthertype = "drop.ethertype_unknown",
    /// The frame carries a VLAN tag.
    DropVlan = "drop.vlan_tagged",
    /// ARP message that is not ARP for IPv4 over Ethernet, or too short.
    DropArpMalformed = "drop.arp_malformed",
    /// Shorter than an IPv4 header.
    DropIp4Truncated = "drop.ip4_truncated",
    /// Version field is not 4.
    DropIp4Version = "drop.ip4_version",
    /// Header length below 20 or beyond the datagram.
    DropIp4HeaderLength = "drop.ip4_header_length",
    /// Total length below the header or beyond the frame.
    DropIp4TotalLength = "drop.ip4_total_length",
    /// Header checksum wrong.
    DropIp4Checksum = "drop.ip4_checksum",
    /// Shorter than an IPv6 header.
    DropIp6Truncated = "drop.ip6_truncated",
    /// Version field is not 6.
    DropIp6Version = "drop.ip6_version",
    /// Payload length beyond the frame, or a jumbogram.
    DropIp6PayloadLength = "drop.ip6_payload_length",
    /// More extension headers than the base walks, or one that is cut short.
    DropIp6HeaderChain = "drop.ip6_header_chain",
    /// First fragment without its upper-layer header (RFC 7112).
    DropFirstFragment = "drop.first_fragment_incomplete",
    /// Fragmented neighbour discovery (RFC 6980).
    DropNdpFragmented = "drop.ndp_fragmented",
    /// ARP, ICMPv6 133 to 137 or the like that asks to cross the last inch.
    DropLastInch = "drop.last_inch",
    /// A DHCP server's reply from a VM or from outside.
    DropDhcpReply = "drop.dhcp_reply",
    /// DHCP or neighbour message for the base that does not parse.
    DropAnswerMalformed = "drop.answer_malformed",
    /// Virtio-net header: checksum range not that of the transport header.
    DropOffloadChecksum = "drop.offload_checksum",
    /// Virtio-net header: segmentation type, size or headers not those of the datagram.
    DropOffloadSegmentation = "drop.offload_segmentation",
    /// Virtio-net header: an offload that was not negotiated.
    DropOffloadNotNegotiated = "drop.offload_not_negotiated",

    /// Source is not an address of this VM.
    DropSourceNotOwn = "drop.source_not_own",
    /// Source 0.0.0.0 or :: beyond the last inch.
    DropSourceUnspecified = "drop.source_unspecified",
    /// Source 127/8 or ::1.
    DropSourceLoopback = "drop.source_loopback",
    /// Source link-local beyond the last inch.
    DropSourceLinkLocal = "drop.source_link_local",
    /// Source multicast.
    DropSourceMulticast = "drop.source_multicast",
    /// Source broadcast (255.255.255.255 or the prefix's).
    DropSourceBroadcast = "drop.source_broadcast",
    /// Source 0/8 or 240/4 or otherwise reserved.
    DropSourceReserved = "drop.source_reserved",
    /// From the uplink with a source that is in the list: a forgery or a loop.
    DropSourceInList = "drop.source_in_list",
    /// Destination is the sender's own address.
    DropDestinationOwn = "drop.destination_own",
    /// Destination 0.0.0.0 or ::.
    DropDestinationUnspecified = "drop.destination_unspecified",
    /// Destination 127/8 or ::1.
    DropDestinationLoopback = "drop.destination_loopback",
    /// Destination link-local, not one the base answers.
    DropDestinationLinkLocal = "drop.destination_link_local",
    /// Destination multicast.
    DropDestinationMulticast = "drop.destination_multicast",
    /// Destination broadcast.
    DropDestinationBroadcast = "drop.destination_broadcast",
    /// Destination 0/8 or 240/4 or otherwise reserved.
    DropDestinationReserved = "drop.destination_reserved",
    /// To the base's own last-inch address, and nothing it serves.
    DropNotServed = "drop.not_served",

    /// From the uplink, destination not in the list.
    DropUnknownDestination = "drop.unknown_destination",
    /// From a VM, destination not in the list, and the network has no uplink.
    DropNoUplink = "drop.no_uplink",
    /// From a VM, destination not on link, and there is no gateway of its family.
    DropNoGateway = "drop.no_gateway",
    /// Destination is the host, and this network has no path to the host.
    DropNoHostPath = "drop.no_host_path",
    /// From the host's stack with a source that is not the host's, or to no VM of this network.
    DropHostForwarded = "drop.host_forwarded",
    /// Too large for the next link, and may not be fragmented; the sender is told.
    DropTooBig = "drop.too_big",
    /// Segment size of a large send too large for the next link; the sender is told.
    DropSegmentTooBig = "drop.segment_too_big",
    /// The LAN neighbour did not answer; the sender is told.
    DropNeighborUnreachable = "drop.neighbor_unreachable",
    /// Too many datagrams of this owner wait for neighbours: the oldest went.
    DropNeighborQueueFull = "drop.neighbor_queue_full",
    /// The card's link is down or the card is gone.
    DropUplinkDown = "drop.uplink_down",
    /// The kernel refused to send.
    DropUplinkSend = "drop.uplink_send",
    /// The host's stack refused to take.
    DropHostSend = "drop.host_send",
    /// Received from the card cut short.
    DropUplinkClipped = "drop.uplink_clipped",
    /// The card's receive ring was full: counted by the kernel, owner unknown.
    DropUplinkRingFull = "drop.uplink_ring_full",

    /// The receiver had no receive buffer.
    RxNoBuffer = "drop.rx_no_buffer",
    /// The receiver's buffer is too small, and it does not take several.
    RxBufferTooSmall = "drop.rx_buffer_too_small",
    /// The receiver has no driver attached, or its driver is not ready.
    RxPortDown = "drop.rx_port_down",
    /// The receiver's rings are broken.
    RxPortBroken = "drop.rx_port_broken",
    /// The receiver's MAC address is not known yet.
    RxMacUnknown = "drop.mac_unknown",

    /// Ring: available index moved by more than the ring's size.
    BreakAvailIndex = "break.avail_index",
    /// Ring: used index found when the ring starts contradicts the available index.
    BreakUsedIndex = "break.used_index",
    /// Ring: head of a chain beyond the ring.
    BreakHeadIndex = "break.head_index",
    /// Ring: next index of a descriptor beyond its table.
    BreakNextIndex = "break.next_index",
    /// Ring: chain longer than its table (a loop).
    BreakChainLoop = "break.chain_loop",
    /// Ring: descriptor outside the guest's memory.
    BreakDescriptorAddress = "break.descriptor_address",
    /// Ring: indirect table not negotiated, nested, chained, of a bad size or outside memory.
    BreakIndirect = "break.indirect_table",
    /// Ring: descriptor with the wrong direction for its queue.
    BreakDirection = "break.descriptor_direction",
    /// Ring: layout refused (size, alignment or address).
    BreakLayout = "break.layout",
    /// The front end shrank its memory file under the base.
    BreakMemoryTorn = "break.memory_torn",
    /// Ring: an output chain too short for the virtio-net header.
    BreakChainTooShort = "break.chain_too_short",
    /// Datagrams made by cutting this owner's into fragments, beyond the first of each.
    Fragments = "fragments",
    /// The receiver's buffers of this batch are cut into too many descriptors.
    RxEffort = "drop.rx_effort",
    /// The base had died of it twice: it was left out.
    DropPoison = "drop.poison",
    /// The receiver is quarantined: `ipvisor port reset` frees it.
    RxPortQuarantined = "drop.rx_port_quarantined",
    /// It rested in the state memory when the base died, and was damaged there.
    DropStateDamaged = "drop.state_damaged",
    /// For one VM, but in a frame from the LAN to a group of cards or to all.
    DropGroupFrame = "drop.group_frame",
    /// Ring: descriptor in the middle of a packed ring's chain that is not available.
    BreakChainFlags = "break.chain_flags",
    /// Ring: what was being published when the base died contradicts a packed ring.
    BreakPublication = "break.publication",
    /// A packed ring of a front end that was cut off went on at a place for which neither the base's record nor the front end could vouch: what lay in it may be lost.
    PortRenegotiated = "port_renegotiated",
    /// Sent by AF_XDP, and thrown away by the card's driver or with the card afterwards.
    RxCardLost = "drop.rx_card_lost",
    /// Datagrams of this owner handed to the resolver, which answers DNS.
    ToResolver = "to_resolver",
    /// For the resolver: more than one VM may ask of it.
    DropResolverBudget = "drop.resolver_budget",
    /// For the resolver, which does not keep up.
    DropResolverFull = "drop.resolver_full",
    /// For the resolver, which does not run just now.
    DropResolverAway = "drop.resolver_away",
    /// From the resolver, and nothing that this VM may be told by it.
    RxResolver = "drop.rx_resolver",
}

/// The counters of one owner.
#[derive(Clone, Copy)]
pub struct Counters<'a> {
    words: &'a StateMemory,
    at: usize,
}

impl<'a> Counters<'a> {
    /// The counters of `owner` in the state memory.
    pub fn of(state: &'a StateMemory, owner: Owner) -> Self {
        Self { words: state, at: crate::state::counters_at(owner) }
    }

    fn word(&self, counter: Counter) -> Option<&'a AtomicU64> {
        let offset = (counter as usize).checked_mul(size_of::<u64>())?;
        self.words.memory().u64_at(self.at.checked_add(offset)?)
    }

    /// Adds `n`. Any thread may.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        if n == 0 {
            return;
        }
        if let Some(word) = self.word(counter) {
            word.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Begins anew: the owner is another. Only before anybody counts for it.
    pub fn reset(&self) {
        for word in Counter::ALL.iter().filter_map(|&counter| self.word(counter)) {
            // Untouched memory stays untouched.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Reads the counter; any thread may.
    pub fn get(&self, counter: Counter) -> u64 {
        self.word(counter).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// All counters, in layout order.
    pub fn all(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|&c| (c, self.get(c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{NetworkId, PortId};

    #[test]
    fn owners_do_not_share_counters() {
        let (state, _fd) = StateMemory::create().unwrap();
        Counters::of(&state, Owner::Port(PortId(1))).add(Counter::Taken, 3);
        Counters::of(&state, Owner::Uplink(NetworkId(0))).add(Counter::Taken, 5);
        assert_eq!(Counters::of(&state, Owner::Port(PortId(1))).get(Counter::Taken), 3);
        assert_eq!(Counters::of(&state, Owner::Port(PortId(0))).get(Counter::Taken), 0);
        assert_eq!(Counters::of(&state, Owner::Host(NetworkId(0))).get(Counter::Taken), 0);
        Counters::of(&state, Owner::Port(PortId(1))).reset();
        assert_eq!(Counters::of(&state, Owner::Port(PortId(1))).get(Counter::Taken), 0);
        assert_eq!(Counters::of(&state, Owner::Uplink(NetworkId(0))).get(Counter::Taken), 5);
    }

    #[test]
    fn every_counter_has_a_name_of_its_own_and_fits_its_record() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(Counter::ALL.len() * 8 <= crate::state::COUNTERS_LEN);
    }

    #[test]
    fn the_document_explains_every_counter_as_the_code_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/counters.md");
        let document = std::fs::read_to_string(path).unwrap();
        let mut rows: Vec<_> = document.lines().filter(|line| line.starts_with("| `")).collect();
        rows.sort_unstable();
        let mut expected: Vec<_> = Counter::ALL
            .iter()
            .map(|c| format!("| `{}` | {} |", c.name(), c.meaning().trim_end_matches('.')))
            .collect();
        expected.sort_unstable();
        assert_eq!(rows, expected);
    }
}
