//! A log that is read while others write it, cut it and put a new one in its place.
//!
//! # Theory of operation
//! ```text
//! grows       what is beyond where this reader is, is new
//! is shorter  it was cut under the writer, its end is in LOG.1: what is there now is new
//! is another  LOG was renamed to LOG.1 and begun anew: the rest of the old one, then the new one
//! ```
//! The writer (QEMU for a console, the holder for the instance) knows of no reader, so it never waits
//! for one, and neither death nor replacement of the base changes anything here. Readers are woken by
//! inotify when the file is written to; that it was replaced is seen at the next look, which whoever
//! waits takes now and then.
//!
//! # Limits
//! What was written between this reader's last look and a cut is not seen: it is in LOG.1.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::state_dir::older_log;
use rustix::fs::inotify;

/// How often whoever waits for a log looks at it, though nothing was heard.
pub const LOOK: Duration = Duration::from_millis(500);
/// Octets that are taken at a time.
const PIECE: u64 = 64 << 10;

/// A reader's place in a log.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    /// Readable when the file was written to. `None`: the kernel has no more of these.
    woken: Option<OwnedFd>,
}

impl Tail {
    /// At the end of the log as it is. One that is not there yet is at its beginning.
    pub fn at_end(path: &Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let mut tail =
            Self { path: path.to_owned(), file: None, at: 0, woken: inotify::init(flags).ok() };
        if tail.open()? {
            tail.at = tail.length()?;
        }
        Ok(tail)
    }

    /// The same, with the last octets before that, `most` of them: from the log that was put aside,
    /// too, as long as they are not enough.
    pub fn with_history(path: &Path, most: u64) -> io::Result<(Vec<u8>, Self)> {
        let mut tail = Self::at_end(path)?;
        let here = most.min(tail.at);
        let mut history = match File::open(older_log(path)) {
            Ok(mut old) => {
                let length = old.metadata()?.len();
                old.seek(SeekFrom::Start(length.saturating_sub(most - here)))?;
                let mut end = Vec::new();
                old.take(most - here).read_to_end(&mut end)?;
                end
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let end = tail.at;
        if let Some(file) = &mut tail.file {
            file.seek(SeekFrom::Start(end - here))?;
            file.take(here).read_to_end(&mut history)?;
        }
        Ok((history, tail))
    }

    /// What is new, a piece of it: empty if nothing is.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let piece = self.read_on()?;
        if !piece.is_empty() {
            return Ok(piece);
        }
        if self.is_replaced()? && self.open()? {
            self.at = 0;
            return self.read_on();
        }
        Ok(piece)
    }

    fn read_on(&mut self) -> io::Result<Vec<u8>> {
        let length = if self.file.is_some() { self.length()? } else { 0 };
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        if length < self.at {
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut piece = Vec::new();
        self.at += file.take(PIECE).read_to_end(&mut piece)? as u64;
        Ok(piece)
    }

    /// Opens the file that is there now. Says whether there is one.
    fn open(&mut self) -> io::Result<bool> {
        match File::open(&self.path) {
            Ok(file) => {
                if let Some(woken) = &self.woken {
                    // Without this it is looked at now and then all the same.
                    let _ = inotify::add_watch(woken, &self.path, inotify::WatchFlags::MODIFY);
                }
                self.file = Some(file);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether another file is in the place of the one that is read.
    fn is_replaced(&self) -> io::Result<bool> {
        let there = match std::fs::metadata(&self.path) {
            Ok(there) => there,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(file) = &self.file else { return Ok(true) };
        let here = file.metadata()?;
        Ok((here.dev(), here.ino()) != (there.dev(), there.ino()))
    }

    fn length(&self) -> io::Result<u64> {
        self.file.as_ref().map_or(Ok(0), |file| Ok(file.metadata()?.len()))
    }

    /// What to wait for; not without looking every [`LOOK`].
    pub fn woken(&self) -> Option<BorrowedFd<'_>> {
        self.woken.as_ref().map(AsFd::as_fd)
    }

    /// Takes note that it was woken.
    pub fn heard(&self) {
        let mut events = [0; 4096];
        if let Some(woken) = &self.woken {
            // What they say is seen at the file itself.
            while matches!(rustix::io::read(woken, &mut events), Ok(1..)) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    struct Log {
        dir: tempfile::TempDir,
        writer: File,
    }

    impl Log {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let writer = Self::open(&dir.path().join("log"));
            Self { dir, writer }
        }

        fn open(path: &Path) -> File {
            OpenOptions::new().append(true).create(true).open(path).unwrap()
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("log")
        }

        fn write(&mut self, text: &str) {
            self.writer.write_all(text.as_bytes()).unwrap();
        }
    }

    fn text(octets: Vec<u8>) -> String {
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn history_comes_first_then_what_is_written_and_nothing_twice() {
        let mut log = Log::new();
        log.write("0123456789");
        let (history, mut tail) = Tail::with_history(&log.path(), 4).unwrap();
        assert_eq!(text(history), "6789");
        assert_eq!(text(tail.read().unwrap()), "");
        log.write("ab");
        log.write("c");
        assert_eq!(text(tail.read().unwrap()), "abc");
        assert_eq!(text(tail.read().unwrap()), "");
    }

    #[test]
    fn history_goes_on_in_the_log_that_was_put_aside() {
        let mut log = Log::new();
        fs::write(older_log(&log.path()), "before ").unwrap();
        log.write("now");
        let history = |most| text(Tail::with_history(&log.path(), most).unwrap().0);
        assert_eq!(history(100), "before now");
        assert_eq!(history(6), "re now");
        assert_eq!(history(2), "ow");
        fs::remove_file(log.path()).unwrap();
        assert_eq!(history(100), "before ");
    }

    #[test]
    fn a_log_that_is_cut_under_its_writer_is_read_on_from_its_beginning() {
        let mut log = Log::new();
        log.write("before the cut");
        let mut tail = Tail::at_end(&log.path()).unwrap();
        log.writer.set_len(0).unwrap();
        assert_eq!(text(tail.read().unwrap()), "");
        log.write("after");
        assert_eq!(text(tail.read().unwrap()), "after");
    }

    #[test]
    fn the_rest_of_a_log_that_is_put_aside_comes_before_the_new_one() {
        let mut log = Log::new();
        let mut tail = Tail::at_end(&log.path()).unwrap();
        log.write("the rest");
        fs::rename(log.path(), older_log(&log.path())).unwrap();
        let mut new = Log::open(&log.path());
        new.write_all(b"the new one").unwrap();
        assert_eq!(text(tail.read().unwrap()), "the rest");
        assert_eq!(text(tail.read().unwrap()), "the new one");
        assert_eq!(text(tail.read().unwrap()), "");
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (history, mut tail) = Tail::with_history(&path, 10).unwrap();
        assert_eq!((text(history), text(tail.read().unwrap())), (String::new(), String::new()));
        fs::write(&path, "first words").unwrap();
        assert_eq!(text(tail.read().unwrap()), "first words");
    }

    #[test]
    fn whoever_waits_is_woken_when_something_is_written() {
        let mut log = Log::new();
        let tail = Tail::at_end(&log.path()).unwrap();
        let woken = |seconds| {
            let mut sources = [PollFd::new(tail.woken.as_ref().unwrap(), PollFlags::IN)];
            let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
            poll(&mut sources, Some(&limit)).unwrap() == 1
        };
        assert!(!woken(0));
        log.write("news");
        assert!(woken(60));
        tail.heard();
        assert!(!woken(0));
    }
}
