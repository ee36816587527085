//! One ring that the base shares with the kernel: a producer's count, a consumer's count, entries.
//!
//! Both counts go on for ever, modulo 2^32; an entry's place is its count modulo the ring's size. Each
//! has one writer. Whoever has written entries publishes them by storing the producer's count, and
//! whoever is done with some gives their places back by storing the consumer's: so a store releases
//! and a load acquires.

use std::sync::atomic::Ordering;

use rustix::net::xdp::XdpRingOffset;
use virtqueue::Mapping;

/// Octets of an entry of a fill or completion ring: an address in the umem.
pub(super) const ADDRESS: usize = 8;
/// Octets of an entry of a receive or transmit ring: address, length, options.
pub(super) const DESCRIPTOR: usize = 16;

/// In a descriptor's options: the frame goes on in the next one (XDP_PKT_CONTD).
pub(super) const GOES_ON: u32 = 1;

/// Set in a ring's flags while its other side sleeps.
const NEED_WAKEUP: u32 = 1;

/// What a receive or transmit ring says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Where its first octet lies in the umem.
    pub address: u64,
    /// Its octets.
    pub len: u32,
    /// Flags: none of a frame's last piece, or of one that is whole.
    pub options: u32,
}

impl Descriptor {
    /// Whether the frame goes on in the next one.
    pub fn goes_on(&self) -> bool {
        self.options & GOES_ON != 0
    }
}

/// Where a ring's parts lie in its mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub producer: usize,
    pub consumer: usize,
    pub entries: usize,
    pub flags: usize,
}

impl Places {
    /// As the kernel tells them; `None` if it is too old to have flags.
    pub fn of(told: &XdpRingOffset) -> Option<Self> {
        Some(Self {
            producer: usize::try_from(told.producer).ok()?,
            consumer: usize::try_from(told.consumer).ok()?,
            entries: usize::try_from(told.desc).ok()?,
            flags: usize::try_from(told.flags?).ok()?,
        })
    }

    /// Octets of a ring with so many entries of so many octets.
    pub fn len(&self, size: u32, entry: usize) -> usize {
        self.entries.saturating_add((size as usize).saturating_mul(entry))
    }
}

/// A mapped ring.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Mapping,
    places: Places,
    size: u32,
}

impl Ring {
    /// `size` is a power of two, and `memory` has room for as many entries.
    pub fn new(memory: Mapping, places: Places, size: u32) -> Self {
        Self { memory, places, size }
    }

    /// How many entries it has room for.
    pub fn size(&self) -> u32 {
        self.size
    }

    fn load(&self, at: usize) -> u32 {
        self.memory.u32_at(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.memory.u32_at(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// How many entries have ever been published.
    pub fn producer(&self) -> u32 {
        self.load(self.places.producer)
    }

    /// How many of them have been given back.
    pub fn consumer(&self) -> u32 {
        self.load(self.places.consumer)
    }

    /// Publishes the entries up to this count.
    pub fn set_producer(&self, count: u32) {
        self.store(self.places.producer, count);
    }

    /// Gives back the entries up to this count.
    pub fn set_consumer(&self, count: u32) {
        self.store(self.places.consumer, count);
    }

    /// Entries published and not given back.
    pub fn waiting(&self) -> u32 {
        self.producer().wrapping_sub(self.consumer())
    }

    /// Whether the kernel has to be woken to go on with this ring.
    pub fn wants_wakeup(&self) -> bool {
        self.load(self.places.flags) & NEED_WAKEUP != 0
    }

    fn entry(&self, count: u32, octets: usize) -> usize {
        let place = count & self.size.wrapping_sub(1);
        self.places.entries.saturating_add((place as usize).saturating_mul(octets))
    }

    fn word(&self, at: usize) -> u64 {
        self.memory.u64_at(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn set_word(&self, at: usize, value: u64) {
        if let Some(word) = self.memory.u64_at(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The address that is this entry of a fill or completion ring.
    pub fn address(&self, count: u32) -> u64 {
        self.word(self.entry(count, ADDRESS))
    }

    /// Writes it.
    pub fn set_address(&self, count: u32, address: u64) {
        self.set_word(self.entry(count, ADDRESS), address);
    }

    /// This entry of a receive or transmit ring.
    pub fn descriptor(&self, count: u32) -> Descriptor {
        let at = self.entry(count, DESCRIPTOR);
        let rest = self.word(at.saturating_add(8)).to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = rest;
        Descriptor {
            address: self.word(at),
            len: u32::from_ne_bytes([a, b, c, d]),
            options: u32::from_ne_bytes([e, f, g, h]),
        }
    }

    /// Writes it.
    pub fn set_descriptor(&self, count: u32, descriptor: Descriptor) {
        let at = self.entry(count, DESCRIPTOR);
        let [a, b, c, d] = descriptor.len.to_ne_bytes();
        let [e, f, g, h] = descriptor.options.to_ne_bytes();
        self.set_word(at, descriptor.address);
        self.set_word(at.saturating_add(8), u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}
