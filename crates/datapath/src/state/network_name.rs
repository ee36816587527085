//! Whose a network's record is: the network's name, and that of the card it uses.
//!
//! # Why it exists
//! A successor may have another configuration. By the names it finds the records of the networks that
//! are still there, whatever their order, and undoes what belongs to those that are not.
//!
//! ```text
//! 512  the network's name: length, then the octets
//! 640  the card's name, likewise; length 0: none
//! ```
//! A length is cleared before the octets are written and set after.

use super::{NETWORK_LEN, StateMemory, network_at};
use crate::names::NetworkId;

/// Octets of the longest name.
pub const MAX_NAME: usize = 64;

const NAME_AT: usize = 512;
const CARD_AT: usize = 640;

/// The names in one network's record.
#[derive(Clone, Debug)]
pub struct NetworkName {
    state: StateMemory,
    at: usize,
}

impl NetworkName {
    /// Those in the record of `network`.
    pub fn of(state: &StateMemory, network: NetworkId) -> Self {
        Self { state: state.clone(), at: network_at(network) }
    }

    /// The network's name, if the record is anybody's.
    pub fn name(&self) -> Option<String> {
        self.text(NAME_AT)
    }

    /// The card's name, if the network had one.
    pub fn card(&self) -> Option<String> {
        self.text(CARD_AT)
    }

    /// Says whose the record is, and which card it is about.
    ///
    /// What stands there already is not written again: a base that dies while it writes leaves a
    /// record that is nobody's.
    pub fn set(&self, name: &str, card: Option<&str>) {
        if self.name().as_deref() == Some(name) && self.card().as_deref() == card {
            return;
        }
        self.put(CARD_AT, card.unwrap_or_default());
        self.put(NAME_AT, name);
    }

    /// Makes it nobody's, and empties all of it.
    pub fn clear(&self) {
        self.put(NAME_AT, "");
        for offset in (0..NETWORK_LEN).step_by(size_of::<u64>()) {
            self.state.put(self.at.saturating_add(offset), 0);
        }
    }

    fn text(&self, offset: usize) -> Option<String> {
        let at = self.at.saturating_add(offset);
        let len =
            usize::try_from(self.state.get(at)).ok().filter(|n| (1..=MAX_NAME).contains(n))?;
        let mut octets = vec![0; len];
        self.state.memory().read(at.saturating_add(8), &mut octets)?;
        String::from_utf8(octets).ok()
    }

    fn put(&self, offset: usize, text: &str) {
        let at = self.at.saturating_add(offset);
        self.state.put(at, 0);
        if (1..=MAX_NAME).contains(&text.len()) {
            self.state.memory().write(at.saturating_add(8), text.as_bytes());
            self.state.put(at, text.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_whose_it_is_until_it_is_cleared() {
        let (state, _fd) = StateMemory::create().unwrap();
        let (own, other) = (NetworkId(2), NetworkId(3));
        let names = NetworkName::of(&state, own);
        assert_eq!((names.name(), names.card()), (None, None));
        names.set("lan", Some("eth1"));
        NetworkName::of(&state, other).set("inside", None);
        let again = NetworkName::of(&state, own);
        assert_eq!((again.name().as_deref(), again.card().as_deref()), (Some("lan"), Some("eth1")));
        names.set("lan", None);
        assert_eq!((again.name().as_deref(), again.card()), (Some("lan"), None));
        state.put(network_at(own), 7);
        names.clear();
        assert_eq!((again.name(), state.get(network_at(own))), (None, 0));
        assert_eq!(NetworkName::of(&state, other).name().as_deref(), Some("inside"));
    }
}
