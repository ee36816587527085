//! Hears from the kernel what changes about links, addresses and gateways.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::NetlinkError;
use super::address::Address;
use super::link::Link;
use super::route;
use super::socket::Raw;

/// Multicast groups: links, IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
const BUFFER_LEN: usize = 64 * 1024;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link came or changed.
    LinkChanged(Link),
    /// A link is gone.
    LinkGone {
        /// The index it had.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// An address came or changed.
    AddressAdded(Address),
    /// An address is gone.
    AddressRemoved(Address),
    /// A default route came, changed or went.
    RouteChanged,
    /// More happened than the socket could hold: read everything afresh.
    Overrun,
}

impl Event {
    fn from_message(message: RouteNetlinkMessage) -> Option<Self> {
        match message {
            RouteNetlinkMessage::NewLink(m) => Link::from_message(&m).map(Self::LinkChanged),
            RouteNetlinkMessage::DelLink(m) => gone(&m),
            RouteNetlinkMessage::NewAddress(m) => Address::from_message(&m).map(Self::AddressAdded),
            RouteNetlinkMessage::DelAddress(m) => {
                Address::from_message(&m).map(Self::AddressRemoved)
            }
            RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m) => {
                route::is_default(&m).then_some(Self::RouteChanged)
            }
            _ => None,
        }
    }
}

fn gone(message: &LinkMessage) -> Option<Event> {
    let link = Link::from_message(message)?;
    Some(Event::LinkGone { index: link.index, name: link.name })
}

/// A socket that hears of changes, to be polled for input.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
    heard: VecDeque<Event>,
}

impl Monitor {
    /// Opens one in the calling thread's network namespace; what happens from now on is heard.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |e: io::Error| NetlinkError::new("listen to the kernel's changes", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(failed)?;
        }
        socket.set_non_blocking(true).map_err(failed)?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER_LEN), heard: VecDeque::new() })
    }

    /// The next event; `None` if there is none now.
    #[expect(clippy::should_implement_trait, reason = "it ends and goes on again, and can fail")]
    pub fn next(&mut self) -> Result<Option<Event>, NetlinkError> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return Ok(Some(event));
            }
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => self.heard.push_back(Event::Overrun),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Some(Event::Overrun));
                }
                Err(e) => return Err(NetlinkError::new("hear of the kernel's changes", e)),
            }
            let events = Raw::all(&self.buffer).into_iter().filter_map(|raw| raw.parse());
            self.heard.extend(events.filter_map(Event::from_message));
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
