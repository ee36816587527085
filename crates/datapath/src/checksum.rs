//! The Internet checksum (RFC 1071).
//!
//! # Theory of operation
//! The ones' complement sum does not care in which byte order or word size it is taken, as long as
//! the carries come back in at the end. So 32-bit words are added as they lie in memory into four
//! 64-bit lanes, which the compiler turns into vector instructions; the carries and the byte order
//! are put right once, in [`Sum::fold`] and at the end of [`Sum::plus`].
//!
//! # Invariants
//! - Pieces added one after the other must start at even offsets of the whole.
//! - No input makes it panic; a datagram is far too short to overflow a lane.

/// A ones' complement sum on its way, of big-endian 16-bit words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

const LANES: usize = 4;
const WORD: usize = 4;
const BLOCK: usize = LANES * WORD;

fn add_block(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    let (words, _) = block.as_chunks::<WORD>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = lane.wrapping_add(u32::from_ne_bytes(*word).into());
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    sum as u16
}

impl Sum {
    /// The sum of `bytes`; an odd last octet counts as if a zero followed it.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().plus(bytes)
    }

    /// Adds `bytes`, which start at an even offset of the whole.
    pub fn plus(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut lanes = [0u64; LANES];
        for block in blocks {
            add_block(&mut lanes, block);
        }
        let mut last = [0u8; BLOCK];
        for (into, from) in last.iter_mut().zip(rest) {
            *into = *from;
        }
        add_block(&mut lanes, &last);
        let total = lanes.into_iter().fold(0u64, u64::wrapping_add);
        Self(self.0.wrapping_add(u16::from_be(fold(total)).into()))
    }

    /// Adds one 16-bit number.
    pub fn word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(word.into()))
    }

    /// Takes away what an earlier [`Sum::word`] had added.
    pub fn without(self, word: u16) -> Self {
        self.word(!word)
    }

    /// The sum in 16 bits, carries added back.
    pub fn fold(self) -> u16 {
        fold(self.0)
    }

    /// What a checksum field holds: the complement. Over data whose checksum is right it is 0.
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The sum of an IPv6 pseudo-header (RFC 8200, section 8.1).
pub fn pseudo6(source: &[u8; 16], destination: &[u8; 16], protocol: u8, length: u32) -> Sum {
    Sum::of(source).plus(destination).plus(&length.to_be_bytes()).word(protocol.into())
}

/// The sum of an IPv4 pseudo-header (RFC 9293, section 3.1).
pub fn pseudo4(source: &[u8; 4], destination: &[u8; 4], protocol: u8, length: u16) -> Sum {
    Sum::of(source).plus(destination).word(length).word(protocol.into())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn what_was_added_can_be_taken_away() {
        let sum = Sum::of(&[1, 2, 3, 4]);
        assert_eq!(sum.word(777).without(777).fold(), sum.fold());
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_word_by_word_model(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert_eq!(Sum::of(&bytes).fold(), slow(&bytes));
        }

        #[test]
        fn pieces_cut_at_even_offsets_give_the_sum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150,
        ) {
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::of(a).plus(b).fold(), Sum::of(&bytes).fold());
        }
    }
}
