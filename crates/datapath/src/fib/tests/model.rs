//! The list against a vector that is searched from end to end, whatever is done to both.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::answers;
use crate::fib::*;
use crate::names::PortId;

/// The slow and obvious list.
#[derive(Default)]
struct Model(Vec<(IpNet, Target)>);

impl Model {
    fn entry(&self, prefix: IpNet) -> Option<Target> {
        self.0.iter().find(|(p, _)| *p == prefix).map(|(_, t)| *t)
    }

    fn longest(&self, address: IpAddr) -> Option<(IpNet, Target)> {
        let holding = self.0.iter().filter(|(p, _)| p.contains(&address));
        holding.max_by_key(|(p, _)| p.prefix_len()).copied()
    }

    fn insert(&mut self, prefix: IpNet, owner: Target) -> Result<(), Taken> {
        match self.entry(prefix) {
            Some(found) if found != owner => Err(Taken { prefix, owner: found }),
            Some(_) => Ok(()),
            None => {
                self.0.push((prefix, owner));
                Ok(())
            }
        }
    }

    fn remove(&mut self, prefix: IpNet) -> Option<Target> {
        let owner = self.entry(prefix);
        self.0.retain(|(p, _)| *p != prefix);
        owner
    }

    fn withdraw(&mut self, address: IpAddr) -> Option<PortId> {
        let mut was = None;
        while let Some((prefix, Target::Port(port))) = self.longest(address) {
            self.remove(prefix);
            for rest in without(prefix, address) {
                let _ = self.insert(rest, Target::Port(port));
            }
            was = Some(port);
        }
        was
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(IpNet, Target),
    Remove(IpNet),
    Withdraw(IpAddr),
    RemoveOwner(Target),
}

/// Few addresses that differ in few bits, at the borders of levels, so that much of it meets.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|a| Ipv4Addr::from(0xcb00_0000 | (a & 0x0181_0383)).into()),
        any::<[bool; 8]>().prop_map(|bits| {
            let places = [81u32, 80, 65, 64, 63, 48, 1, 0];
            let set = bits.iter().zip(places).filter(|(bit, _)| **bit);
            let low = set.fold(0u128, |all, (_, place)| all | 1 << place);
            Ipv6Addr::from(0x2001_0db8_u128 << 96 | low).into()
        }),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    // Whole addresses, any length, and lengths of one level.
    let length = prop_oneof![Just(128u8), 0u8..=128, 60u8..70];
    (address(), length).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        // 60 to 70 are 28 to 32 and 0 to 6 for IPv4.
        let length = if length > most && length != 128 { length % 33 } else { length };
        IpNet::new(address, length.min(most)).unwrap().trunc()
    })
}

fn owner() -> impl Strategy<Value = Target> {
    prop_oneof![Just(Target::Host), (0u16..4).prop_map(|id| Target::Port(PortId(id)))]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prefix(), owner()).prop_map(|(p, t)| Step::Insert(p, t)),
        4 => prefix().prop_map(Step::Remove),
        2 => address().prop_map(Step::Withdraw),
        1 => owner().prop_map(Step::RemoveOwner),
    ]
}

fn agree(fib: &Fib, reader: &mut FibReader, model: &Model, addresses: &[IpAddr]) {
    let found = addresses.chunks(BATCH).flat_map(|some| answers(fib.batch(), some));
    let view = reader.batch();
    let read = addresses.chunks(BATCH).flat_map(|some| answers(view.batch(), some));
    for ((address, found), read) in addresses.iter().zip(found).zip(read) {
        let expected = model.longest(*address).map(|(_, target)| target);
        assert_eq!(fib.lookup(*address), expected, "{address}");
        assert_eq!(found, expected, "{address} in a batch");
        assert_eq!(view.lookup(*address), expected, "{address} by a reader");
        assert_eq!(read, expected, "{address} by a reader in a batch");
    }
}

proptest! {
    #[test]
    fn the_list_agrees_with_a_linear_search_whatever_was_done(
        steps in prop::collection::vec((step(), prop::collection::vec(address(), 0..3)), 0..80),
        addresses in prop::collection::vec(address(), 0..80),
    ) {
        let (mut fib, mut model) = (Fib::default(), Model::default());
        let mut reader = fib.reader();
        for (step, addresses) in steps {
            match step {
                Step::Insert(prefix, owner) => {
                    prop_assert_eq!(fib.insert(prefix, owner), model.insert(prefix, owner));
                }
                Step::Remove(prefix) => {
                    prop_assert_eq!(fib.remove(prefix), model.remove(prefix));
                }
                Step::Withdraw(address) => {
                    prop_assert_eq!(fib.withdraw(address), model.withdraw(address));
                }
                Step::RemoveOwner(owner) => {
                    fib.remove_owner(owner);
                    model.0.retain(|(_, t)| *t != owner);
                }
            }
            agree(&fib, &mut reader, &model, &addresses);
        }
        agree(&fib, &mut reader, &model, &addresses);
        for (prefix, owner) in &model.0 {
            prop_assert_eq!(fib.entry(*prefix), Some(*owner));
        }
    }
}
