//! Numbers that look random and come again with the same seed.

/// A small generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that nobody knew before.
    pub fn fresh_seed() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanos = now.map_or(0, |time| time.as_nanos() as u64);
        Self::new(nanos ^ u64::from(std::process::id()) << 40).next()
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number of `from..to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        assert!(from < to, "an empty range");
        from + self.next() % (to - from)
    }

    /// An index of something of that length.
    pub fn index(&mut self, len: usize) -> usize {
        self.range(0, len as u64) as usize
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// One of several, but not this one.
    pub fn other<T: Copy + PartialEq>(&mut self, of: &[T], than: T) -> T {
        loop {
            let found = self.pick(of);
            if found != than {
                return found;
            }
        }
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.range(0, times) == 0
    }

    /// An octet.
    pub fn octet(&mut self) -> u8 {
        self.next() as u8
    }

    /// Sixteen bits: any, or near a border.
    pub fn word(&mut self) -> u16 {
        let any = self.next() as u16;
        match self.range(0, 6) {
            0 => any % 64,
            1 => u16::MAX - any % 4,
            2 => 1 << (any % 16),
            3 => (1u16 << (any % 16)).wrapping_sub(1),
            _ => any,
        }
    }

    /// Sixteen bits, but not these.
    pub fn word_but(&mut self, wrong: u16) -> u16 {
        loop {
            let word = self.word();
            if word != wrong {
                return word;
            }
        }
    }

    /// So many octets.
    pub fn octets(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.octet()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_another_gives_others() {
        let roll = |seed| -> Vec<u64> {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.range(0, 1000)).collect()
        };
        assert_eq!(roll(1), roll(1));
        assert_ne!(roll(1), roll(2));
    }
}
