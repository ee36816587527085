//! Descriptors that no request has a use for: told apart without touching what they refer to, and
//! closed where nobody waits.
//!
//! # Why it exists
//! A front end can pass any descriptor. To look at a file of a file system that it serves itself
//! (FUSE), or to close the last descriptor of such a file or of a socket that lingers, takes as
//! long as the front end likes. The thread that meets all front ends must do neither.
//!
//! # Theory of operation
//! Two questions can be asked of any descriptor without waiting: what the kernel itself calls it (an
//! eventfd is no file of any file system), and whether it can be sealed (only memory of memfd, tmpfs
//! and hugetlbfs can). What is neither goes to a thread that does nothing but close, and a
//! descriptor of `/dev/null`, which no request takes either, stands in its place: the request is
//! refused as any other of the wrong kind.
//!
//! # Limits
//! While a close hangs, the strange descriptors after it wait in the queue, each taking its place
//! among the process's open files.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};

use rustix::fs::{fcntl_get_seals, readlink};
use rustix::io::Errno;

/// What the kernel says an eventfd is a link to. A file's name would begin with a slash.
const EVENTFD: &[u8] = b"anon_inode:[eventfd]";

/// Where strange descriptors are closed; `None` if the thread could not be started.
static CLOSER: LazyLock<Option<Sender<OwnedFd>>> = LazyLock::new(|| {
    let (sender, strange) = channel::<OwnedFd>();
    let close = move || strange.into_iter().for_each(drop);
    std::thread::Builder::new().name("closer".into()).spawn(close).ok()?;
    Some(sender)
});

/// Whether this is an eventfd. Never waits.
pub(super) fn is_eventfd(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let link = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(link.as_bytes() == EVENTFD)
}

/// The descriptor, if a request may have a use for it; else one of `/dev/null`. Never waits.
pub(super) fn familiar(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fcntl_get_seals(&fd).is_ok() || is_eventfd(fd.as_fd())? {
        return Ok(fd);
    }
    match &*CLOSER {
        Some(closer) => {
            // The thread ends with the process only.
            let _ = closer.send(fd);
        }
        // Better one descriptor too many than a base that waits.
        None => std::mem::forget(fd),
    }
    File::open("/dev/null")
        .map(OwnedFd::from)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, fstat, memfd_create};
    use rustix::net::sockopt::set_socket_linger;

    use super::*;

    fn same(a: &OwnedFd, inode: u64) -> bool {
        fstat(a).unwrap().st_ino == inode
    }

    #[test]
    fn what_requests_have_passes_and_anything_else_becomes_the_null_device() {
        let null = fstat(File::open("/dev/null").unwrap()).unwrap().st_ino;
        for fd in [
            eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            memfd_create("memory", MemfdFlags::CLOEXEC).unwrap(),
        ] {
            let inode = fstat(&fd).unwrap().st_ino;
            assert!(same(&familiar(fd).unwrap(), inode));
        }
        let on_disk = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for fd in [rustix::pipe::pipe().unwrap().0, on_disk.into()] {
            assert!(same(&familiar(fd).unwrap(), null));
        }
    }

    #[test]
    fn a_socket_whose_close_lingers_holds_nobody_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1 << 16]).is_ok() {}
        set_socket_linger(&stream, Some(Duration::from_secs(2))).unwrap();
        stream.set_nonblocking(false).unwrap();
        let before = Instant::now();
        familiar(stream.into()).unwrap();
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        peer.shutdown(Shutdown::Both).unwrap();
    }
}
