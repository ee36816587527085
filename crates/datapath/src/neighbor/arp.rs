//! ARP for IPv4 over Ethernet (RFC 826), as far as the LAN side needs it.

use std::net::Ipv4Addr;

use super::outbox::Outbox;
use crate::datagram::ethertype;
use crate::names::Mac;

/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What a message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Reply,
}

/// An ARP request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub operation: Operation,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

/// What can be read of an ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Message(Arp),
    /// Reverse ARP and the like: nothing to us.
    OtherOperation,
}

impl Arp {
    /// Reads a message; padding may follow it. `None` if it is not one for IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<Parsed> {
        let (kind, rest) = bytes.split_first_chunk::<6>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk::<6>()?;
        let target = rest.first_chunk::<4>()?;
        if *kind != KIND {
            return None;
        }
        let operation = match operation {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Some(Parsed::OtherOperation),
        };
        Some(Parsed::Message(Self {
            operation,
            sender_mac: Mac(*sender_mac),
            sender: (*sender).into(),
            target_mac: Mac(*target_mac),
            target: (*target).into(),
        }))
    }

    /// The question who has `target`, in the name of `sender`: 0.0.0.0 in a probe for duplicates,
    /// which tells nobody anything; `target` itself in an announcement (RFC 5227).
    pub fn request(card: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: card,
            sender,
            target_mac: Mac([0; 6]),
            target,
        }
    }

    /// The answer to this request: what it asks for is at `card`.
    pub fn reply(&self, card: Mac) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: card,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// Sends the message to `destination`, from the MAC address that it names as sender.
    pub fn send(&self, destination: Mac, out: &mut Outbox) {
        let operation = match self.operation {
            Operation::Request => [0, 1],
            Operation::Reply => [0, 2],
        };
        out.send(&[
            &destination.0,
            &self.sender_mac.0,
            &ethertype::ARP.to_be_bytes(),
            &KIND,
            &operation,
            &self.sender_mac.0,
            &self.sender.octets(),
            &self.target_mac.0,
            &self.target.octets(),
        ]);
    }
}
