//! Whose an address is, found without looking at all of them.
//!
//! # Theory of operation
//! Two prefixes are disjoint, or one lies in the other. So whoever has something in common with a
//! prefix has either one that begins inside of it, and these stand together in the order of addresses;
//! or one around it, of which there is one possible for each length that occurs, and few do.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Claim;

/// The addresses of all claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    networks: BTreeMap<String, List>,
}

#[derive(Clone, Debug, Default)]
struct List {
    /// Each prefix, and who has it: one VM, but for what was noted of VMs that run already.
    prefixes: BTreeMap<IpNet, Vec<String>>,
    /// How many prefixes there are of each kind: whether it is IPv6, and its length.
    kinds: BTreeMap<(bool, u8), usize>,
}

fn kind(prefix: &IpNet) -> (bool, u8) {
    (matches!(prefix, IpNet::V6(_)), prefix.prefix_len())
}

impl Owners {
    /// Notes what `vm` has.
    pub(super) fn add(&mut self, vm: &str, claim: &Claim) {
        let list = self.networks.entry(claim.network.clone()).or_default();
        for prefix in claim.addresses.iter().map(IpNet::trunc) {
            let owners = list.prefixes.entry(prefix).or_default();
            if owners.is_empty() {
                let count = list.kinds.entry(kind(&prefix)).or_default();
                *count = count.saturating_add(1);
            }
            owners.push(vm.to_owned());
        }
    }

    /// Forgets what `vm` had.
    pub(super) fn remove(&mut self, vm: &str, claim: &Claim) {
        let Some(list) = self.networks.get_mut(&claim.network) else { return };
        for prefix in claim.addresses.iter().map(IpNet::trunc) {
            let Some(owners) = list.prefixes.get_mut(&prefix) else { continue };
            owners.retain(|owner| owner != vm);
            if !owners.is_empty() {
                continue;
            }
            list.prefixes.remove(&prefix);
            if let Some(count) = list.kinds.get_mut(&kind(&prefix)) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    list.kinds.remove(&kind(&prefix));
                }
            }
        }
        if list.prefixes.is_empty() {
            self.networks.remove(&claim.network);
        }
    }

    /// A prefix of somebody's that has an address in common with `own`, and whose it is.
    pub(super) fn overlapping(&self, network: &str, own: &IpNet) -> Option<(IpNet, &str)> {
        let list = self.networks.get(network)?;
        let with = |length, at| IpNet::new(at, length).ok();
        let (first, last) = (with(0, own.network())?, with(own.max_prefix_len(), own.broadcast())?);
        let inside = list.prefixes.range(first..=last).next();
        let (is_v6, length) = kind(own);
        let around = || {
            let shorter = list.kinds.range((is_v6, 0)..(is_v6, length));
            let mut possible = shorter.filter_map(|((_, length), _)| with(*length, own.network()));
            possible.find_map(|prefix| list.prefixes.get_key_value(&prefix.trunc()))
        };
        let (prefix, owners) = inside.or_else(around)?;
        Some((*prefix, owners.first()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(addresses: &[IpNet]) -> Claim {
        Claim { network: "n".to_owned(), addresses: addresses.to_vec(), ..Claim::default() }
    }

    /// Few addresses and all lengths, so that many have something in common.
    fn prefix() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), 0..16u8, 0..=6u8).prop_map(|(is_v6, at, shorter)| {
            let text = match is_v6 {
                true => format!("2001:db8::{at:x}/{}", 128 - shorter),
                false => format!("198.51.100.{at}/{}", 32 - shorter),
            };
            text.parse::<IpNet>().unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn whoever_looks_at_all_of_them_finds_the_same(
            all in proptest::collection::vec(prefix(), 0..12),
            gone in proptest::collection::vec(any::<bool>(), 12),
            own in prefix(),
        ) {
            let mut owners = Owners::default();
            for (n, prefix) in all.iter().enumerate() {
                owners.add(&n.to_string(), &claim(&[*prefix]));
            }
            let mut left = Vec::new();
            for (n, (prefix, gone)) in all.iter().zip(&gone).enumerate() {
                match gone {
                    true => owners.remove(&n.to_string(), &claim(&[*prefix])),
                    false => left.push((n.to_string(), *prefix)),
                }
            }
            let clash = |a: &IpNet| a.contains(&own) || own.contains(a);
            match owners.overlapping("n", &own) {
                None => prop_assert!(!left.iter().any(|(_, a)| clash(a))),
                Some((prefix, owner)) => {
                    prop_assert!(clash(&prefix) && left.contains(&(owner.to_owned(), prefix)));
                }
            }
            prop_assert_eq!(owners.overlapping("another", &own), None);
        }
    }
}
