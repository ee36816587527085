//! The claims: that a datagram arrives as it was sent, and what `docs/claims.md` says besides.
//!
//! # Theory of operation
//! One base runs in a namespace that plays the host, with its card on a cable; drivers of our own
//! play the VMs, a packet socket plays the machine outside, one on the base's TUN device plays the
//! host's stack. The test writes a datagram, keeps it, and compares what comes out elsewhere, octet
//! by octet. Nothing that is compared comes from the base; only its counters are asked, at the end of
//! each test, whether every datagram met exactly one fate.

mod broken;
mod cases;
mod checks;
mod document;
mod fragments;
mod large;
mod merging;
mod mission;
mod open_checksums;
mod storage;
mod unchanged;
