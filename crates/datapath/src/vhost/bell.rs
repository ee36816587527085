//! The descriptors by which the two sides of a ring wake each other.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::refusal::Refusal;
use super::strange;

/// A ring's descriptors, and who has the ring.
#[derive(Clone, Debug, Default)]
pub(super) struct Bells {
    /// The worker has the ring.
    pub running: bool,
    pub kick: Option<Arc<OwnedFd>>,
    pub call: Option<Arc<OwnedFd>>,
    pub err: Option<Arc<OwnedFd>>,
}

/// Takes a descriptor as a bell: it has to be an eventfd, because a write to a pipe or a socket
/// can wait for ever, and it is made not to block, because a write to a full eventfd can, too.
pub(super) fn check(fd: OwnedFd) -> Result<Arc<OwnedFd>, Refusal> {
    if !strange::is_eventfd(fd.as_fd()).map_err(Refusal::Descriptor)? {
        return Err(Refusal::NotEventFd);
    }
    kept(fd)
}

/// Takes a bell that the keeper had. What it is was found out before the keeper was given it, and
/// does not change; whether it blocks is as its other holders like it.
pub(super) fn kept(fd: OwnedFd) -> Result<Arc<OwnedFd>, Refusal> {
    let flags = fcntl_getfl(&fd).map_err(Refusal::Descriptor)?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(Refusal::Descriptor)?;
    }
    Ok(Arc::new(fd))
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn an_eventfd_is_taken_and_made_not_to_block() {
        let bell = check(eventfd(0, EventfdFlags::CLOEXEC).unwrap()).unwrap();
        assert!(fcntl_getfl(&*bell).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_pipe_is_no_bell() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        for end in [read, write] {
            assert!(matches!(check(end), Err(Refusal::NotEventFd)));
        }
    }
}
