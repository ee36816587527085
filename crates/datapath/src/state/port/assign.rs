//! Which record is whose.
//!
//! A port keeps its number as long as the instance lives, deaths of the base included: the record
//! says whose it is, and a new port takes the first that is nobody's. A record whose name was damaged
//! is nobody's; but the port that it still speaks for gets the same number, and with it its counters.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::state::MAX_PORTS;

/// The numbers of the ports of these names: those given before, and new ones where there are none.
pub fn assign(state: &StateMemory, names: &BTreeSet<&str>) -> BTreeMap<String, PortId> {
    let records = || (0..).map(PortId).take(MAX_PORTS);
    let mut ports = BTreeMap::new();
    let mut damaged = Vec::new();
    for id in records() {
        let record = PortRecord::of(state, id);
        match record.name() {
            Some(name) if names.contains(name.as_str()) => {
                ports.insert(name, id);
            }
            None if record.name_is_damaged() => damaged.push(record),
            _ => {}
        }
    }
    for record in damaged {
        let mut missing = names.iter().filter(|name| !ports.contains_key(**name));
        match missing.find(|name| record.speaks_for(name)) {
            Some(name) => {
                ports.insert((*name).to_owned(), record.id);
            }
            None => {
                record.note("the name in a port's record was damaged: the record is nobody's");
                record.clear();
            }
        }
    }
    let taken: BTreeSet<PortId> = ports.values().copied().collect();
    let mut free = records().filter(|id| !taken.contains(id));
    for name in names {
        if !ports.contains_key(*name)
            && let Some(id) = free.next()
        {
            ports.insert((*name).to_owned(), id);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_keeps_its_number_and_a_new_one_takes_the_first_that_is_nobodys() {
        let (state, _fd) = StateMemory::create().unwrap();
        PortRecord::of(&state, PortId(0)).set_name("gone");
        PortRecord::of(&state, PortId(1)).set_name("web");
        let ports = assign(&state, &BTreeSet::from(["db", "mail", "web"]));
        let expected = [("db", 0), ("mail", 2), ("web", 1)];
        assert_eq!(ports, expected.map(|(n, id)| (n.to_owned(), PortId(id))).into());
    }

    #[test]
    fn a_record_with_a_damaged_name_goes_to_the_port_it_speaks_for_and_to_no_other() {
        let (state, _fd) = StateMemory::create().unwrap();
        let record = PortRecord::of(&state, PortId(3));
        record.set_name("web");
        let damage = |at: usize| {
            let octet = state.memory().u8_at(record.at + at).unwrap();
            octet.fetch_xor(1, std::sync::atomic::Ordering::Relaxed);
        };
        damage(NAME_AT);
        // The octets say "veb" now, the seal says "web".
        let ports = assign(&state, &BTreeSet::from(["db", "web"]));
        assert_eq!(ports, [("db".to_owned(), PortId(0)), ("web".to_owned(), PortId(3))].into());
        damage(NAME_SEAL_AT);
        let ports = assign(&state, &BTreeSet::from(["db", "web"]));
        assert_eq!(ports, [("db".to_owned(), PortId(0)), ("web".to_owned(), PortId(1))].into());
        assert!(state.take_damage()[0].to_string().contains("nobody's"));
        assert!(!record.name_is_damaged());
    }
}
