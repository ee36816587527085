//! Where an address is to be looked for: a keyed hash.
//!
//! # Theory of operation
//! Who chooses addresses (an operator, or a LAN that has some withdrawn) must not be able to choose
//! ones that fall together. So every list hashes with 256 bits of its own, made from the operating
//! system's randomness; nobody outside ever sees a hash, or a time that tells one.
//!
//! The mixing step is the folded multiplication of wyhash and foldhash: both halves of a 64 by 64
//! bit product, one over the other. It is done twice: operators number addresses one after the other,
//! and with one secret in eight or so, products of successive numbers by themselves fall into few
//! heaps with much space between them.

use std::hash::{BuildHasher, RandomState};

/// The secret of one list.
#[derive(Clone, Copy)]
pub(super) struct Seed(pub(super) [u64; 4]);

impl Seed {
    /// A new secret.
    pub(super) fn random() -> Self {
        // The standard library's keys are from the operating system, and SipHash does not tell them.
        let keys = RandomState::new();
        Self([0u8, 1, 2, 3].map(|part| keys.hash_one(part)))
    }

    /// Mixes 128 bits of an address and what the entry is for.
    #[inline]
    pub(super) fn hash(self, high: u64, low: u64, purpose: u8) -> u64 {
        let Self([a, b, c, d]) = self;
        // Odd, so that no two purposes give the same word. Single addresses have none to mix in.
        let purpose = u64::from(purpose).wrapping_mul(c | 1);
        fold(fold(high ^ a, low ^ b) ^ purpose, d)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_numbered_one_after_the_other_fall_apart_under_every_secret() {
        // As many as fill half of these buckets of eight.
        let (addresses, buckets) = (1024u64, 256);
        for _ in 0..200 {
            let seed = Seed::random();
            for step in [1, 4, 256] {
                let mut full = vec![0u32; buckets];
                for n in 0..addresses {
                    let hash = seed.hash(0, 0x0a00_0000 + n * step, 0);
                    full[((hash >> 32) as usize * buckets) >> 32] += 1;
                }
                let over: u32 = full.iter().map(|n| n.saturating_sub(8)).sum();
                // Random ones: about ten. A single multiplication: hundreds, now and then.
                assert!(over < 60, "{over} of {addresses} do not fit their bucket");
            }
        }
    }
}
