//! What the base asks of the kernel about links, addresses, routes and filters.
//!
//! # Theory of operation
//! [`Netlink`] asks one question at a time and waits for the answer; [`Monitor`] is a second socket
//! that hears of changes and is polled. Message formats come from `netlink-packet-route`; what the
//! base does with them is in `link`, `address`, `route` and `tc`.
//!
//! # Invariants
//! - A socket belongs to the network namespace of the thread that made it.
//! - A message of the kernel that does not parse is left out, it never spoils a list.
//! - Nothing here is called for a datagram.

mod address;
mod error;
mod link;
mod monitor;
mod route;
mod socket;
mod tc;
mod xdp_features;

pub use address::Address;
pub use error::NetlinkError;
pub use link::Link;
pub use monitor::{Event, Monitor};
pub use route::{Gateway, Route};
pub use socket::Netlink;
pub use tc::{Direction, Filter};
pub use xdp_features::{XdpFeatures, xdp_features};

pub(crate) use error::SETCAP;

#[cfg(test)]
mod tests;
