//! A port's door: the socket at which its front end is met.
//!
//! # Theory of operation
//! *Listening*, the base makes a socket file that only its user and group may open (0660). A file
//! left behind by a socket that nobody listens at any more is replaced; anything else at that path
//! is left alone and reported. *Connecting*, the base tries until somebody listens.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, chmod, fchmod, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, shutdown, socket_with,
};

use crate::names::PortId;

/// Front ends that may wait to be accepted.
const BACKLOG: i32 = 8;
/// Who may open the socket: the base's user and group.
const MODE: Mode = Mode::from_bits_retain(0o660);

/// Where a port's front end is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The base listens at this path.
    Listen(PathBuf),
    /// The front end listens at this path: the base connects, and tries for ever.
    Connect(PathBuf),
}

/// A port as its door is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDoor {
    /// The port's record in the state memory. The worker must know the port before its door opens.
    pub id: PortId,
    /// Its name: part of the keeper's keys. At most [`crate::state::port::MAX_NAME`] octets, no
    /// slash.
    pub name: String,
    /// Where its front end is met.
    pub socket: Socket,
    /// The virtio features it may be offered, of [`super::features::OFFERED`]. `u64::MAX` for all.
    pub features_mask: u64,
    /// Queue pairs that its front end may have: at least one, at most [`crate::names::MAX_PAIRS`].
    pub pairs: usize,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The name is empty, too long or has a slash in it.
    #[error(
        "port name {name:?}: need 1 to {} octets without a slash",
        crate::state::port::MAX_NAME
    )]
    Name {
        /// The name.
        name: String,
    },
    /// There is a port of that name or number already.
    #[error("port {name} (number {}) is there already", .id.0)]
    Taken {
        /// The number.
        id: PortId,
        /// The name.
        name: String,
    },
    /// The dispatcher's thread has ended.
    #[error("the vhost-user dispatcher has ended")]
    Gone,
    /// The path does not fit a socket's address.
    #[error("{}: too long for a socket, at most 107 octets", .path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The directory to put the socket into does not exist.
    #[error("{}: no such directory", .directory.display())]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// Something that is no socket is at the path.
    #[error("{}: is there already and is not a socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Somebody listens there.
    #[error("{}: somebody listens there already", .path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{}: cannot {action}", .path.display())]
    Kernel {
        /// What was to be done.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A socket that is listened at.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    /// Device and inode of the socket file, so that nobody else's is removed.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, DoorError> {
        let failed = |action| {
            move |e: Errno| DoorError::Kernel { action, path: path.to_owned(), source: e.into() }
        };
        let address = address(path)?;
        make_room(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("make a socket"))?;
        // The mode of a socket decides, with the umask, the mode of the file that bind makes: it
        // is never open to more than it should be. The second call gives back what the umask took.
        fchmod(&fd, MODE).map_err(failed("set the mode of the socket"))?;
        bind(&fd, &address).map_err(|e| match e {
            Errno::ADDRINUSE => DoorError::InUse { path: path.to_owned() },
            e => failed("make the socket file")(e),
        })?;
        chmod(path, MODE).map_err(failed("set the mode of the socket"))?;
        listen(&fd, BACKLOG).map_err(failed("listen"))?;
        Ok(Self { fd, path: path.to_owned(), file: identity(path) })
    }

    /// Takes over a socket that a predecessor listened at. Gives it back if it is not the one at
    /// `path`.
    pub(super) fn adopt(fd: OwnedFd, path: &Path) -> Result<Self, OwnedFd> {
        match (bound(&fd), identity(path)) {
            (Some(at), Some(file)) if at == path => {
                Ok(Self { fd, path: path.to_owned(), file: Some(file) })
            }
            _ => Err(fd),
        }
    }

    /// Ends a socket that a predecessor listened at, for everybody who holds it, and removes its
    /// file, unless somebody else listens there now.
    pub(super) fn discard(fd: &OwnedFd) {
        // Whatever hinders this, a stale file is replaced the next time.
        let _ = shutdown(fd, Shutdown::Both);
        if let Some(path) = bound(fd)
            && identity(&path).is_some()
            && matches!(connect_to(&path), Err(Errno::CONNREFUSED))
        {
            let _ = unlink(&path);
        }
    }

    /// The next front end that waits, if one does.
    pub(super) fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            match accept_with(self.fd.as_fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(socket)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Stops listening for good, and removes the socket file.
    pub(super) fn close(self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            // Whatever hinders it, a stale file is replaced the next time.
            let _ = unlink(&self.path);
        }
    }
}

/// Connects to a front end that listens at `path`.
pub(super) fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &address)?;
    Ok(fd)
}

/// The address of a path, if it fits.
pub(super) fn address(path: &Path) -> Result<SocketAddrUnix, DoorError> {
    SocketAddrUnix::new(path).map_err(|_| DoorError::PathTooLong { path: path.to_owned() })
}

/// Sees that a socket file can be made at `path`: removes one that nobody listens at.
fn make_room(path: &Path) -> Result<(), DoorError> {
    let stat = match lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => {
            let directory = path.parent().filter(|d| !d.as_os_str().is_empty());
            return match directory {
                Some(directory) if !directory.is_dir() => {
                    Err(DoorError::NoDirectory { directory: directory.to_owned() })
                }
                _ => Ok(()),
            };
        }
        Err(Errno::NOTDIR) => {
            let directory = path.parent().unwrap_or(path).to_owned();
            return Err(DoorError::NoDirectory { directory });
        }
        Err(e) => {
            let (path, source) = (path.to_owned(), e.into());
            return Err(DoorError::Kernel { action: "look at what is there", path, source });
        }
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(DoorError::NotASocket { path: path.to_owned() });
    }
    if !matches!(connect_to(path), Err(Errno::CONNREFUSED | Errno::NOENT)) {
        return Err(DoorError::InUse { path: path.to_owned() });
    }
    match unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => {
            let (path, source) = (path.to_owned(), e.into());
            Err(DoorError::Kernel { action: "replace the stale socket", path, source })
        }
    }
}

/// The path at which a socket was bound.
fn bound(fd: &OwnedFd) -> Option<PathBuf> {
    let address = SocketAddrUnix::try_from(getsockname(fd).ok()?).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(address.path_bytes()?)))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = lstat(path).ok()?;
    let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    socket.then_some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port.sock");
        drop(Listener::open(&path).unwrap());
        assert!(path.exists());
        let live = Listener::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listener::open(&path), Err(DoorError::InUse { .. })));
        live.close();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::open(&path), Err(DoorError::NotASocket { .. })));
        assert!(matches!(Listener::open(&path.join("below")), Err(DoorError::NoDirectory { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let missing = dir.path().join("no/port.sock");
        assert!(matches!(Listener::open(&missing), Err(DoorError::NoDirectory { .. })));
        let long = dir.path().join("x".repeat(108));
        assert!(matches!(Listener::open(&long), Err(DoorError::PathTooLong { .. })));
    }

    #[test]
    fn another_listeners_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port.sock");
        let first = Listener::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Listener::open(&path).unwrap();
        first.close();
        assert!(path.exists());
        second.close();
    }

    #[test]
    fn a_listener_is_adopted_at_its_own_path_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port.sock");
        let fd = Listener::open(&path).unwrap().fd;
        let other = dir.path().join("other.sock");
        assert!(Listener::adopt(fd.try_clone().unwrap(), &other).is_err());
        assert!(Listener::adopt(fd.try_clone().unwrap(), &path).is_ok());
        std::fs::remove_file(&path).unwrap();
        assert!(Listener::adopt(fd, &path).is_err());
    }
}
