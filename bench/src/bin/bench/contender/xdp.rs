//! A bare forwarder: from one guest's output ring to a card by way of an AF_XDP socket, nothing looked
//! at.
//!
//! # Theory of operation
//! A thread on the switching core takes up to 64 frames from the ring as the other bare forwarder does
//! (`forwarder`), puts each into a frame of the socket's memory as the guest wrote it, and calls the
//! kernel once for all of them. Socket and memory are the ones of the base (`datapath`), so that the
//! kernel does the same for both: what this code costs is seen in neither. Then the buffers go back.

use datapath::names::Mac;
use datapath::uplink::{Guard, UplinkError, XdpSetup, XdpUplink};
use lab::netns::{Netns, mac};
use lab::{LabError, Result};
use virtqueue::{RingFault, TxQueue};

use super::Switch;
use super::forwarder::{BATCH, take};
use super::thread::Thread;
use crate::generator::{Guest, Plan};

/// Octets of an Ethernet header.
const ETHERNET: usize = 14;
/// Frames of the way in, on which nothing comes.
const INWARD: u32 = 64;
/// Octets of the largest datagram on the cable.
const MTU: u32 = 1500;

/// The running thread.
pub struct XdpForwarder {
    thread: Thread,
}

impl XdpForwarder {
    /// Starts it between a guest and a card of a namespace.
    pub fn start(guest: &Guest, plan: &Plan, space: &Netns, card: &str) -> Result<Self> {
        let own = Mac(mac(space, card)?);
        let opened = space.enter(|| open(card, own))?;
        let mut socket = opened.map_err(|e| LabError::Unexpected(format!("{card}: {e}")))?;
        let mut queue = guest.output()?;
        let mut frame = vec![0; plan.frame];
        let work =
            move || forward(&mut queue, &mut socket, &mut frame).expect("a ring of our own making");
        Ok(Self { thread: Thread::start("forwarder", work)? })
    }
}

/// The socket, on the card of this name in the thread's namespace.
fn open(card: &str, mac: Mac) -> std::result::Result<XdpUplink, UplinkError> {
    let guard = Guard::open("bare")?;
    let index = datapath::netlink::Netlink::open()
        .ok()
        .and_then(|mut netlink| netlink.link(card).ok().flatten())
        .map_or(0, |link| link.index);
    let maps = guard.descriptors();
    XdpUplink::open(&XdpSetup { name: card, index, mac, mtu: MTU, frames: INWARD, maps })
}

impl Switch for XdpForwarder {
    fn name(&self) -> &'static str {
        "bare AF_XDP"
    }

    fn pause(&self) -> Result<()> {
        self.thread.pause();
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        self.thread.resume();
        Ok(())
    }
}

/// Forwards a batch; whether there was one. Waits where the kernel has no room.
fn forward(
    queue: &mut TxQueue,
    socket: &mut XdpUplink,
    frame: &mut [u8],
) -> std::result::Result<bool, RingFault> {
    let mut count = 0;
    while count < BATCH && take(queue, count, frame)?.is_some() {
        let (ethernet, datagram) = frame.split_first_chunk::<ETHERNET>().expect("a whole frame");
        while socket.put(ethernet, datagram).is_none() {
            socket.send();
        }
        count += 1;
    }
    if count == 0 {
        return Ok(false);
    }
    socket.send();
    // Whether the guest is to be notified: it wants no interrupts.
    queue.complete().map(|_| true)
}
