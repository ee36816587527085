//! What a starting base gets from the one before it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::holder::channel::{self, Wait};
use crate::holder::protocol::{Ended, Hello, ProtocolError, ToBase};

/// Why the handover failed.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket failed: most likely this process was not started by a holder.
    #[error("cannot receive from the holder")]
    Socket(#[from] io::Error),
    /// The holder is gone.
    #[error("the holder ended during the handover")]
    Ended,
    /// A message that cannot be understood.
    #[error("the holder sent what this base does not understand")]
    Protocol(#[from] ProtocolError),
    /// A message out of its order.
    #[error("the holder sent a message out of order: {0}")]
    Order(String),
    /// Descriptors are missing: this process may not open as many.
    #[error("{got} of {expected} descriptors arrived: the limit of open files is too low")]
    Descriptors {
        /// What arrived.
        got: usize,
        /// What was announced.
        expected: usize,
    },
}

/// The predecessor's descriptors by key, each taken once. What nobody takes is closed with this.
#[derive(Debug, Default)]
pub struct Inheritance {
    kept: BTreeMap<String, OwnedFd>,
    reaped: Vec<(u32, Ended)>,
}

impl Inheritance {
    /// What is kept under `key`.
    pub fn get(&self, key: &str) -> Option<BorrowedFd<'_>> {
        self.kept.get(key).map(OwnedFd::as_fd)
    }

    /// Takes what is kept under `key`.
    pub fn take(&mut self, key: &str) -> Option<OwnedFd> {
        self.kept.remove(key)
    }

    /// Takes all whose key starts with `prefix`, by what follows it.
    pub fn take_prefix(&mut self, prefix: &str) -> BTreeMap<String, OwnedFd> {
        use std::ops::Bound::{Included, Unbounded};
        // A thousand ports are taken one by one: only what is taken may cost anything.
        let keys = self.kept.range::<str, _>((Included(prefix), Unbounded)).map(|(key, _)| key);
        let keys: Vec<_> = keys.take_while(|key| key.starts_with(prefix)).cloned().collect();
        keys.into_iter()
            .filter_map(|key| {
                let fd = self.kept.remove(&key)?;
                Some((key.strip_prefix(prefix)?.to_owned(), fd))
            })
            .collect()
    }

    /// Keys not taken yet.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.kept.keys().map(String::as_str)
    }

    /// Processes that ended and that no base before has settled.
    pub fn take_reaped(&mut self) -> Vec<(u32, Ended)> {
        std::mem::take(&mut self.reaped)
    }

    /// What there is by key: duplicates, for somebody who may have to give it away again.
    pub fn duplicates(&self) -> io::Result<BTreeMap<String, OwnedFd>> {
        self.kept.iter().map(|(key, fd)| Ok((key.clone(), fd.try_clone()?))).collect()
    }

    /// An inheritance with this in it, for tests.
    pub fn with(kept: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        Self { kept: kept.into_iter().collect(), reaped: Vec::new() }
    }
}

/// What the holder wants of a base that it has started.
#[derive(Debug)]
pub enum Opening {
    /// Take over at once.
    TakeOver(Hello, Inheritance),
    /// Prepare beside a base that serves, say so, then [`receive`]. What is kept at present may be
    /// looked at, and must not be touched.
    Prepare(Inheritance),
}

/// Reads the holder's first message; and if it is the beginning of the handover, all of it.
pub fn open(socket: impl AsFd) -> Result<Opening, HandoverError> {
    match next(socket.as_fd())? {
        (ToBase::Prepare, _) => Ok(Opening::Prepare(pieces(socket.as_fd())?)),
        (ToBase::Hello(hello), _) => {
            let inheritance = rest(socket.as_fd(), &hello)?;
            Ok(Opening::TakeOver(hello, inheritance))
        }
        (other, _) => Err(HandoverError::Order(format!("{other:?}"))),
    }
}

/// Reads the handover from the holder's socket, waiting for all of it.
pub fn receive(socket: impl AsFd) -> Result<(Hello, Inheritance), HandoverError> {
    match next(socket.as_fd())? {
        (ToBase::Hello(hello), _) => {
            let inheritance = rest(socket.as_fd(), &hello)?;
            Ok((hello, inheritance))
        }
        (other, _) => Err(HandoverError::Order(format!("{other:?}"))),
    }
}

fn next(socket: BorrowedFd<'_>) -> Result<(ToBase, Vec<OwnedFd>), HandoverError> {
    let received = channel::receive(socket, Wait::Yes)?.ok_or(HandoverError::Ended)?;
    Ok((ToBase::decode(&received.bytes)?, received.descriptors))
}

/// What follows hello.
fn rest(socket: BorrowedFd<'_>, hello: &Hello) -> Result<Inheritance, HandoverError> {
    let inheritance = pieces(socket)?;
    let (got, expected) = (inheritance.kept.len(), hello.descriptors as usize);
    if got != expected {
        return Err(HandoverError::Descriptors { got, expected });
    }
    Ok(inheritance)
}

/// Everything until it is complete.
fn pieces(socket: BorrowedFd<'_>) -> Result<Inheritance, HandoverError> {
    let mut inheritance = Inheritance::default();
    loop {
        match next(socket)? {
            (ToBase::Piece(keys), descriptors) => {
                if descriptors.len() != keys.len() {
                    let (got, expected) = (descriptors.len(), keys.len());
                    return Err(HandoverError::Descriptors { got, expected });
                }
                inheritance.kept.extend(keys.into_iter().zip(descriptors));
            }
            (ToBase::Reaped { pid, ended }, _) => inheritance.reaped.push((pid, ended)),
            (ToBase::Complete, _) => break,
            (other, _) => return Err(HandoverError::Order(format!("{other:?}"))),
        }
    }
    Ok(inheritance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn a_prefix_takes_its_own_and_leaves_its_neighbours() {
        let keys = ["port/a", "port/a/call", "port/a/kick", "port/ab/kick", "state"];
        let mut inheritance = Inheritance::with(keys.map(|k| (k.to_owned(), fd())));
        let taken: Vec<_> = inheritance.take_prefix("port/a/").into_keys().collect();
        assert_eq!(taken, ["call", "kick"]);
        assert_eq!(inheritance.keys().collect::<Vec<_>>(), ["port/a", "port/ab/kick", "state"]);
        assert!(inheritance.take("state").is_some());
        assert!(inheritance.take("state").is_none());
        assert_eq!(inheritance.take_prefix("").len(), 2);
    }

    #[test]
    fn a_handover_out_of_order_or_cut_short_is_refused() {
        let (ours, theirs) = channel::pair().unwrap();
        let send = |m: ToBase| {
            channel::send(ours.as_fd(), &m.encode().unwrap(), &[], Wait::No).unwrap();
        };
        send(ToBase::Complete);
        assert!(matches!(receive(&theirs), Err(HandoverError::Order(_))));
        let hello = Hello { generation: 1, descriptors: 1, holder: 1, ..Hello::default() };
        send(ToBase::Hello(hello));
        send(ToBase::Complete);
        let error = receive(&theirs).unwrap_err();
        assert!(matches!(error, HandoverError::Descriptors { got: 0, expected: 1 }), "{error}");
        drop(ours);
        assert!(matches!(receive(&theirs), Err(HandoverError::Ended)));
    }
}
