//! A descriptor that the runtime watches for something to read. The one place that touches
//! tokio's registration, because that is unsafe for types that may change what they refer to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owned descriptor, registered with the runtime of this thread. Sockets, pidfds, eventfds.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers `fd`. Needs a tokio runtime. The descriptor's flags stay as they are.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and nothing here or outside can replace or close it
        // before the registration ends: `self.0` is private and only ever lent out shared.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?))
    }

    /// Waits until there may be something to read and runs `read`, again as long as it says
    /// `WouldBlock`. `read` must not wait itself. Cancel safe if `read` is.
    pub async fn read<R>(
        &self,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        self.0.async_io(Interest::READABLE, |fd| read(fd.as_fd())).await
    }

    /// Waits until there is something to read: for descriptors such as pidfds, which nobody reads.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
