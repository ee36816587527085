//! What must have been counted, and which reasons there are.

use std::collections::BTreeMap;

use crate::driver::Rings;
use crate::error::{LabError, Result};

/// Counters by name; those not named are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(pub BTreeMap<String, u64>);

impl Tally {
    /// Adds to one counter.
    pub fn add(&mut self, name: &str, n: u64) {
        if n == 0 {
            return;
        }
        match self.0.get_mut(name) {
            Some(count) => *count += n,
            None => {
                self.0.insert(name.to_owned(), n);
            }
        }
    }

    /// One counter.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds all of another's.
    pub fn add_all(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            self.add(name, *n);
        }
    }

    /// What came since `before`, without zeroes.
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, n): (&String, &u64)| {
            let more = n.saturating_sub(before.get(name));
            (more > 0).then(|| (name.clone(), more))
        };
        Self(self.0.iter().filter_map(grown).collect())
    }

    /// Only the counters that a campaign foretells: fates of datagrams, and breaks.
    pub fn fates(&self) -> Self {
        let foretold = |name: &str| {
            name.starts_with("drop.")
                || name.starts_with("break.")
                || matches!(name, "taken" | "to_vm" | "to_uplink" | "to_host" | "answered")
                || matches!(name, "silent" | "delivered")
        };
        Self(self.0.iter().filter(|(k, _)| foretold(k)).map(|(k, n)| (k.clone(), *n)).collect())
    }

    /// How often a break was counted, whichever.
    pub fn breaks(&self) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with("break.")).map(|(_, n)| n).sum()
    }

    /// Whether every datagram taken, and every fragment made, has met one fate, and no more.
    pub fn balances(&self) -> bool {
        let fates = ["to_vm", "to_uplink", "to_host", "to_resolver", "answered", "silent"];
        let handed: u64 = fates.iter().map(|name| self.get(name)).sum();
        let dropped = |name: &str| name.starts_with("drop.") && !RECEIVERS.contains(&name);
        let drops: u64 = self.0.iter().filter(|(k, _)| dropped(k)).map(|(_, n)| n).sum();
        self.get("taken") + self.get("fragments") == handed + drops
    }
}

/// Drops that are counted at the receiver.
pub const RECEIVERS: [&str; 8] = [
    "drop.rx_no_buffer",
    "drop.rx_buffer_too_small",
    "drop.rx_effort",
    "drop.rx_port_down",
    "drop.rx_port_broken",
    "drop.rx_port_quarantined",
    "drop.mac_unknown",
    "drop.rx_card_lost",
];

/// Those of [`DRIVERS`] that concern what packed rings have not, or (a loop) cannot have as long as other
/// buffers lie in them.
const OF_SPLIT_RINGS: &[&str] = &[
    "break.avail_index",
    "break.used_index",
    "break.head_index",
    "break.next_index",
    "break.chain_loop",
];

/// Reasons that a driver can cause with nothing but its port.
const DRIVERS: &[&str] = &[
    "break.avail_index",
    "break.used_index",
    "break.head_index",
    "break.next_index",
    "break.chain_loop",
    "break.descriptor_address",
    "break.indirect_table",
    "break.descriptor_direction",
    "break.layout",
    "break.memory_torn",
    "break.chain_too_short",
    "drop.frame_length",
    "drop.ethertype_unknown",
    "drop.vlan_tagged",
    "drop.arp_malformed",
    "drop.ip4_truncated",
    "drop.ip4_version",
    "drop.ip4_header_length",
    "drop.ip4_total_length",
    "drop.ip4_checksum",
    "drop.ip6_truncated",
    "drop.ip6_version",
    "drop.ip6_payload_length",
    "drop.ip6_header_chain",
    "drop.first_fragment_incomplete",
    "drop.ndp_fragmented",
    "drop.last_inch",
    "drop.dhcp_reply",
    "drop.answer_malformed",
    "drop.offload_checksum",
    "drop.offload_segmentation",
    "drop.offload_not_negotiated",
    "drop.source_not_own",
    "drop.source_unspecified",
    "drop.source_loopback",
    "drop.source_link_local",
    "drop.source_multicast",
    "drop.source_broadcast",
    "drop.source_reserved",
    "drop.destination_own",
    "drop.destination_unspecified",
    "drop.destination_loopback",
    "drop.destination_link_local",
    "drop.destination_multicast",
    "drop.destination_broadcast",
    "drop.destination_reserved",
    "drop.not_served",
    "drop.too_big",
    "drop.segment_too_big",
    "drop.rx_no_buffer",
    "drop.rx_buffer_too_small",
    "drop.rx_effort",
    "drop.rx_port_down",
    "drop.rx_port_broken",
    "drop.mac_unknown",
];

/// And on a network without a card and without a path to the host.
const DRIVERS_ALONE: &[&str] = &["drop.no_uplink", "drop.no_host_path"];

/// And on a network with a card.
const DRIVERS_WIRED: &[&str] = &[
    "drop.no_gateway",
    "drop.neighbor_unreachable",
    "drop.neighbor_queue_full",
    "drop.uplink_send",
];

/// Reasons that a peer on the LAN can cause.
const PEERS: &[&str] = &[
    "drop.ethertype_unknown",
    "drop.vlan_tagged",
    "drop.arp_malformed",
    "drop.ip4_truncated",
    "drop.ip4_version",
    "drop.ip4_header_length",
    "drop.ip4_total_length",
    "drop.ip4_checksum",
    "drop.ip6_truncated",
    "drop.ip6_version",
    "drop.ip6_payload_length",
    "drop.ip6_header_chain",
    "drop.first_fragment_incomplete",
    "drop.ndp_fragmented",
    "drop.last_inch",
    "drop.dhcp_reply",
    "drop.answer_malformed",
    "drop.offload_checksum",
    "drop.source_unspecified",
    "drop.source_loopback",
    "drop.source_link_local",
    "drop.source_multicast",
    "drop.source_broadcast",
    "drop.source_reserved",
    "drop.source_in_list",
    "drop.destination_unspecified",
    "drop.destination_loopback",
    "drop.destination_link_local",
    "drop.destination_multicast",
    "drop.destination_broadcast",
    "drop.destination_reserved",
    "drop.unknown_destination",
    "drop.group_frame",
    "drop.too_big",
    "drop.segment_too_big",
    "drop.uplink_clipped",
    "drop.uplink_ring_full",
];

/// Reasons that neither can cause: the cable, the host's own stack, and deaths of the base do.
#[cfg(test)]
const OTHERS: &[&str] = &[
    "drop.host_forwarded",
    "drop.uplink_down",
    "drop.host_send",
    "drop.poison",
    "drop.rx_port_quarantined",
    "drop.state_damaged",
    "drop.rx_card_lost",
    // Names are asked for in `tests/names.rs`.
    "drop.resolver_budget",
    "drop.resolver_full",
    "drop.resolver_away",
    "drop.rx_resolver",
    // Over packed rings only, drivers and deaths of the base.
    "break.chain_flags",
    "break.publication",
];

/// Reasons that a driver can cause; `wired`: on a network with a card.
pub fn by_drivers(wired: bool) -> Vec<&'static str> {
    let mut all = [DRIVERS, if wired { DRIVERS_WIRED } else { DRIVERS_ALONE }].concat();
    if Rings::chosen() == Rings::Packed {
        all.retain(|name| !OF_SPLIT_RINGS.contains(name));
        all.push("break.chain_flags");
    }
    all
}

/// Reasons that a peer on the LAN can cause.
pub fn by_lan() -> &'static [&'static str] {
    PEERS
}

/// Fails unless every one of `names` was counted so often.
pub fn often_enough(seen: &Tally, names: &[&str], times: u64) -> Result<()> {
    let short: Vec<String> = names
        .iter()
        .filter(|name| seen.get(name) < times)
        .map(|name| format!("{name}: {}", seen.get(name)))
        .collect();
    if short.is_empty() {
        return Ok(());
    }
    let list = short.join(", ");
    Err(LabError::Unexpected(format!("counted less than {times} times: {list}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datapath::counters::Counter;

    use super::*;

    #[test]
    fn every_reason_to_drop_or_break_has_somebody_who_can_cause_it() {
        let all: BTreeSet<&str> = Counter::ALL
            .iter()
            .map(|c| c.name())
            .filter(|name| name.starts_with("drop.") || name.starts_with("break."))
            .collect();
        let listed: BTreeSet<&str> =
            [DRIVERS, DRIVERS_ALONE, DRIVERS_WIRED, PEERS, OTHERS].concat().into_iter().collect();
        assert_eq!(listed, all);
    }

    #[test]
    fn a_balance_leaves_out_what_the_receiver_drops() {
        let mut tally = Tally::default();
        for (name, n) in [("taken", 5), ("to_vm", 2), ("silent", 1), ("drop.vlan_tagged", 2)] {
            tally.add(name, n);
        }
        assert!(tally.balances());
        tally.add("drop.rx_no_buffer", 1);
        assert!(tally.balances());
        tally.add("drop.last_inch", 1);
        assert!(!tally.balances());
    }
}
