//! Datagrams spoilt on purpose, to show that the tests would notice.
//!
//! # Why it exists
//! A test that shows that something works is worth what it says when it does not. So there is a build
//! of the base that can be told to spoil one way of a datagram, and tests that expect the others to
//! fail with it.
//!
//! # Theory of operation
//! With the feature `fault-injection`, which nothing that is shipped has, the environment variable
//! `IPVISOR_FAULT` names a fault, and perhaps a way: `flip vm-to-lan`, `last-inch`. Without the
//! variable this build is like any other.
//!
//! | fault | what happens |
//! | --- | --- |
//! | `flip WAY` | the last octet of each datagram is another |
//! | `ttl WAY` | a router was here: TTL or hop limit is one less, the header checksum right |
//! | `lose WAY` | datagrams vanish, and no counter says so |
//! | `source` | a VM may say any source that is not reserved |
//! | `last-inch` | what speaks for the last inch crosses it |
//! | `poison WAY` | the base dies of each datagram in which the octets `ipvisor poison!!` stand |
//!
//! Ways: `vm-to-vm`, `vm-to-lan`, `vm-to-host`, `lan-to-vm`, `host-to-vm`. Ways of poison: where the
//! base is when it dies: `vm`, `lan`, `host` (it decides about what came from there), `delivery` (it
//! copies into a receiver's ring). Two more depend on no octets: `buffer`, whatever is to be copied
//! into the buffer at index 64 of the ring of a VM named `d`; `message`, a request SET_VRING_BASE with
//! the index 0xdead.

use std::sync::LazyLock;

use crate::admit;
use crate::counters::Counter;
use crate::segment::finish_ip4;

/// What is to go wrong: fault and way.
static FAULT: LazyLock<(String, String)> = LazyLock::new(|| {
    let text = std::env::var("IPVISOR_FAULT").unwrap_or_default();
    let (fault, way) = text.split_once(' ').unwrap_or((&text, ""));
    (fault.to_owned(), way.to_owned())
});

/// Whether this fault is asked for.
pub fn is(fault: &str) -> bool {
    FAULT.0 == fault
}

/// Spoils a datagram of this way, if that is asked for; true if it is to vanish.
pub fn spoil(way: &str, datagram: &mut [u8]) -> bool {
    let (fault, spoilt) = &*FAULT;
    if spoilt != way {
        return false;
    }
    match fault.as_str() {
        "flip" => {
            if let Some(last) = datagram.last_mut() {
                *last ^= 1;
            }
        }
        "ttl" => route(datagram),
        "lose" => return true,
        _ => {}
    }
    false
}

/// Dies of a datagram, if that is asked for and it is one to die of.
pub fn poison(way: &str, datagram: &[u8]) {
    const POISON: &[u8] = b"ipvisor poison!!";
    let (fault, deadly) = &*FAULT;
    if fault == "poison" && deadly == way && datagram.windows(POISON.len()).any(|w| w == POISON) {
        std::process::abort();
    }
}

/// Dies of a buffer, likewise.
pub fn poison_buffer(name: &str, index: u16) {
    let (fault, deadly) = &*FAULT;
    if fault == "poison" && deadly == "buffer" && name == "d" && index == 64 {
        std::process::abort();
    }
}

/// Dies of an index that a front end names, likewise.
pub fn poison_message(index: u16) {
    let (fault, deadly) = &*FAULT;
    if fault == "poison" && deadly == "message" && index == 0xdead {
        std::process::abort();
    }
}

/// The name of the way that admission has found for a VM's datagram.
pub fn from_vm(way: admit::Way) -> &'static str {
    match way {
        admit::Way::Port(_) => "vm-to-vm",
        admit::Way::Host => "vm-to-host",
        admit::Way::Outside => "vm-to-lan",
    }
}

/// Lets what was refused for its source leave by the card, if that is asked for.
pub fn forgive(way: Result<admit::Way, Counter>) -> Result<admit::Way, Counter> {
    match way {
        Err(Counter::DropSourceNotOwn) if is("source") => Ok(admit::Way::Outside),
        way => way,
    }
}

/// What a router does.
fn route(datagram: &mut [u8]) {
    let four = datagram.first().is_some_and(|first| first >> 4 == 4);
    let header = usize::from(datagram.first().copied().unwrap_or_default() & 15).saturating_mul(4);
    if let Some(limit) = datagram.get_mut(if four { 8 } else { 7 }) {
        *limit = limit.saturating_sub(1);
    }
    if four && let Some(header) = datagram.get_mut(..header) {
        let _ = finish_ip4(header);
    }
}
