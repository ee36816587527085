//! Seals: how a successor knows that what it finds is what was written.
//!
//! # Why it exists
//! State memory is written by one base and read by another, perhaps of another version, after
//! something went wrong. A word that was damaged meanwhile must not be believed: at worst it would
//! send a datagram to the wrong VM.
//!
//! # Theory of operation
//! ```text
//! paired    a number of 32 bits | its complement << 32
//! seal      the CRC-32 of where something lies and of its octets, paired
//! counted   a number of 48 bits | its three 16-bit parts, XORed with a constant << 48
//! ```
//! CRC-32 (IEEE 802.3) and not a hash of some library's own: what it gives must be the same in every
//! version that may ever read this memory. Where something lies belongs to it, so that what was
//! written for one place is nothing at another. A paired number costs a complement, a counted one
//! three shifts: cheap enough for what changes with every frame.
//!
//! # Invariants
//! - One damaged octet, wherever it is, is always noticed; so is any damage within 32 bits in a row.
//! - 0 is neither a paired number nor a seal: memory that nobody wrote is never taken for something.

/// What the three parts of a counted number are XORed with.
const COUNTED: u64 = 0x5a3c;
const LOW_48: u64 = 0xffff_ffff_ffff;

/// A number that carries its complement.
pub(crate) const fn pair(number: u32) -> u64 {
    number as u64 | (!number as u64) << 32
}

/// The number, if it is whole.
pub(crate) fn unpair(word: u64) -> Option<u32> {
    let number = word as u32;
    (word == pair(number)).then_some(number)
}

/// A count that carries a check; of more than 48 bits only the lower are kept.
pub(crate) const fn counted(count: u64) -> u64 {
    let count = count & LOW_48;
    count | (count & 0xffff ^ count >> 16 & 0xffff ^ count >> 32 ^ COUNTED) << 48
}

/// The count, if it is whole.
pub(crate) fn uncounted(word: u64) -> Option<u64> {
    (word == counted(word)).then_some(word & LOW_48)
}

/// The number of the next count: they begin again at 0 after 48 bits.
pub(crate) const fn next_count(count: u64) -> u64 {
    count.wrapping_add(1) & LOW_48
}

/// The checksum of octets that lie `at`.
pub(crate) fn sum(at: usize, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(at as u64).to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The seal of octets that lie `at`.
pub(crate) fn seal(at: usize, parts: &[&[u8]]) -> u64 {
    pair(sum(at, parts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_everybody_knows() {
        // The check value of CRC-32/ISO-HDLC, with the eight octets of the place before it.
        let whole = [&8u64.to_le_bytes()[..], b"123456789"].concat();
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(sum(8, &[b"1234", b"56789"]), crc32fast::hash(&whole));
    }

    #[test]
    fn memory_that_nobody_wrote_is_neither_a_number_nor_a_seal() {
        assert_eq!(unpair(0), None);
        assert_eq!(uncounted(0), None);
    }

    fn damaged(octets: &[u8], at: usize, by: u8) -> Vec<u8> {
        let mut octets = octets.to_vec();
        let at = at % octets.len();
        octets[at] ^= by;
        octets
    }

    fn word(octets: &[u8]) -> u64 {
        u64::from_le_bytes(octets.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn a_paired_number_comes_back_and_not_with_an_octet_damaged(
            number: u32, at in 0..8usize, by in 1..=255u8,
        ) {
            prop_assert_eq!(unpair(pair(number)), Some(number));
            let damaged = damaged(&pair(number).to_le_bytes(), at, by);
            prop_assert_eq!(unpair(word(&damaged)), None);
        }

        #[test]
        fn a_count_comes_back_and_not_with_an_octet_damaged(
            count in 0..=LOW_48, at in 0..8usize, by in 1..=255u8,
        ) {
            prop_assert_eq!(uncounted(counted(count)), Some(count));
            let damaged = damaged(&counted(count).to_le_bytes(), at, by);
            prop_assert_eq!(uncounted(word(&damaged)), None);
        }

        #[test]
        fn a_seal_is_another_with_an_octet_damaged_and_at_another_place(
            octets in prop::collection::vec(any::<u8>(), 1..200),
            place in 0..1usize << 40, elsewhere in 0..1usize << 40, at: usize, by in 1..=255u8,
        ) {
            let made = seal(place, &[&octets]);
            prop_assert_ne!(made, 0);
            prop_assert_ne!(seal(place, &[&damaged(&octets, at, by)]), made);
            prop_assert!(place == elsewhere || seal(elsewhere, &[&octets]) != made);
        }
    }
}
