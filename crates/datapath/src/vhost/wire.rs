//! Messages on a connection's socket: look, take, reply, and never wait.
//!
//! # Theory of operation
//! ```text
//! look   peeks at the header in the socket's buffer: is the whole message there?
//! take   reads exactly that message, with its descriptors
//! reply  sends, or gives the connection up
//! ```
//! Half a message stays in the kernel's buffer, so it is not lost when the base dies, and a front
//! end that trickles octets occupies nobody. Epoll is edge-triggered: each octet that comes is a
//! reason to look again. The kernel ends a read after octets that carried descriptors, hence the
//! loop in `take`.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recv, recvmsg,
    send,
};
use vhost::vhost_user::message::{MAX_MSG_SIZE, VhostUserHeaderFlag};

use super::refusal::Farewell;
use super::strange;

/// Octets of a message's header.
pub(super) const HEADER_LEN: usize = 12;
/// Octets of the longest body taken.
pub(super) const MAX_BODY: usize = MAX_MSG_SIZE;
/// Descriptors of one message.
pub(super) const MAX_DESCRIPTORS: usize = crate::state::port::MAX_MEMORY_SLOTS;

/// Descriptors that the kernel lets pass beside one message.
const MAX_PASSED: usize = 253;

const VERSION: u32 = 1;

/// A request's header, checked: of version 1, no reply, and not too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The request's number.
    pub request: u32,
    /// The front end wants to be told whether the request was carried out.
    pub need_reply: bool,
    /// Octets of the body.
    pub size: usize,
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, Farewell> {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = bytes;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let size = u32::from_ne_bytes([s0, s1, s2, s3]);
        let of_version_1 = flags & VhostUserHeaderFlag::VERSION.bits() == VERSION;
        if !of_version_1 || flags & VhostUserHeaderFlag::REPLY.bits() != 0 {
            return Err(Farewell::Flags { flags });
        }
        let oversize = Farewell::Oversize { size, limit: MAX_BODY };
        let size = usize::try_from(size).ok().filter(|&n| n <= MAX_BODY).ok_or(oversize)?;
        Ok(Self {
            request: u32::from_ne_bytes([r0, r1, r2, r3]),
            need_reply: flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0,
            size,
        })
    }
}

/// A whole message.
#[derive(Debug)]
pub(super) struct Message {
    pub header: Header,
    pub body: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// The header of the message that lies whole in the socket's buffer, if one does.
pub(super) fn look(socket: BorrowedFd<'_>) -> Result<Option<Header>, Farewell> {
    let mut bytes = [0; HEADER_LEN];
    let peek = || recv(socket, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    let have = match retry_on_intr(peek) {
        Ok((0, _)) => return Err(Farewell::HungUp),
        Ok((n, _)) => n,
        Err(Errno::AGAIN) => return Ok(None),
        Err(Errno::CONNRESET) => return Err(Farewell::HungUp),
        Err(e) => return Err(Farewell::Socket(e)),
    };
    let waiting = ioctl_fionread(socket).map_err(Farewell::Socket)?;
    let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
    if have < HEADER_LEN {
        return if waiting < HEADER_LEN { Ok(None) } else { Err(Farewell::HeaderTorn) };
    }
    let header = Header::parse(bytes)?;
    Ok((waiting >= HEADER_LEN.saturating_add(header.size)).then_some(header))
}

/// Reads the message that [`look`] found.
pub(super) fn take(socket: BorrowedFd<'_>, header: Header) -> Result<Message, Farewell> {
    let mut bytes = vec![0; HEADER_LEN.saturating_add(header.size)];
    let mut descriptors = Vec::new();
    let mut have = 0;
    while let Some(rest) = bytes.get_mut(have..).filter(|r| !r.is_empty()) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(Farewell::Socket(e)),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    descriptors.push(strange::familiar(fd).map_err(Farewell::Socket)?);
                }
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
            return Err(Farewell::DescriptorsCut);
        }
        if got.bytes == 0 {
            return Err(Farewell::HungUp);
        }
        have = have.saturating_add(got.bytes);
    }
    let body = bytes.split_off(HEADER_LEN.min(bytes.len()));
    Ok(Message { header, body, descriptors })
}

/// Takes out what is left in a connection that was shut, and closes the descriptors beside it
/// where nobody waits.
pub(super) fn empty(socket: BorrowedFd<'_>) {
    let mut bytes = [0; 4096];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                // What cannot be replaced has been closed all the same.
                fds.for_each(|fd| drop(strange::familiar(fd)));
            }
        }
        match got {
            Ok(got) if got.bytes > 0 => {}
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Answers a request.
pub(super) fn reply(socket: BorrowedFd<'_>, request: u32, body: &[u8]) -> Result<(), Farewell> {
    let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
    let size = u32::try_from(body.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(HEADER_LEN.saturating_add(body.len()));
    for word in [request, flags, size] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(body);
    match send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) | Err(Errno::AGAIN) => Err(Farewell::Deaf),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(Farewell::HungUp),
        Err(e) => Err(Farewell::Socket(e)),
    }
}

/// Whether the other end has hung up.
pub(super) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().intersects(gone))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn message(request: u32, flags: u32, size: u32, body: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [request, flags, size] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(std::iter::repeat_n(7u8, body));
        bytes
    }

    #[test]
    fn a_message_is_seen_only_when_its_last_octet_is_there() {
        let (front, back) = pair();
        let bytes = message(2, 1 | 8, 8, 8);
        for octet in &bytes {
            assert!(look(back.as_fd()).unwrap().is_none());
            rustix::io::write(&front, std::slice::from_ref(octet)).unwrap();
        }
        let header = look(back.as_fd()).unwrap().unwrap();
        assert_eq!(header, Header { request: 2, need_reply: true, size: 8 });
        let taken = take(back.as_fd(), header).unwrap();
        assert_eq!((taken.body.len(), taken.descriptors.len()), (8, 0));
        assert!(look(back.as_fd()).unwrap().is_none());
        drop(front);
        assert!(matches!(look(back.as_fd()), Err(Farewell::HungUp)));
    }

    #[test]
    fn headers_that_are_no_request_are_told_apart() {
        let (front, back) = pair();
        rustix::io::write(&front, &message(2, 1 | 4, 0, 0)).unwrap();
        assert!(matches!(look(back.as_fd()), Err(Farewell::Flags { flags: 5 })));
        let (front, back) = pair();
        rustix::io::write(&front, &message(2, 2, 0, 0)).unwrap();
        assert!(matches!(look(back.as_fd()), Err(Farewell::Flags { flags: 2 })));
        let (front, back) = pair();
        rustix::io::write(&front, &message(2, 1, u32::MAX, 0)).unwrap();
        assert!(matches!(look(back.as_fd()), Err(Farewell::Oversize { size: u32::MAX, .. })));
    }

    #[test]
    fn a_deaf_front_end_is_given_up() {
        let (_front, back) = pair();
        let err = (0..1_000_000).find_map(|_| reply(back.as_fd(), 1, &[0; 8]).err());
        assert!(matches!(err, Some(Farewell::Deaf)));
    }

    #[test]
    fn hanging_up_is_noticed_without_reading() {
        let (front, back) = pair();
        assert!(!hung_up(back.as_fd()));
        rustix::io::write(&front, b"x").unwrap();
        drop(front);
        assert!(hung_up(back.as_fd()));
    }
}
