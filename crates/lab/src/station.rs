//! A machine on the LAN that is no kernel's: it sends and takes datagrams at great rate, and answers
//! whoever asks for any address there.
//!
//! # Theory of operation
//! One packet socket on the LAN's end of the cable, without what the card sends itself. The station
//! has a MAC address of its own, so that the kernel behind that card throws its frames away at once,
//! and it stands for every address but the host's and the VMs' ([`neighbor::answer`]): a VM that
//! turns to an address nobody has spoken from makes the base look for a neighbour, and finds one.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::error::{Attempt, LabError, Result};
use crate::exchange::End;
use crate::frames::{self, Mac};
use crate::scene::{LAN_CARD, Scene};
use crate::{neighbor, netns, sys};

/// Its MAC address. The last octet also decides who gives way in a full set of the base's record of
/// neighbours: the last to come, not the first, to whom most is sent.
const OWN: Mac = [2, 0, 0, 0, 1, 3];
/// What the kernel may keep for it before it drops.
const BUFFER: i32 = 64 << 20;
/// Octets of the longest frame.
const LONGEST: usize = 2048;
/// Do not show what this card sends.
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// The machine. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Station {
    socket: Arc<OwnedFd>,
    card: Mac,
    buffer: Vec<u8>,
}

impl Station {
    /// Takes the place of the kernel at the LAN's end of the cable.
    pub fn replace(scene: &Scene) -> Result<Self> {
        neighbor::silence_kernel(scene)?;
        let opened = scene.outside.enter(|| -> std::io::Result<OwnedFd> {
            let socket = sys::packet_socket()?;
            let fd = socket.as_fd();
            sys::set_option(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
            let index = rustix::net::netdevice::name_to_index(fd, LAN_CARD)?;
            sys::bind_packet(fd, index)?;
            Ok(socket)
        })?;
        let socket = opened.attempt(|| format!("open a packet socket on {LAN_CARD}"))?;
        let card = netns::mac(&scene.host, crate::scene::CARD)?;
        Ok(Self { socket: Arc::new(socket), card, buffer: vec![0; LONGEST] })
    }

    /// Frames that the kernel could not keep for it since the last call.
    pub fn drops(&self) -> Result<u32> {
        sys::packet_drops(self.socket.as_fd()).attempt(|| "ask a packet socket".to_owned())
    }

    /// Sends a frame, unless the card is busy.
    fn try_send(&self, frame: &[u8]) -> Result<bool> {
        match send(&*self.socket, frame, SendFlags::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
            Err(e) => Err(e).attempt(|| format!("send on {LAN_CARD}")),
        }
    }
}

impl End for Station {
    fn put(&mut self, datagram: &[u8]) -> Result<()> {
        let frame = frames::carry(self.card, OWN, datagram);
        for _ in 0..1000 {
            if self.try_send(&frame)? {
                return Ok(());
            }
            std::thread::yield_now();
        }
        Err(LabError::Unexpected(format!("{LAN_CARD} takes no frames")))
    }

    fn get(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let length = match sys::receive(self.socket.as_fd(), &mut self.buffer) {
                Ok((length, _)) => length.min(LONGEST),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e).attempt(|| format!("receive on {LAN_CARD}")),
            };
            let frame = &self.buffer[..length];
            let Some(answer) = neighbor::answer(OWN, frame) else {
                return Ok(Some(frames::datagram_of(frame).to_vec()));
            };
            // A question that gets no answer now is asked again.
            self.try_send(&answer)?;
        }
    }
}
