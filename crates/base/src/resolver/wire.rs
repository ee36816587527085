//! The link of one TCP/IP stack: datagrams that came, and those that it sends, in memory.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// A link without addresses of its own (RFC 791 and RFC 8200 datagrams, nothing in front of them).
pub struct Wire {
    /// What has come for the stack, and that it has not taken yet.
    pub came: VecDeque<Vec<u8>>,
    /// What it has sent.
    pub goes: Vec<Vec<u8>>,
    mtu: u16,
}

impl Wire {
    /// An empty one, for datagrams of so many octets.
    pub fn new(mtu: u16) -> Self {
        Self { came: VecDeque::new(), goes: Vec::new(), mtu }
    }
}

/// A datagram that came.
pub struct Came(Vec<u8>);

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Room for one that is sent.
pub struct Goes<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Goes<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut datagram = vec![0; length];
        let result = write(&mut datagram);
        self.0.push(datagram);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Came;
    type TxToken<'a> = Goes<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Came, Goes<'_>)> {
        Some((Came(self.came.pop_front()?), Goes(&mut self.goes)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Goes<'_>> {
        Some(Goes(&mut self.goes))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu.into();
        capabilities
    }
}
