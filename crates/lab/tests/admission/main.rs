//! Admission: what may be said where, by whom, and what becomes of the rest.
//!
//! # Theory of operation
//! Three doors lead into the base: a VM's driver, the card, the host's stack. A test sends one
//! datagram through one of them and looks everywhere for it: at the drivers of both VMs, on the LAN,
//! on the host's side of the base's TUN device. Then it asks the base's counters, and exactly one of
//! them must have moved, by one, under the name that the table has.
//!
//! The LAN is quiet (`lab::neighbor`), so no frame is there that the test did not send or the base.

mod broken;
mod forged;
mod host;
mod stage;
mod table;
