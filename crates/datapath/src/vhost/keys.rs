//! Under which keys a port's descriptors are kept.

use crate::names::RingId;

/// The keys of one port.
#[derive(Clone, Debug)]
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn of(name: &str) -> Self {
        Self(format!("port/{name}/"))
    }

    /// What all keys of the port begin with.
    pub(super) fn all(&self) -> &str {
        &self.0
    }

    pub(super) fn listener(&self) -> String {
        format!("{}listener", self.0)
    }

    pub(super) fn connection(&self) -> String {
        format!("{}connection", self.0)
    }

    pub(super) fn memory(&self, slot: usize) -> String {
        format!("{}memory/{slot}", self.0)
    }

    pub(super) fn bell(&self, ring: RingId, bell: &str) -> String {
        format!("{}{ring}/{bell}", self.0)
    }

    /// What the keys of one connection begin with: all of the port's but the listener. (Those of the
    /// rings of all pairs begin like those of the first.)
    pub(super) fn of_connection(&self) -> [String; 4] {
        ["connection", "memory/", "rx", "tx"].map(|part| format!("{}{part}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::MAX_KEY;
    use crate::names::MAX_PAIRS;
    use crate::state::port::{MAX_MEMORY_SLOTS, MAX_NAME};

    #[test]
    fn the_longest_keys_fit() {
        let keys = Keys::of(&"x".repeat(MAX_NAME));
        let longest = [
            keys.connection(),
            keys.listener(),
            keys.memory(MAX_MEMORY_SLOTS - 1),
            keys.bell(RingId::all(MAX_PAIRS).last().unwrap(), "kick"),
        ];
        for key in longest {
            assert!(key.len() <= MAX_KEY && key.starts_with(keys.all()), "{key}");
        }
    }

    #[test]
    fn the_keys_of_a_connection_are_those_of_its_rings_too_and_not_its_listeners() {
        let keys = Keys::of("web");
        let of_connection = |key: &str| keys.of_connection().iter().any(|k| key.starts_with(k));
        for ring in RingId::all(MAX_PAIRS) {
            assert!(of_connection(&keys.bell(ring, "call")), "{ring}");
        }
        assert_eq!(keys.bell(RingId::RX, "call"), "port/web/rx/call");
        assert!(of_connection(&keys.memory(3)) && of_connection(&keys.connection()));
        assert!(!of_connection(&keys.listener()));
    }
}
