//! Under which keys a port's descriptors are kept.

use crate::names::Side;

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

    pub(super) fn bell(&self, side: Side, bell: &str) -> String {
        format!("{}{}/{bell}", self.0, side.name())
    }

    /// What the keys of one connection begin with: all of the port's but the listener.
    pub(super) fn of_connection(&self) -> [String; 4] {
        ["connection", "memory/", "rx/", "tx/"].map(|part| format!("{}{part}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::MAX_KEY;
    use crate::state::port::{MAX_MEMORY_SLOTS, MAX_NAME};

    #[test]
    fn the_longest_keys_fit() {
        let keys = Keys::of(&"x".repeat(MAX_NAME));
        let longest = [
            keys.connection(),
            keys.listener(),
            keys.memory(MAX_MEMORY_SLOTS - 1),
            keys.bell(Side::Rx, "kick"),
        ];
        for key in longest {
            assert!(key.len() <= MAX_KEY && key.starts_with(keys.all()), "{key}");
        }
    }
}
