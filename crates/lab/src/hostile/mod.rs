//! A hostile driver, a hostile peer on the LAN, and those who must not notice them.
//!
//! # Theory of operation
//! A campaign is many rounds. A round takes something valid (a frame with its virtio-net header, a
//! ring, a message), changes *one* thing, and knows what must become of it: which drop or break is
//! counted, once and at whom, or what arrives where, octet for octet. What the base counts is
//! compared with what must have been counted after every few rounds, for all ports: a wrong name, a
//! second count or a lost datagram fails the run, not only a crash.
//!
//! ```text
//!  speech   what a hostile guest says: frames and their virtio-net headers
//!  rings    what a hostile driver does to its rings and its memory
//!  race     the same while the base reads: a thread that rewrites
//!  lan      what a hostile peer on the LAN says
//!     |
//!  campaign rounds until there are enough; every reason often enough
//!     |
//!  stage    where it is played: `inside` (the worker in this process, for speed and sanitizers),
//!           `outside` (a running base, its ports reached by vhost-user)
//!     |
//!  judge    looks at every frame that a receiver gets
//!  pair     two well-behaved neighbours that exchange numbered datagrams and lose none
//! ```
//! [`Dice`] makes a run repeatable: the same seed, the same rounds.

mod campaign;
mod cast;
mod dice;
mod expect;
mod inside;
mod judge;
mod lan;
mod outside;
mod pair;
mod race;
mod rig;
mod rings;
mod speech;
mod stage;

pub use campaign::{Campaign, Report};
pub use cast::{BASE_MAC, Who};
pub use dice::Dice;
pub use expect::{Tally, by_drivers, by_lan, often_enough};
pub use inside::Inside;
pub use lan::Lan;
pub use outside::Outside;
pub use pair::Pair;
pub use rig::Rig;
pub use stage::Stage;
