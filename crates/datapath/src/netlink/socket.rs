//! One question, one answer: the exchange of messages with the kernel.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::NetlinkError;

/// Octets of the longest answer: the kernel never builds longer ones.
const ANSWER_LEN: usize = 64 * 1024;
/// A list that changed while it was read is read again, so many times.
const ATTEMPTS: u32 = 8;

/// A socket for questions and orders.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of an answer, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: Vec<u8>,
}

impl Raw {
    /// The messages in a buffer. A cut-off tail is left out.
    pub(super) fn all(mut buffer: &[u8]) -> Vec<Self> {
        let mut messages = Vec::new();
        while let Ok(message) = NetlinkBuffer::new_checked(buffer) {
            messages.push(Self {
                kind: message.message_type(),
                flags: message.flags(),
                sequence: message.sequence_number(),
                payload: message.payload().to_vec(),
            });
            let len = (message.length() as usize).next_multiple_of(4);
            match buffer.get(len..) {
                Some(rest) if len > 0 => buffer = rest,
                _ => break,
            }
        }
        messages
    }

    /// What it says, if it can be understood.
    pub(super) fn parse(&self) -> Option<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.message_type = self.kind;
        header.flags = self.flags;
        RouteNetlinkMessage::deserialize(&header, &self.payload).ok()
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |e: io::Error| NetlinkError::new("open a netlink socket", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Lets the kernel leave out what was not asked for; where it cannot, we do.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(ANSWER_LEN) })
    }

    /// Gives an order and waits until it is carried out.
    pub(super) fn order(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).map(|_| ())
    }

    /// Asks for one object.
    pub(super) fn ask(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<Raw>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Asks for a list.
    pub(super) fn list(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<Raw>> {
        for _ in 0..ATTEMPTS {
            let answer = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if answer.iter().all(|m| m.flags & NLM_F_DUMP_INTR == 0) {
                return Ok(answer);
            }
        }
        Err(io::Error::other("the list keeps changing while it is read"))
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Raw>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answer = Vec::new();
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
                Ok(len) if len > self.buffer.len() => {
                    return Err(io::Error::other("an answer of the kernel was cut short"));
                }
                Ok(_) => {}
            }
            for message in Raw::all(&self.buffer) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_NOOP => {}
                    // Both carry a negative error number first; 0 is success.
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code =
                            message.payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        if code < 0 {
                            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                        }
                        if message.flags & NLM_F_DUMP_INTR != 0 {
                            answer.push(message);
                        }
                        return Ok(answer);
                    }
                    _ => answer.push(message),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_messages_is_taken_apart_and_a_cut_off_tail_left_out() {
        let one = |kind: u16, payload: &[u8]| {
            let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut buffer = one(16, b"abcde");
        buffer.extend(one(17, b""));
        buffer.extend(one(18, b"cut off").get(..20).unwrap());
        let found: Vec<_> = Raw::all(&buffer).into_iter().map(|m| (m.kind, m.payload)).collect();
        assert_eq!(found, vec![(16, b"abcde".to_vec()), (17, vec![])]);
        assert_eq!(Raw::all(&[0; 32]), vec![]);
    }
}
