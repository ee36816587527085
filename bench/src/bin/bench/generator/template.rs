//! What is sent: a header and a frame, as the sender's buffer holds them; or one for each flow.

use bench::frames::{Ends, Kind, build};

/// The word of a buffer in which a datagram's number is: in the payload of all kinds of frames, and
/// in the first cache line where that is possible.
const NUMBER_OF_SHORT: usize = 7;
/// The same behind TCP's header with time stamps: octets 80 to 87 of a buffer, 78 is where the
/// payload begins.
const NUMBER_OF_LARGE: usize = 10;
/// Words of a buffer that are written one by one: header, frame's headers, number.
pub const HEAD: usize = 11;

/// Where a datagram's number is in a buffer, in 64-bit words.
pub fn number_at(kind: Kind) -> usize {
    match kind {
        Kind::Udp => NUMBER_OF_SHORT,
        Kind::LargeTcp => NUMBER_OF_LARGE,
    }
}

/// What is sent.
#[derive(Debug)]
pub struct Template {
    octets: Vec<u8>,
    /// The first words of a frame of each flow.
    heads: Vec<[u64; HEAD]>,
    number_at: usize,
}

impl Template {
    /// A frame of `octets` octets.
    pub fn new(kind: Kind, ends: Ends, octets: usize) -> Self {
        Self::flows(kind, &[ends], octets)
    }

    /// A frame of `octets` octets for each of these flows, which take turns: a power of two of them.
    pub fn flows(kind: Kind, flows: &[Ends], octets: usize) -> Self {
        assert!(flows.len().is_power_of_two(), "{} flows", flows.len());
        let frames: Vec<Vec<u8>> = flows.iter().map(|ends| frame(kind, *ends, octets)).collect();
        let heads = frames.iter().map(|frame| words(frame)).collect();
        let octets = frames.into_iter().next().unwrap_or_default();
        Self { octets, heads, number_at: number_at(kind) }
    }

    /// Octets of header and frame, those of the first flow.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The first words of the frame that carries this number.
    pub fn head(&self, number: u64) -> &[u64; HEAD] {
        &self.heads[number as usize & (self.heads.len() - 1)]
    }

    /// Header and frame that carry this number, as they lie in the sender's buffer.
    pub fn written(&self, number: u64) -> Vec<u8> {
        let mut octets = self.octets.clone();
        let words = self.head(number).iter().flat_map(|word| word.to_le_bytes());
        octets.iter_mut().zip(words).for_each(|(octet, written)| *octet = written);
        let from = 8 * self.number_at;
        octets[from..from + 8].copy_from_slice(&number.to_le_bytes());
        octets
    }

    /// How many flows there are.
    pub fn count(&self) -> usize {
        self.heads.len()
    }

    /// The word of a buffer in which the number is.
    pub fn number_at(&self) -> usize {
        self.number_at
    }
}

fn frame(kind: Kind, ends: Ends, octets: usize) -> Vec<u8> {
    let (header, mut frame) = build(kind, ends, octets);
    if kind == Kind::Udp && ends.addresses[0].is_ipv4() {
        // Not summed up: the number in it changes.
        frame[40..42].fill(0);
    }
    [&header.to_bytes()[..], &frame].concat()
}

fn words(frame: &[u8]) -> [u64; HEAD] {
    std::array::from_fn(|n| {
        let mut octets = [0; 8];
        let from = frame.get(8 * n..).unwrap_or_default();
        let len = from.len().min(8);
        octets[..len].copy_from_slice(&from[..len]);
        u64::from_le_bytes(octets)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn flows_take_turns_and_differ_in_their_addresses_alone() {
        let to = |last| Ends {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            addresses: [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, last)]
                .map(Into::into),
        };
        let template = Template::flows(Kind::Udp, &[to(2), to(3)], 64);
        // Octets 42 to 45 of the buffer: the destination, in the sixth word.
        let last = |number| template.head(number)[5].to_le_bytes()[5];
        assert_eq!([0, 1, 2, 1025].map(last), [2, 3, 2, 3]);
        assert_eq!(template.head(0)[6..], template.head(1)[6..]);
        let [first, second] = [4, 5].map(|number| template.written(number));
        assert_eq!((first[45], second[45]), (2, 3));
        assert_eq!((first[56], second[56]), (4, 5));
        assert_eq!(first[57..], second[57..]);
    }
}
