//! How front ends bring their rings: the back end's side of vhost-user, for all ports.
pub mod door;
pub mod event;
pub mod features;
mod owner;
pub mod refusal;

pub use crate::names::Side;
pub use door::{PortDoor, Socket};
pub use event::{EventSink, PortEvent};
pub use owner::{Ring, RingOwner};
