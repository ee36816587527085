//! Chance that can be had again: a generator whose seed is printed.

use std::time::Duration;

/// A generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a fresh seed, which is printed: a test that fails shows it.
    pub fn fresh() -> Self {
        let mut octets = [0; 8];
        let _ = rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty());
        let seed = u64::from_ne_bytes(octets) | 1;
        println!("seed {seed:#x}");
        Self::from_seed(seed)
    }

    /// From a seed that was printed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// A time from `least` to less than `most`.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros() as u64;
        least + Duration::from_micros(self.below(span))
    }
}
