//! Frames as they pass a card outside the base, and frames sent from there, octet by octet.
//!
//! # Theory of operation
//! A [`Tap`] is a packet socket on one card of a namespace, with virtio-net headers: it sees frames
//! as the card's driver does, large sends whole with what was left to offload, and sends frames
//! that no stack would. It sees both directions; [`Frame::outgoing`] tells them apart.
//! A [`Capture`] is a thread that collects from a tap. Frames that the kernel had to drop fail the
//! capture when it is read: a test never mistakes a lost frame for one that was not sent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtqueue::NetHeader;

use crate::command::wait_until;
use crate::error::{Attempt, LabError, Result};
use crate::netns::Netns;
use crate::sys;

/// Longest frame: 64 KiB of datagram, Ethernet and virtio-net headers.
const LONGEST: usize = 1 << 17;
/// What the kernel may keep for a tap before it drops.
const BUFFER: i32 = 64 << 20;
/// What the kernel may keep of a sender: as much as the base asks for.
const SEND_BUFFER: i32 = 16 << 20;
const PACKET_VNET_HDR: i32 = 15;

/// A frame with what the virtio-net header says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel saw it: since 1970.
    pub at: Duration,
    /// Sent by the card that is watched, not received by it.
    pub outgoing: bool,
    /// What was left to offload.
    pub header: NetHeader,
    /// The frame, from the destination's MAC address on.
    pub bytes: Vec<u8>,
}

/// A socket that sends on a card of a namespace, with virtio-net headers, and receives nothing.
pub fn outlet(space: &Netns, card: &str) -> Result<OwnedFd> {
    let opened = space.enter(|| -> io::Result<OwnedFd> {
        let socket = sys::packet_socket()?;
        let fd = socket.as_fd();
        sys::set_option(fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        let index = rustix::net::netdevice::name_to_index(fd, card)?;
        sys::bind_packet_for(fd, index, 0)?;
        Ok(socket)
    })?;
    opened.attempt(|| format!("send on {card} in {}", space.name()))
}

/// A raw socket on one card.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    card: String,
}

impl Tap {
    /// Opens a tap on a card of a namespace.
    pub fn open(space: &Netns, card: &str) -> Result<Self> {
        let opened = space.enter(|| -> io::Result<OwnedFd> {
            let socket = sys::packet_socket()?;
            let fd = socket.as_fd();
            sys::set_option(fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
            // The first question turns time stamps on; there is nothing to tell yet.
            let _ = sys::received_at(fd);
            let index = rustix::net::netdevice::name_to_index(fd, card)?;
            sys::bind_packet(fd, index)?;
            Ok(socket)
        })?;
        let socket = opened.attempt(|| format!("watch {card} in {}", space.name()))?;
        Ok(Self { socket, card: card.to_owned() })
    }

    /// Sends a frame that leaves nothing to offload.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.send_with(NetHeader::default(), bytes)
    }

    /// Sends a frame with what is left to offload.
    pub fn send_with(&self, header: NetHeader, bytes: &[u8]) -> Result<()> {
        let header = header.to_bytes();
        let whole = [header.get(..NetHeader::SHORT_LEN).unwrap_or_default(), bytes].concat();
        let what = || format!("send {} octets on {}", bytes.len(), self.card);
        loop {
            match rustix::net::send(&self.socket, &whole, rustix::net::SendFlags::empty()) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                sent => return sent.map(drop).attempt(what),
            }
        }
    }

    /// The next frame that passes, if one does within `limit`.
    pub fn receive(&self, limit: Duration) -> Result<Option<Frame>> {
        let end = Instant::now() + limit;
        let what = || format!("read from {}", self.card);
        let mut bytes = vec![0; LONGEST];
        loop {
            match sys::receive(self.socket.as_fd(), &mut bytes) {
                Ok((length, kind)) => {
                    let at = sys::received_at(self.socket.as_fd()).attempt(what)?;
                    bytes.truncate(length);
                    let frame = bytes.split_off(NetHeader::SHORT_LEN.min(bytes.len()));
                    let mut header = [0; NetHeader::LEN];
                    header.iter_mut().zip(&bytes).for_each(|(h, b)| *h = *b);
                    return Ok(Some(Frame {
                        at,
                        outgoing: kind == libc::PACKET_OUTGOING,
                        header: NetHeader::from_bytes(header),
                        bytes: frame,
                    }));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The card went down or up: it goes on.
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(e) => return Err(e).attempt(what),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut set = [PollFd::new(&self.socket, PollFlags::IN)];
            let left = Timespec::try_from(left).ok();
            match poll(&mut set, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).attempt(what),
            }
        }
    }

    /// Forgets what lies in the tap's buffer.
    pub fn drain(&self) -> Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        Ok(())
    }

    fn check_nothing_lost(&self) -> Result<()> {
        match sys::packet_drops(self.socket.as_fd()).attempt(|| format!("ask {}", self.card))? {
            0 => Ok(()),
            n => Err(LabError::Unexpected(format!("capture on {} lost {n} frames", self.card))),
        }
    }
}

/// Which frames a capture keeps.
type Filter = dyn Fn(&Frame) -> bool + Send;

/// A thread that collects the frames that pass a card.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    card: String,
}

impl Capture {
    /// Collects all frames.
    pub fn start(space: &Netns, card: &str) -> Result<Self> {
        Self::start_filtered(space, card, Box::new(|_| true))
    }

    /// Collects the frames that `filter` likes.
    pub fn start_filtered(space: &Netns, card: &str, filter: Box<Filter>) -> Result<Self> {
        let tap = Tap::open(space, card)?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (into, stop) = (Arc::clone(&frames), Arc::clone(&ended));
        let thread = std::thread::Builder::new()
            .name(format!("capture {card}"))
            .spawn(move || collect(&tap, &into, &stop, &filter))
            .attempt(|| "start a thread".to_owned())?;
        Ok(Self { frames, ended, thread: Some(thread), card: card.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was collected so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.lock().clone()
    }

    /// Waits for a frame that `wanted` likes, and gives the first. A capture that broke gives its
    /// reason when it is stopped.
    pub fn wait_for(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Frame) -> bool,
    ) -> Result<Frame> {
        wait_until(
            limit,
            || format!("{what}, among {} frames on {}", self.lock().len(), self.card),
            || {
                if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                    return Err(LabError::Unexpected(format!("capture on {} broke", self.card)));
                }
                Ok(self.lock().iter().find(|f| wanted(f)).cloned())
            },
        )
    }

    /// Ends the capture and gives what was collected, all frames that had passed by now included.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(std::mem::take(&mut *self.lock()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn collect(tap: &Tap, into: &Mutex<Vec<Frame>>, stop: &AtomicBool, filter: &Filter) -> Result<()> {
    loop {
        // Asked before the look: what had passed when it was set is still collected.
        let last = stop.load(Ordering::Relaxed);
        while let Some(frame) = tap.receive(Duration::from_millis(if last { 0 } else { 20 }))? {
            if filter(&frame) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
        }
        if last {
            return tap.check_nothing_lost();
        }
    }
}

/// Writes frames to a pcap file, for a person to look at.
pub fn save(frames: &[Frame], path: &Path) -> Result<()> {
    let what = || format!("write {}", path.display());
    let file = File::create(path).attempt(what)?;
    let broken = |e: pcap_file::PcapError| LabError::Unexpected(format!("{}: {e}", what()));
    let mut writer = PcapWriter::new(file).map_err(broken)?;
    for frame in frames {
        let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        writer.write_packet(&PcapPacket::new(frame.at, length, &frame.bytes)).map_err(broken)?;
    }
    Ok(())
}
