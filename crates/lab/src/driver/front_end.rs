//! The front end's side of vhost-user, message by message.
//!
//! # Theory of operation
//! A message is a header (request, flags, length of the payload), a payload and up to eight
//! descriptors. A request that has an answer gets it as a message with the same number; once
//! REPLY_ACK is negotiated, one that has none is acknowledged by a number, zero for success, if its
//! header asks so. Every call here asks and waits, so that a refusal is seen where it was caused.
//! [`FrontEnd::send_raw`] sends anything at all.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::command::wait_until;
use crate::error::{Attempt, LabError, Result};

/// Numbers of requests.
pub mod request {
    #![allow(missing_docs)]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// Protocol feature: several queue pairs.
pub const MQ: u64 = 1 << 0;
/// Protocol feature: requests are acknowledged.
pub const REPLY_ACK: u64 = 1 << 3;
/// Protocol feature: memory regions come and go one by one.
pub const MEM_SLOTS: u64 = 1 << 15;

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
/// Bit beside a ring's number: no descriptor comes with it.
const NO_DESCRIPTOR: u64 = 1 << 8;
/// No answer that is waited for is longer.
const LONGEST_ANSWER: usize = 4096;
/// How long a back end may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// One memory region, as it is announced.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Where the guest sees it.
    pub guest: u64,
    /// Octets.
    pub len: u64,
    /// Where the front end sees it.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

impl Region {
    fn to_bytes(self) -> Vec<u8> {
        [self.guest, self.len, self.user, self.offset].map(u64::to_le_bytes).concat()
    }
}

/// The front end's end of a connection.
#[derive(Debug)]
pub struct FrontEnd {
    stream: UnixStream,
    acknowledged: bool,
}

impl FrontEnd {
    /// Connects to the back end's socket, which must come to exist within `limit`.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let stream = wait_until(
            limit,
            || format!("a vhost-user back end at {}", socket.display()),
            || Ok(UnixStream::connect(socket).ok()),
        )?;
        Self::over(stream)
    }

    /// Talks over a connection that exists already.
    pub fn over(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LIMIT)).attempt(|| "set a socket's time limit".to_owned())?;
        Ok(Self { stream, acknowledged: false })
    }

    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends any octets with any descriptors.
    pub fn send_raw(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(LabError::Unexpected("too many descriptors in a message".to_owned()));
        }
        let part = [IoSlice::new(bytes)];
        sendmsg(&self.stream, &part, &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .attempt(|| "send a vhost-user message".to_owned())
    }

    /// Sends a request as it is, without waiting.
    pub fn send(
        &self,
        number: u32,
        flags: u32,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = [number, VERSION | flags, length].map(u32::to_le_bytes).concat();
        self.send_raw(&[header.as_slice(), payload].concat(), descriptors)
    }

    /// Waits for the answer to `number` and gives its payload.
    pub fn answer(&mut self, number: u32) -> Result<Vec<u8>> {
        let what = || format!("the answer to vhost-user request {number}");
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).attempt(what)?;
        let word = |at: usize| {
            let octets = header.get(at..).and_then(|h| h.first_chunk::<4>());
            octets.map_or(0, |o| u32::from_le_bytes(*o))
        };
        let (answered, flags, length) = (word(0), word(4), word(8) as usize);
        if answered != number || flags & REPLY == 0 || length > LONGEST_ANSWER {
            return Err(LabError::Unexpected(format!("{}: header {header:02x?}", what())));
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).attempt(what)?;
        Ok(payload)
    }

    /// A request that is answered by a number.
    pub fn ask(&mut self, number: u32, payload: &[u8]) -> Result<u64> {
        self.send(number, 0, payload, &[])?;
        let answer = self.answer(number)?;
        // A ring's state is its number, then the index.
        let octets = answer.first_chunk::<8>().ok_or_else(|| {
            LabError::Unexpected(format!("request {number} answered by {answer:02x?}"))
        })?;
        Ok(u64::from_le_bytes(*octets))
    }

    /// A request that has no answer but an acknowledgement, if that was negotiated.
    pub fn tell(
        &mut self,
        number: u32,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let flags = if self.acknowledged { NEED_REPLY } else { 0 };
        self.send(number, flags, payload, descriptors)?;
        if self.acknowledged {
            let answer = self.answer(number)?;
            if answer != [0; 8] {
                return Err(LabError::Unexpected(format!("request {number} refused: {answer:?}")));
            }
        }
        Ok(())
    }

    /// The virtio features that the back end offers.
    pub fn features(&mut self) -> Result<u64> {
        self.ask(request::GET_FEATURES, &[])
    }

    /// Acknowledges virtio features.
    pub fn set_features(&mut self, features: u64) -> Result<()> {
        self.tell(request::SET_FEATURES, &features.to_le_bytes(), &[])
    }

    /// Negotiates protocol features: what is offered and wanted.
    pub fn negotiate_protocol(&mut self, wanted: u64) -> Result<u64> {
        let features = self.ask(request::GET_PROTOCOL_FEATURES, &[])? & wanted;
        self.tell(request::SET_PROTOCOL_FEATURES, &features.to_le_bytes(), &[])?;
        self.acknowledged = features & REPLY_ACK != 0;
        Ok(features)
    }

    /// Takes the back end.
    pub fn set_owner(&mut self) -> Result<()> {
        self.tell(request::SET_OWNER, &[], &[])
    }

    /// Shares memory.
    pub fn set_memory(&mut self, regions: &[(Region, BorrowedFd<'_>)]) -> Result<()> {
        let mut payload = (regions.len() as u64).to_le_bytes().to_vec();
        payload.extend(regions.iter().flat_map(|(r, _)| r.to_bytes()));
        let files: Vec<_> = regions.iter().map(|(_, file)| *file).collect();
        self.tell(request::SET_MEM_TABLE, &payload, &files)
    }

    /// Shares one more region (memory slots).
    pub fn add_memory(&mut self, region: Region, file: BorrowedFd<'_>) -> Result<()> {
        let payload = [0u64.to_le_bytes().to_vec(), region.to_bytes()].concat();
        self.tell(request::ADD_MEM_REG, &payload, &[file])
    }

    fn ring(&mut self, number: u32, ring: u32, value: u32) -> Result<()> {
        self.tell(number, &[ring, value].map(u32::to_le_bytes).concat(), &[])
    }

    /// Entries of a ring.
    pub fn set_ring_size(&mut self, ring: u32, size: u16) -> Result<()> {
        self.ring(request::SET_VRING_NUM, ring, size.into())
    }

    /// The index at which a ring goes on.
    pub fn set_ring_base(&mut self, ring: u32, index: u16) -> Result<()> {
        self.ring(request::SET_VRING_BASE, ring, index.into())
    }

    /// Turns a ring on or off.
    pub fn enable_ring(&mut self, ring: u32, on: bool) -> Result<()> {
        self.ring(request::SET_VRING_ENABLE, ring, on.into())
    }

    /// Stops a ring and gives the index it stopped at.
    pub fn stop_ring(&mut self, ring: u32) -> Result<u16> {
        let payload = [ring, 0].map(u32::to_le_bytes).concat();
        Ok((self.ask(request::GET_VRING_BASE, &payload)? >> 32) as u16)
    }

    /// Where a ring lies, in the front end's addresses.
    pub fn set_ring_addresses(
        &mut self,
        ring: u32,
        desc: u64,
        used: u64,
        avail: u64,
    ) -> Result<()> {
        let mut payload = [ring, 0].map(u32::to_le_bytes).concat();
        payload.extend([desc, used, avail, 0].map(u64::to_le_bytes).concat());
        self.tell(request::SET_VRING_ADDR, &payload, &[])
    }

    fn ring_descriptor(
        &mut self,
        number: u32,
        ring: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let value = u64::from(ring) | if fd.is_none() { NO_DESCRIPTOR } else { 0 };
        self.tell(number, &value.to_le_bytes(), fd.as_slice())
    }

    /// By what the driver notifies the device; `None`: the device is to poll. Starts the ring.
    pub fn set_ring_kick(&mut self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.ring_descriptor(request::SET_VRING_KICK, ring, fd)
    }

    /// By what the device notifies the driver.
    pub fn set_ring_call(&mut self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.ring_descriptor(request::SET_VRING_CALL, ring, fd)
    }

    /// By what the device tells that the ring is broken.
    pub fn set_ring_error(&mut self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.ring_descriptor(request::SET_VRING_ERR, ring, fd)
    }

    /// Whether the back end has closed the connection.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let peek = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let mut control = rustix::net::RecvAncillaryBuffer::default();
        match rustix::net::recvmsg(self.stream.as_fd(), &mut parts, &mut control, peek) {
            Ok(message) => message.bytes == 0,
            Err(e) => e != rustix::io::Errno::AGAIN,
        }
    }
}
