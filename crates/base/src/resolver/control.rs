//! What base and resolver say to each other besides datagrams: short words on a socket, with descriptors
//! beside them.
//!
//! ```text
//! base -> resolver   sockets (+ one for each worker)   settings (+ a memfd with JSON)   beat
//! resolver -> base   alive
//! ```
//! Settings may be long; a memfd of them is handed over at once, so that the base never waits for
//! whoever reads it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::MemfdFlags;

use super::Settings;
use crate::holder::channel::{self, Wait};

/// Octets of the longest settings that are read: 100,000 addresses take a tenth.
const LONGEST: u64 = 64 << 20;

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// These are the sockets for datagrams.
    Sockets,
    /// These are the settings.
    Settings,
    /// Are you there?
    Beat,
    /// Yes.
    Alive,
}

/// What was said.
#[derive(Debug)]
pub struct Told {
    /// The word.
    pub word: Word,
    /// What came beside it.
    pub descriptors: Vec<OwnedFd>,
}

impl Word {
    const ALL: [Self; 4] = [Self::Sockets, Self::Settings, Self::Beat, Self::Alive];

    fn octet(self) -> u8 {
        match self {
            Self::Sockets => b's',
            Self::Settings => b'c',
            Self::Beat => b'b',
            Self::Alive => b'a',
        }
    }
}

/// Says a word, and does not wait.
pub fn tell(socket: BorrowedFd<'_>, word: Word, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
    channel::send(socket, &[word.octet()], beside, Wait::No)
}

impl Told {
    /// The next word; `None` when the other end is closed. A word that nobody knows is an error.
    pub fn next(socket: BorrowedFd<'_>, wait: bool) -> io::Result<Option<Self>> {
        let wait = if wait { Wait::Yes } else { Wait::No };
        let Some(received) = channel::receive(socket, wait)? else { return Ok(None) };
        let known = |word: &Word| received.bytes == [word.octet()];
        let word = Word::ALL.into_iter().find(known);
        let word =
            word.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown word"))?;
        Ok(Some(Self { word, descriptors: received.descriptors }))
    }
}

impl Settings {
    /// In a memfd.
    pub fn to_memfd(&self) -> io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create("resolver settings", MemfdFlags::CLOEXEC)?;
        let mut file = File::from(fd);
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        Ok(file.into())
    }

    /// Out of one.
    pub fn from_memfd(fd: OwnedFd) -> io::Result<Self> {
        let text = From { file: &File::from(fd), at: 0 };
        Ok(serde_json::from_reader(io::BufReader::new(text.take(LONGEST)))?)
    }
}

/// A file from its beginning, wherever whoever wrote it has left it.
struct From<'a> {
    file: &'a File,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(room, self.at)?;
        self.at = self.at.saturating_add(len as u64);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::resolver::Network;

    #[test]
    fn settings_go_over_with_their_word_and_what_is_no_word_is_an_error() {
        let settings = Settings {
            networks: vec![Network {
                name: "lan".into(),
                mtu: 1500,
                forwards: true,
                servers: ["203.0.113.53:53", "[fe80::1%7]:53"].map(|a| a.parse().unwrap()).into(),
                ports: vec![0, 3],
                names: [("web".to_owned(), vec!["203.0.113.10".parse().unwrap()])].into(),
            }],
        };
        let (ours, theirs) = channel::pair().unwrap();
        let memfd = settings.to_memfd().unwrap();
        tell(ours.as_fd(), Word::Settings, &[memfd.as_fd()]).unwrap();
        let told = Told::next(theirs.as_fd(), false).unwrap().unwrap();
        assert_eq!(told.word, Word::Settings);
        let [fd] = <[OwnedFd; 1]>::try_from(told.descriptors).unwrap();
        assert_eq!(Settings::from_memfd(fd).unwrap(), settings);
        channel::send(ours.as_fd(), b"xyz", &[], Wait::No).unwrap();
        Told::next(theirs.as_fd(), false).unwrap_err();
        drop(ours);
        assert!(Told::next(theirs.as_fd(), true).unwrap().is_none());
    }
}
