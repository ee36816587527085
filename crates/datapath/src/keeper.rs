//! Who keeps descriptors open when the base dies.
//!
//! The datapath registers every descriptor that a successor needs: front ends' connections, their
//! memory, kicks and calls, the card's socket, the TUN device. The base implements this by telling
//! the holder, its parent process; tests implement it with a map.

use std::io;
use std::os::fd::BorrowedFd;

/// Keeps descriptors under names. Implementations are shared between threads.
///
/// Keys are paths: `state`, `port/<name>/connection`, `port/<name>/listener`,
/// `port/<name>/memory/<slot>`, `port/<name>/<rx|tx>/<kick|call|err>`, `network/<name>/uplink`,
/// `network/<name>/host`, `vm/<name>/pidfd` and so on: at most [`MAX_KEY`] octets.
pub trait Keeper: Send + Sync {
    /// Keeps a duplicate of `fd` under `key`, in place of whatever was kept there.
    fn keep(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Lets go of what is kept under `key`, if anything.
    fn forget(&self, key: &str) -> io::Result<()>;

    /// Lets go of everything whose key starts with `prefix`.
    fn forget_all(&self, prefix: &str) -> io::Result<()>;
}

/// Octets of the longest key.
pub const MAX_KEY: usize = 120;
