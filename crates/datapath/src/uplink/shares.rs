//! Who may fill the card's send buffer: each VM its share, so that no VM keeps the others out.
//!
//! # Theory of operation
//! All frames of a network leave through one socket, and the kernel bounds what waits there. Where
//! the card is the bottleneck, a VM that offers more than it carries would keep the buffer full, and
//! a modest one's datagrams would be refused as often as its own.
//! ```text
//! |<-- half: the socket says "writable" -->|<-- a share for each sender -->|
//! ```
//! So each sender may put no more than its share between two moments at which the socket was
//! writable, that is, less than half full. Whoever has used up its share asks whether it is; if so,
//! all begin anew, and if not, it is refused. Modest senders never ask and always find room, and the
//! busy one asks once in megabytes.
//!
//! # Invariants
//! - There is a share for one sender more than have been seen: a newcomer finds it free.
//! - What is refused here is what the kernel would have refused to somebody.
//!
//! # Limits
//! The kernel accounts buffers, not octets: [`OVERHEAD`] a frame stands for the difference.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::names::Owner;

/// Octets that the kernel accounts for a frame besides its own, about.
pub(super) const OVERHEAD: usize = 1024;

/// What each sender has put into the buffer since the socket was last known to be writable.
#[derive(Debug)]
pub(super) struct Shares {
    /// Octets of half the buffer.
    half: usize,
    put: HashMap<Owner, usize, RandomState>,
}

impl Shares {
    /// For a buffer of so many octets.
    pub fn new(buffer: usize) -> Self {
        Self { half: buffer / 2, put: HashMap::default() }
    }

    /// Whether `owner` may put so many frames of so many octets in all; if so, they are charged.
    #[inline]
    pub fn may_put(
        &mut self,
        owner: Owner,
        frames: usize,
        octets: usize,
        writable: impl FnOnce() -> bool,
    ) -> bool {
        let cost = frames.saturating_mul(OVERHEAD).saturating_add(octets);
        let put = self.put.entry(owner).or_insert(0);
        let after = put.saturating_add(cost);
        let share = self.half.checked_div(self.put.len().saturating_add(1)).unwrap_or(0);
        if after > share {
            if !writable() {
                return false;
            }
            self.put.values_mut().for_each(|put| *put = 0);
            self.put.insert(owner, cost);
        } else {
            self.put.insert(owner, after);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::PortId;

    const A: Owner = Owner::Port(PortId(1));
    const B: Owner = Owner::Port(PortId(2));
    const BUFFER: usize = 1 << 20;

    #[test]
    fn who_takes_all_it_can_get_leaves_a_share_to_who_comes_later() {
        let mut shares = Shares::new(BUFFER);
        let mut put = 0;
        while shares.may_put(A, 1, 1000, || false) {
            put += 1;
        }
        // Half of the upper half: nobody else was seen yet.
        assert_eq!(put, BUFFER / 4 / (1000 + OVERHEAD));
        assert!(shares.may_put(B, 1, 1000, || panic!("a modest sender asks nobody")));
        assert!(!shares.may_put(A, 1, 1000, || false));
    }

    #[test]
    fn nobody_is_refused_while_the_socket_is_writable() {
        let mut shares = Shares::new(BUFFER);
        let mut asked = 0;
        for _ in 0..10_000 {
            let writable = || {
                asked += 1;
                true
            };
            assert!(shares.may_put(A, 1, 1000, writable));
        }
        assert!((50..100).contains(&asked), "asked {asked} times");
        // More than any share, on an empty card.
        assert!(shares.may_put(B, 32, 32 * 65_000, || true));
    }
}
