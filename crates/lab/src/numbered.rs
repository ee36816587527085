//! Numbered datagrams, driven by hand through drivers of our own: what was lost, what came twice,
//! and for how long nothing came.
//!
//! # Theory of operation
//! A [`Flow`] is a UDP stream from one address to another. Its datagrams differ in a number and the
//! number's complement, so that all have the same checksum and one is made from the other by
//! writing 16 octets. [`Flow::number`] knows a datagram of the flow only if every octet is as sent.
//!
//! A [`Tally`] keeps how often each number came. [`Stream`] ties a flow to its tally and to a
//! window: no more datagrams are on their way than the receiver is sure to have room for, so that
//! whatever is missing in the end was lost by who is in between.
//!
//! ```text
//!  flow -- datagram n --> who is tested -- datagram n --> tally
//!    '--- sends while fewer than `window` are on their way ---'
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::frames::{self, protocol};

/// Marks the datagrams, before the number.
const MARK: [u8; 8] = *b"numbered";

/// One stream of numbered UDP datagrams.
#[derive(Clone, Debug)]
pub struct Flow {
    template: Vec<u8>,
    at: usize,
    headers: bool,
}

impl Flow {
    /// A stream from one address to another, both of one family, with `data` octets (at least 24)
    /// in each datagram. `ports` tell it from others between the same addresses.
    pub fn new(source: IpAddr, destination: IpAddr, ports: (u16, u16), data: usize) -> Self {
        let mut content = frames::pattern(data.max(24));
        content[..8].copy_from_slice(&MARK);
        content[8..24].copy_from_slice(&number_octets(0));
        let message = frames::udp(source, destination, ports, &content);
        let template = frames::datagram(source, destination, protocol::UDP, message);
        let at = template.len() - content.len() + MARK.len();
        Self { template, at, headers: true }
    }

    /// The same, known by its data alone: where a kernel's stack sends, the headers are its own.
    pub fn by_data(mut self) -> Self {
        self.headers = false;
        self
    }

    /// The data of a datagram of this flow, without headers.
    pub fn data<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        datagram.get(self.at - MARK.len()..).unwrap_or_default()
    }

    /// Datagram number `number`.
    pub fn datagram(&self, number: u64) -> Vec<u8> {
        let mut bytes = self.template.clone();
        bytes[self.at..self.at + 16].copy_from_slice(&number_octets(number));
        bytes
    }

    /// The number of a datagram of this flow; `None` if it is none of its, or not as it was sent.
    pub fn number(&self, datagram: &[u8]) -> Option<u64> {
        let start = if self.headers { 0 } else { self.at - MARK.len() };
        let (expected, at) = (&self.template[start..], self.at - start);
        let came = match self.headers {
            true => datagram,
            false => datagram.get(datagram.len().checked_sub(expected.len())?..)?,
        };
        if came.len() != expected.len() {
            return None;
        }
        let number = u64::from_be_bytes(*came.get(at..)?.first_chunk::<8>()?);
        let same = came[..at] == expected[..at]
            && came[at..at + 16] == number_octets(number)
            && came[at + 16..] == expected[at + 16..];
        same.then_some(number)
    }
}

fn number_octets(number: u64) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&number.to_be_bytes());
    octets[8..].copy_from_slice(&(!number).to_be_bytes());
    octets
}

/// Which numbers came, and how often.
#[derive(Clone, Debug)]
pub struct Tally {
    seen: Vec<u8>,
    distinct: u64,
    twice: u64,
    last: Instant,
    silence: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        let (seen, last, silence) = (Vec::new(), Instant::now(), Duration::ZERO);
        Self { seen, distinct: 0, twice: 0, last, silence }
    }
}

impl Tally {
    /// Number `number` came.
    pub fn note(&mut self, number: u64) {
        let index = number as usize;
        if self.seen.len() <= index {
            self.seen.resize((index + 1).next_power_of_two(), 0);
        }
        match self.seen[index] {
            0 => self.distinct += 1,
            _ => self.twice += 1,
        }
        self.seen[index] = self.seen[index].saturating_add(1);
        let now = Instant::now();
        self.silence = self.silence.max(now - self.last);
        self.last = now;
    }

    /// Silence is measured from now on.
    pub fn begin(&mut self) {
        (self.last, self.silence) = (Instant::now(), Duration::ZERO);
    }

    /// How many different numbers came.
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// How many came that had come before.
    pub fn duplicates(&self) -> u64 {
        self.twice
    }

    /// The numbers below `sent` that did not come.
    pub fn missing(&self, sent: u64) -> Vec<u64> {
        let came = |n: &u64| self.seen.get(*n as usize).is_some_and(|&times| times > 0);
        (0..sent).filter(|n| !came(n)).collect()
    }

    /// The longest time in which nothing came, since the last call.
    pub fn take_silence(&mut self) -> Duration {
        std::mem::take(&mut self.silence)
    }
}

/// A flow with its window and what came of it.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What is sent.
    pub flow: Flow,
    /// What came.
    pub tally: Tally,
    /// Datagrams sent so far.
    pub sent: u64,
    window: u64,
}

impl Stream {
    /// A stream with at most `window` datagrams on their way.
    pub fn new(flow: Flow, window: u64) -> Self {
        Self { flow, tally: Tally::default(), sent: 0, window }
    }

    /// The next datagram to send, if there is room on the way.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        if self.on_the_way() >= self.window {
            return None;
        }
        let datagram = self.flow.datagram(self.sent);
        self.sent += 1;
        Some(datagram)
    }

    /// Takes in a datagram; whether it is one of this stream.
    pub fn take(&mut self, datagram: &[u8]) -> bool {
        match self.flow.number(datagram) {
            Some(number) => {
                self.tally.note(number);
                true
            }
            None => false,
        }
    }

    /// Datagrams that were sent and have not come.
    pub fn on_the_way(&self) -> u64 {
        self.sent - self.tally.distinct()
    }

    /// Panics unless everything that was sent has come, with at most so many more than once.
    #[track_caller]
    pub fn assert_complete(&self, what: &str, duplicates: u64) {
        let missing = self.tally.missing(self.sent);
        let shown = &missing[..missing.len().min(10)];
        assert!(missing.is_empty(), "{what}: {} of {} lost: {shown:?}", missing.len(), self.sent);
        let twice = self.tally.duplicates();
        assert!(twice <= duplicates, "{what}: {twice} came twice, {duplicates} may");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(family: &str) -> Flow {
        let (a, b) = match family {
            "4" => ("203.0.113.10", "203.0.113.11"),
            _ => ("2001:db8:1::10", "2001:db8:1::11"),
        };
        Flow::new(a.parse().unwrap(), b.parse().unwrap(), (1000, 2000), 64)
    }

    #[test]
    fn a_datagram_is_known_by_its_number_only_as_it_was_sent() {
        for flow in ["4", "6"].map(flow) {
            let mut datagram = flow.datagram(77);
            assert_eq!(flow.number(&datagram), Some(77));
            for at in [0, flow.at - 1, flow.at, flow.at + 8, datagram.len() - 1] {
                datagram[at] ^= 1;
                assert_eq!(flow.number(&datagram), None, "octet {at}");
                datagram[at] ^= 1;
            }
        }
        assert_eq!(flow("4").number(&flow("6").datagram(1)), None);
        let (mut other, loose) = (flow("4").datagram(3), flow("4").by_data());
        other[8] = 63;
        assert_eq!((flow("4").number(&other), loose.number(&other)), (None, Some(3)));
        assert_eq!(loose.number(loose.data(&other)), Some(3));
        assert_eq!(loose.number(&other[1..50]), None);
    }

    #[test]
    fn every_datagram_has_a_right_checksum() {
        for flow in ["4", "6"].map(flow) {
            for number in [0, 1, 0xffff, 1 << 40] {
                let bytes = flow.datagram(number);
                let parsed = etherparse::SlicedPacket::from_ip(&bytes).unwrap();
                let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else {
                    panic!("{parsed:?}")
                };
                let (header, data) = (udp.to_header(), udp.payload());
                let right = match parsed.net.unwrap() {
                    etherparse::NetSlice::Ipv4(ip) => {
                        header.calc_checksum_ipv4(&ip.header().to_header(), data)
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        header.calc_checksum_ipv6(&ip.header().to_header(), data)
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(header.checksum, right.unwrap());
            }
        }
    }

    #[test]
    fn what_is_missing_and_what_came_twice_is_told() {
        let mut stream = Stream::new(flow("4"), 3);
        let sent: Vec<_> = std::iter::from_fn(|| stream.next_frame()).collect();
        assert_eq!(sent.len(), 3);
        assert!(stream.take(&sent[0]) && stream.take(&sent[2]) && stream.take(&sent[2]));
        assert_eq!(stream.tally.missing(stream.sent), [1]);
        assert_eq!(stream.tally.duplicates(), 1);
        assert!(stream.next_frame().is_some());
    }
}
