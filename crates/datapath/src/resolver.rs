//! What goes between the workers and the resolver, a process of its own that answers DNS: datagrams of
//! the last inch, each behind a tag that says whose it is.
//!
//! ```text
//! worker n  ==  socket pair n (SOCK_SEQPACKET)  ==  resolver
//!           one message: port, generation | IP datagram
//! ```
//! Each worker has a pair of its own: nobody waits for another to ask, and an answer comes back to the
//! worker that serves the port. Neither side ever waits for the other: what a full socket does not take
//! is dropped. A port's generation tells it from one that had its number before.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::names::PortId;

/// Octets of the longest datagram that is handed to the resolver: a large send of a TCP that was told a
/// window of some thousand octets is shorter.
pub const LONGEST: usize = 16 * 1024;

/// Whose datagram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The port that it came from, or goes to.
    pub port: PortId,
    /// Which port of that number.
    pub generation: u32,
}

impl Tag {
    /// Octets before each datagram.
    pub const LEN: usize = 8;

    /// As it stands before a datagram.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [p0, p1] = self.port.0.to_ne_bytes();
        let [g0, g1, g2, g3] = self.generation.to_ne_bytes();
        [p0, p1, 0, 0, g0, g1, g2, g3]
    }

    /// The tag of a message, and its datagram.
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let ([p0, p1, _, _, g0, g1, g2, g3], datagram) = message.split_first_chunk()?;
        let port = PortId(u16::from_ne_bytes([*p0, *p1]));
        let generation = u32::from_ne_bytes([*g0, *g1, *g2, *g3]);
        Some((Self { port, generation }, datagram))
    }
}

/// Socket pairs for so many workers: their ends, and the resolver's.
pub fn sockets(workers: usize) -> io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let pair =
        || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let pairs = (0..workers).map(|_| pair()).collect::<Result<Vec<_>, _>>()?;
    Ok(pairs.into_iter().unzip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written_and_a_shorter_message_is_none() {
        let tag = Tag { port: PortId(0x1234), generation: 0xdead_beef };
        let message = [&tag.to_bytes()[..], b"datagram"].concat();
        assert_eq!(Tag::split(&message), Some((tag, &b"datagram"[..])));
        assert_eq!(Tag::split(&message[..7]), None);
        assert_eq!(Tag::split(&message[..8]), Some((tag, &b""[..])));
    }
}
