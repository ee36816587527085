//! The MAC address of a VM that the base forms and whose owner did not choose one.

use datapath::names::Mac;

/// The address for the VM of that name on that network: the same for ever, so that a guest finds
/// its card again after the VM was removed and added, and on another machine too.
///
/// Locally administered, not a group's. Two VMs of one network get the same one with a chance of
/// 1 in 2^40 for each pair; nothing is ever forwarded by it.
pub fn mac_of(network: &str, vm: &str) -> Mac {
    // FNV-1a over both names, with a character between them that neither can have; then mixed so
    // that the octets used depend on all of it.
    let octets = network.bytes().chain([0]).chain(vm.bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [a, b, c, d, e, ..] = (mixed ^ (mixed >> 29)).to_be_bytes();
    let mac = Mac([0x06, a, b, c, d, e]);
    debug_assert!(mac != Mac::BASE && !mac.is_multicast());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn chosen_addresses_stay_the_same_and_differ_from_each_other_and_the_bases() {
        assert_eq!(mac_of("lan", "web").to_string(), "06:70:c8:51:d1:fc");
        let mut seen = BTreeSet::new();
        for i in 0..10_000 {
            for network in ["lan", "lan1"] {
                let mac = mac_of(network, &format!("vm-{i}"));
                assert!(mac.0[0] == 0x06 && mac != Mac::BASE);
                assert!(seen.insert(mac), "{mac} twice");
            }
        }
    }
}
