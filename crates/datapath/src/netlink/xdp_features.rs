//! What a card's driver does with XDP programs, as the kernel tells since Linux 6.3: the family
//! `netdev` of generic netlink.
//!
//! Two questions: which number the family has, and what it says of the card. The messages are a
//! header of four octets and attributes of (length, type, value), in the machine's own order.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use super::socket::Raw;

/// The family that knows the numbers of all families, and its question for one by name.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const FAMILY_ID: u16 = 1;
/// The question for a card.
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
/// Octets of a message's header, and of the family's own behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// Octets of an attribute's length and type.
const ATTRIBUTE: usize = 4;
/// Octets of the longest answer, by far.
const ANSWER: usize = 16 << 10;

/// What a driver does with XDP programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// It runs them, and lets them hand frames to sockets.
    pub fn runs(self) -> bool {
        self.0 & 0b11 == 0b11
    }

    /// It can leave out the copy into a socket's memory.
    pub fn without_copies(self) -> bool {
        self.0 & 0b1000 != 0
    }

    /// It takes and gives frames in pieces.
    pub fn in_pieces(self) -> bool {
        self.0 & 0b10_0000 != 0
    }
}

/// Asks about the card with this index. `None`: the kernel does not tell.
pub fn xdp_features(index: u32) -> io::Result<Option<XdpFeatures>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let family = match ask(&socket, CONTROL, GET_FAMILY, &attribute(FAMILY_NAME, b"netdev\0")) {
        Ok(answer) => {
            find(&answer, FAMILY_ID).and_then(|id| Some(u16::from_ne_bytes(*id.first_chunk()?)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let Some(family) = family else { return Ok(None) };
    let answer = ask(&socket, family, GET_DEVICE, &attribute(DEVICE_INDEX, &index.to_ne_bytes()))?;
    let features =
        find(&answer, DEVICE_FEATURES).and_then(|f| Some(u64::from_ne_bytes(*f.first_chunk()?)));
    Ok(features.map(XdpFeatures))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len().saturating_add(ATTRIBUTE)).unwrap_or(u16::MAX);
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(ATTRIBUTE), 0);
    bytes
}

/// Sends a question and gives the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let len = HEADER.saturating_add(FAMILY_HEADER).saturating_add(attributes.len());
    let mut bytes = u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&family.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number and sender, which nobody else has on this socket; then the command and the
    // family's version.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[command, 1, 0, 0]);
    bytes.extend_from_slice(attributes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::new();
    loop {
        let mut buffer = Vec::with_capacity(ANSWER);
        socket.recv(&mut buffer, 0)?;
        for message in Raw::all(&buffer) {
            if message.kind == NLMSG_ERROR {
                let code = message.payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                return match code {
                    0 => Ok(answer),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            answer = message.payload.get(FAMILY_HEADER..).unwrap_or_default().to_vec();
        }
    }
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [a, b, c, d] = *attributes.first_chunk::<ATTRIBUTE>()?;
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(ATTRIBUTE..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(ATTRIBUTE)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_a_cut_off_one_is_not_there() {
        let bytes = [attribute(7, b"abcde"), attribute(3, &[1; 8])].concat();
        assert_eq!(find(&bytes, 7), Some(b"abcde".as_slice()));
        assert_eq!(find(&bytes, 3), Some([1; 8].as_slice()));
        assert_eq!(find(&bytes, 4), None);
        assert_eq!(find(&bytes[..bytes.len() - 1], 3), None);
        // A length that is shorter than itself must not be gone round for ever.
        assert_eq!(find(&[2, 0, 9, 0, 2, 0, 9, 0], 3), None);
    }

    #[test]
    fn bits_are_those_of_the_kernels_list() {
        let veth = XdpFeatures(0b10_0011);
        assert!(veth.runs() && veth.in_pieces() && !veth.without_copies());
        assert!(!XdpFeatures(0).runs() && !XdpFeatures(1).runs());
    }
}
