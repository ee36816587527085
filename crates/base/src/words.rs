//! What the base and its holder say on standard error, without ever waiting for whoever reads it.
//!
//! # Why it exists
//! Standard error may be a terminal that somebody has paused, a pager that is not read on, an ssh
//! connection that hangs. A write to it then waits, and with it the one who carries the VMs'
//! datagrams, or the one who would start the next base. So what is not taken at once is dropped,
//! counted, and told with the next message that is taken.
//!
//! # Theory of operation
//! Standard error's open file is shared with the shell and all others on that terminal, so it cannot
//! be made not to block. But a terminal or a pipe can be opened anew by its name in /proc, and then
//! not to block is nobody else's business:
//! ```text
//! terminal, pipe   opened anew, O_NONBLOCK     socket   send, not waiting
//! file             written to as it is         what cannot be opened anew: only if poll says that
//! ```
//! There is no thread: a message is written, or lost, when the call returns. So the last words of a
//! process that ends are not left behind.
//!
//! # Limits
//! A terminal that cannot be opened anew (another user's, after `su`) takes a message whose
//! beginning fits and lets the rest wait. A file is assumed not to wait.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{SendFlags, send};

/// How standard error is written to.
enum Out {
    /// It never waits: a file, or opened anew.
    Direct(OwnedFd),
    /// A socket, as from a service manager.
    Socket(OwnedFd),
    /// Only if it says that it takes something.
    Asked(OwnedFd),
}

/// Where messages go, and what became of those before.
struct Words {
    out: Out,
    /// Messages lost since the last one that was taken.
    lost: u64,
    /// The last message was taken in part: its line has no end.
    cut: bool,
}

/// This process's.
static WORDS: Mutex<Option<Words>> = Mutex::new(None);

/// Says `text`, which ends with a line feed, if it is taken at once. That nobody may be there to
/// read it is no reason to fail.
pub fn say(text: &str) {
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if words.is_none() {
        let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return };
        *words = Some(Words::to(stderr));
    }
    if let Some(words) = words.as_mut() {
        words.say(text.as_bytes());
    }
}

/// The same for what writes to a `Write`, one message a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        say(&String::from_utf8_lossy(message));
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Words {
    fn to(fd: OwnedFd) -> Self {
        let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let out = match kind {
            Ok(FileType::RegularFile) => Out::Direct(fd),
            Ok(FileType::Socket) => Out::Socket(fd),
            _ => match anew(&fd) {
                Ok(own) => Out::Direct(own),
                Err(_) => Out::Asked(fd),
            },
        };
        Self { out, lost: 0, cut: false }
    }

    fn say(&mut self, message: &[u8]) {
        let mut whole = Vec::new();
        if self.cut {
            whole.push(b'\n');
        }
        if self.lost > 0 {
            let lost = self.lost;
            let note = format!("ipvisor: {lost} messages before this one could not be written\n");
            whole.extend_from_slice(note.as_bytes());
        }
        whole.extend_from_slice(message);
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(taken @ 1..) => rest = rest.get(taken..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => break,
            }
        }
        if rest.is_empty() {
            (self.lost, self.cut) = (0, false);
        } else {
            self.lost = self.lost.saturating_add(1);
            self.cut |= rest.len() < whole.len();
        }
    }
}

impl Out {
    fn write(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Direct(fd) => rustix::io::write(fd, bytes),
            Self::Socket(fd) => send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Self::Asked(fd) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let mut asked = [PollFd::new(fd, PollFlags::OUT)];
                match poll(&mut asked, Some(&now))? {
                    0 => Err(rustix::io::Errno::AGAIN),
                    _ => rustix::io::write(fd, bytes),
                }
            }
        }
    }
}

/// The same terminal or pipe, opened for this process alone.
fn anew(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    const LINE: &[u8] = &[b'x'; 999];

    /// Says so much that nobody can have taken it all, then reads, says one more, and reads that.
    fn overfill(fd: OwnedFd, read: &mut dyn FnMut() -> String) {
        let line = [LINE, b"\n"].concat();
        let mut words = Words::to(fd);
        for _ in 0..1000 {
            words.say(&line);
        }
        let (lost, taken) = (words.lost, read());
        assert!(lost > 0 && taken.len() >= 4096, "{lost} lost, {} octets", taken.len());
        assert_eq!(taken.matches('\n').count() as u64 + lost, 1000);
        words.say(b"at last\n");
        let news = read();
        assert!(news.ends_with(&format!(
            "{lost} messages before this one could not be written\nat last\n"
        )));
        words.say(b"and more\n");
        assert_eq!(read(), "and more\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody_and_the_loss_is_told() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut file = File::from(read);
        overfill(write, &mut || {
            let mut octets = vec![0; 1 << 20];
            let len = file.read(&mut octets).unwrap();
            String::from_utf8(octets[..len].to_vec()).unwrap()
        });
    }

    #[test]
    fn a_socket_that_nobody_reads_holds_up_nobody_either() {
        let (mut read, write) = UnixStream::pair().unwrap();
        read.set_nonblocking(true).unwrap();
        overfill(write.into(), &mut || {
            let mut octets = Vec::new();
            let _ = read.read_to_end(&mut octets);
            String::from_utf8(octets).unwrap()
        });
    }

    #[test]
    fn what_others_share_with_us_still_blocks_for_them() {
        let (_read, write) = rustix::pipe::pipe().unwrap();
        let shared = write.try_clone().unwrap();
        Words::to(write).say(b"hello\n");
        let flags = rustix::fs::fcntl_getfl(&shared).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_file_is_written_on_where_others_stopped() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        Words::to(file.try_clone().unwrap().into()).say(b"ours\n");
        file.write_all(b"after\n").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before\nours\nafter\n");
    }
}
