//! The socket between holder and base: whole messages with descriptors beside them.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::protocol::{MAX_DESCRIPTORS, MAX_MESSAGE};

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Two connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// Whether a call waits until it can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It does.
    Yes,
    /// It fails with `WouldBlock` instead.
    No,
}

/// Sends one message.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::DONTWAIT, wait == Wait::No);
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// One message as it arrived.
#[derive(Debug)]
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came beside it.
    pub descriptors: Vec<OwnedFd>,
}

/// Receives one message; `None` when the other end is closed and nothing is left.
pub fn receive(socket: impl AsFd, wait: Wait) -> io::Result<Option<Received>> {
    let mut bytes = vec![0u8; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, wait == Wait::No);
    let result = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket.as_fd(), &mut slices, &mut beside, flags) {
            Ok(result) => break result,
            // A peer that died with messages unread leaves ECONNRESET behind, once: what it had
            // sent itself is still in the queue.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if result.bytes == 0 {
        return Ok(None);
    }
    if result.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(ErrorKind::InvalidData, "a message longer than any we know"));
    }
    bytes.truncate(result.bytes);
    Ok(Some(Received { bytes, descriptors }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_a_dead_peer_had_sent_is_read_although_it_left_messages_unread() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"never read", &[], Wait::No).unwrap();
        send(theirs.as_fd(), b"last words", &[theirs.as_fd()], Wait::No).unwrap();
        drop(theirs);
        let received = receive(&ours, Wait::No).unwrap().unwrap();
        assert_eq!(received.bytes, b"last words");
        assert_eq!(received.descriptors.len(), 1);
        drop(received);
        assert!(receive(&ours, Wait::No).unwrap().is_none());
    }

    #[test]
    fn a_full_message_of_descriptors_arrives_whole() {
        let (ours, theirs) = pair().unwrap();
        let bytes = vec![7; MAX_MESSAGE];
        send(ours.as_fd(), &bytes, &[ours.as_fd(); MAX_DESCRIPTORS], Wait::No).unwrap();
        let received = receive(&theirs, Wait::No).unwrap().unwrap();
        assert_eq!(received.bytes, bytes);
        assert_eq!(received.descriptors.len(), MAX_DESCRIPTORS);
    }

    #[test]
    fn an_empty_socket_is_not_a_closed_one() {
        let (ours, _theirs) = pair().unwrap();
        let error = receive(&ours, Wait::No).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
