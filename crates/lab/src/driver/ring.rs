//! Which layout drivers' rings have.

/// Which layout drivers have where a test does not say: `split` or `packed`.
pub const RINGS: &str = "IPVISOR_TEST_RINGS";

/// The layout of a driver's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rings {
    /// Descriptor table, available ring, used ring.
    Split,
    /// One ring of descriptors that both sides write.
    Packed,
}

impl Rings {
    /// What [`RINGS`] asks for; split ones if it asks for nothing.
    ///
    /// # Panics
    /// If it asks for something else.
    pub fn chosen() -> Self {
        match std::env::var(RINGS).as_deref() {
            Err(_) | Ok("" | "split") => Self::Split,
            Ok("packed") => Self::Packed,
            Ok(other) => panic!("{RINGS}={other}: split or packed"),
        }
    }
}
