//! Who works on the rings: the contract between the dispatcher and the worker.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtqueue::{GuestMemory, QueueLayout};

use crate::names::{PortId, RingId};

/// A ring that is ready to be worked on. What the layout says has not been checked against the
/// memory yet; `TxQueue::resume` and `RxQueue::resume` do, and find where to go on.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The front end's memory.
    pub memory: Arc<GuestMemory>,
    /// Where the ring lies in it.
    pub layout: QueueLayout,
    /// The virtio features acknowledged.
    pub features: u64,
    /// An eventfd, not blocking, that the driver writes when it has put something into the ring.
    /// Without one the ring has to be polled. Others hold duplicates, so an epoll instance forgets
    /// it only when told.
    pub kick: Option<Arc<OwnedFd>>,
    /// An eventfd, not blocking, that interrupts the driver. Without one, the driver polls.
    pub call: Option<Arc<OwnedFd>>,
    /// An eventfd, not blocking, that tells the front end that the ring is broken.
    pub err: Option<Arc<OwnedFd>>,
}

/// Takes rings and gives them back: the worker's side.
///
/// The dispatcher's thread makes these calls, and waits in them: an implementation must answer
/// within one batch or so, and must never wait for the dispatcher in turn. For one ring the calls
/// alternate: `start`, then any number of `set_call`, then `stop`.
pub trait RingOwner: Send {
    /// Takes the ring and returns. The owner then polls it once, writes its event index anew, and
    /// fires `call` once: whatever was missed before is made up for. A ring that turns out broken
    /// is the owner's to report; it still gets its `stop`.
    fn start(&self, port: PortId, id: RingId, ring: Ring);

    /// Gives the ring back. On return nothing of it is under way, what was taken is marked used,
    /// and neither ring nor memory nor descriptors are held any more. The answer is where the ring
    /// stands, as GET_VRING_BASE tells it (the index of the next entry; of a packed ring, two places),
    /// or `None` if there is no such ring or it was broken from the start.
    fn stop(&self, port: PortId, id: RingId) -> Option<u32>;

    /// Interrupts the driver by this descriptor from now on, and does so once. Whether all workers had
    /// to rest for it, as they have for `start` and `stop`.
    fn set_call(&self, port: PortId, id: RingId, call: Option<Arc<OwnedFd>>) -> bool;
}
