//! What the holder says to a running base, and whether it is still there.

use std::io;
use std::os::fd::OwnedFd;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::holder::channel::{self, Wait};
use crate::holder::protocol::{Ended, ToBase};
use crate::readable::Readable;

/// Something for the base's main loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderEvent {
    /// End in order: stop the VMs, remove routes and filters, exit with status 0.
    Stop {
        /// Kill the VMs at once instead of asking them.
        now: bool,
    },
    /// A process that a predecessor had started ended. See
    /// [`super::HolderKeeper::settled`].
    Reaped {
        /// Which.
        pid: u32,
        /// How.
        ended: Ended,
    },
    /// The descriptor under this key could not be kept: a successor will not have it.
    NotKept(String),
    /// The next base is prepared: come to rest, say so, end.
    Yield,
    /// The next base does not take over, for this reason.
    NotSwitched(String),
    /// The holder is gone: nobody starts a successor, nobody keeps descriptors. The base carries on,
    /// and finds itself another.
    Gone,
    /// Another holder, this process, has the lock: it is to be given everything.
    Heir(u32),
    /// Whoever has the lock now wants this base, which is not his, to end and leave the VMs alone.
    Leave,
}

/// The listening half of the holder's socket. Lives on the base's main thread.
#[derive(Debug)]
pub struct HolderLink {
    socket: Readable,
    terminate: Signal,
    /// The socket ended.
    gone: bool,
    /// SIGTERM came and has not been followed yet.
    told_to_end: bool,
}

impl HolderLink {
    /// Listens on `socket`, a duplicate of the keeper's. Needs a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Readable::new(socket)?;
        Ok(Self {
            socket,
            terminate: signal(SignalKind::terminate())?,
            gone: false,
            told_to_end: false,
        })
    }

    /// Listens to another holder.
    pub fn move_to(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.socket = Readable::new(socket)?;
        self.gone = false;
        Ok(())
    }

    /// The next event. Cancel safe.
    ///
    /// SIGTERM to the base means nothing while the holder lives: a service manager sends it to all
    /// processes, and the holder will say what to do. Without one it is the word of the holder of
    /// another instance with the same state directory.
    pub async fn next(&mut self) -> HolderEvent {
        loop {
            if self.gone {
                if !self.told_to_end {
                    self.terminate.recv().await;
                }
                self.told_to_end = false;
                return HolderEvent::Leave;
            }
            let received = tokio::select! {
                received = self.socket.read(|s| channel::receive(s, Wait::No)) => received,
                _ = self.terminate.recv() => {
                    self.told_to_end = true;
                    continue;
                }
            };
            let message = match received {
                Ok(Some(received)) => ToBase::decode(&received.bytes),
                Ok(None) => {
                    self.gone = true;
                    return HolderEvent::Gone;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot receive from the holder");
                    self.gone = true;
                    return HolderEvent::Gone;
                }
            };
            match message {
                Ok(ToBase::Stop) => return HolderEvent::Stop { now: false },
                Ok(ToBase::StopNow) => return HolderEvent::Stop { now: true },
                Ok(ToBase::Reaped { pid, ended }) => return HolderEvent::Reaped { pid, ended },
                Ok(ToBase::NotKept(key)) => return HolderEvent::NotKept(key),
                Ok(ToBase::Yield) => return HolderEvent::Yield,
                Ok(ToBase::NotSwitched(why)) => return HolderEvent::NotSwitched(why),
                Ok(ToBase::Heir(pid)) => return HolderEvent::Heir(pid),
                Ok(other) => tracing::warn!("the holder sent {other:?} out of order"),
                Err(error) => tracing::warn!(%error, "the holder sent what nobody understands"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[tokio::test(flavor = "current_thread")]
    async fn the_link_tells_what_the_holder_says_and_that_it_is_gone() {
        let (holder, base) = channel::pair().unwrap();
        let mut link = HolderLink::new(base).unwrap();
        let said = [ToBase::Reaped { pid: 7, ended: Ended::Exited(3) }, ToBase::StopNow];
        for message in said {
            channel::send(holder.as_fd(), &message.encode().unwrap(), &[], Wait::No).unwrap();
        }
        let reaped = HolderEvent::Reaped { pid: 7, ended: Ended::Exited(3) };
        assert_eq!(link.next().await, reaped);
        assert_eq!(link.next().await, HolderEvent::Stop { now: true });
        drop(holder);
        assert_eq!(link.next().await, HolderEvent::Gone);
        let (heir, base) = channel::pair().unwrap();
        link.move_to(base).unwrap();
        channel::send(heir.as_fd(), &ToBase::Heir(9).encode().unwrap(), &[], Wait::No).unwrap();
        assert_eq!(link.next().await, HolderEvent::Heir(9));
    }
}
