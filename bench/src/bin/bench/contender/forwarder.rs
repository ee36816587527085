//! A bare forwarder: from one guest's output ring to a card by way of a packet socket, nothing
//! looked at.
//!
//! # Theory of operation
//! A thread on the switching core takes up to 64 frames from the ring by the device's side of our own
//! rings (`virtqueue`), their lines asked for ahead, so that both ends of the comparison read guests
//! alike, and gives them to the kernel in one `sendmmsg`, each behind its virtio-net header
//! (PACKET_VNET_HDR) as the guest wrote it. Then the buffers go back.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use lab::netns::Netns;
use lab::{Result, capture};
use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use virtqueue::{NetHeader, RingFault, Taken, TxQueue};

use super::Switch;
use super::thread::Thread;
use crate::generator::{Guest, Plan};

/// Frames in one system call: as many as ipvisor gives.
pub(super) const BATCH: usize = 64;
/// Frames whose lines are asked for at a time.
const STRETCH: usize = 32;

/// The running thread.
pub struct Forwarder {
    thread: Thread,
}

impl Forwarder {
    /// Starts it between a guest and a card of a namespace.
    pub fn start(guest: &Guest, plan: &Plan, space: &Netns, card: &str) -> Result<Self> {
        let socket = capture::outlet(space, card)?;
        let mut queue = guest.output()?;
        let mut batch = Batch { frames: vec![0; BATCH * plan.frame], each: plan.frame };
        let work = move || batch.forward(&mut queue, &socket).expect("a ring of our own making");
        Ok(Self { thread: Thread::start("forwarder", work)? })
    }
}

impl Switch for Forwarder {
    fn name(&self) -> &'static str {
        "bare AF_PACKET"
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

/// Where the frames of a batch lie.
struct Batch {
    frames: Vec<u8>,
    /// Octets of each.
    each: usize,
}

impl Batch {
    /// Forwards a batch; whether there was one.
    fn forward(
        &mut self,
        queue: &mut TxQueue,
        socket: &OwnedFd,
    ) -> std::result::Result<bool, RingFault> {
        let mut headers = [[0; NetHeader::LEN]; BATCH];
        let mut count = 0;
        for (header, frame) in headers.iter_mut().zip(self.frames.chunks_exact_mut(self.each)) {
            let Some(taken) = take(queue, count, frame)? else { break };
            *header = taken.header.to_bytes();
            count += 1;
        }
        if count == 0 {
            return Ok(false);
        }
        let mut parts = [[IoSlice::new(&[]); 2]; BATCH];
        let frames = headers.iter().zip(self.frames.chunks_exact(self.each));
        for (to, (header, frame)) in parts.iter_mut().zip(frames) {
            *to = [IoSlice::new(&header[..NetHeader::SHORT_LEN]), IoSlice::new(frame)];
        }
        send(socket, &parts[..count]);
        // Whether the guest is to be notified: it wants no interrupts.
        queue.complete().map(|_| true)
    }
}

/// Takes the `nth` frame of a batch; those of a stretch are asked for before its first.
pub(super) fn take(
    queue: &mut TxQueue,
    nth: usize,
    frame: &mut [u8],
) -> std::result::Result<Option<Taken>, RingFault> {
    if nth.is_multiple_of(STRETCH) {
        queue.foresee(STRETCH as u16)?;
    }
    queue.copy_next(frame)
}

/// Gives frames to the kernel; waits where it has no room. What it refuses for good is left out, and
/// missed at the far end.
fn send(socket: &OwnedFd, mut parts: &[[IoSlice<'_>; 2]]) {
    while !parts.is_empty() {
        let mut control: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut each = parts.iter();
        let mut messages = control
            .each_mut()
            .map(|control| MMsgHdr::new(each.next().map_or(&[], |p| p.as_slice()), control));
        match sendmmsg(socket, &mut messages[..parts.len()], SendFlags::DONTWAIT) {
            Ok(sent) => parts = &parts[sent..],
            Err(Errno::AGAIN | Errno::NOBUFS) => std::hint::spin_loop(),
            Err(_) => parts = &parts[1..],
        }
    }
}
