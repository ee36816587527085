//! The descriptors that the holder keeps, each under its key, in the order they first came.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Keys and what is kept under them.
#[derive(Debug, Default)]
pub struct Registry {
    places: HashMap<String, u64>,
    kept: BTreeMap<u64, (String, OwnedFd)>,
    next: u64,
}

impl Registry {
    /// Keeps `fd` under `key`; what was there goes, its place stays.
    pub fn keep(&mut self, key: String, fd: OwnedFd) {
        let place = match self.places.get(&key) {
            Some(&place) => place,
            None => {
                let place = self.next;
                self.next = self.next.saturating_add(1);
                self.places.insert(key.clone(), place);
                place
            }
        };
        self.kept.insert(place, (key, fd));
    }

    /// Lets go of `key`.
    pub fn forget(&mut self, key: &str) {
        if let Some(place) = self.places.remove(key) {
            self.kept.remove(&place);
        }
    }

    /// Lets go of all keys that start with `prefix`.
    pub fn forget_all(&mut self, prefix: &str) {
        self.places.retain(|key, _| !key.starts_with(prefix));
        self.kept.retain(|_, (key, _)| !key.starts_with(prefix));
    }

    /// What is kept under keys that begin and end like this.
    pub fn matching(&self, prefix: &str, suffix: &str) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fits = move |key: &str| key.starts_with(prefix) && key.ends_with(suffix);
        self.kept.values().filter(move |(key, _)| fits(key)).map(|(_, fd)| fd.as_fd())
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Up to `count` of them from the place `from` on, and the place to go on at.
    pub fn piece(&self, from: u64, count: usize) -> Piece<'_> {
        let mut piece = Piece { keys: Vec::new(), descriptors: Vec::new(), next: None };
        for (&place, (key, fd)) in self.kept.range(from..).take(count) {
            piece.keys.push(key.clone());
            piece.descriptors.push(fd.as_fd());
            piece.next = Some(place.saturating_add(1));
        }
        piece
    }
}

/// Some of the kept descriptors.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Their keys.
    pub keys: Vec<String>,
    /// The descriptors, in the same order.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Where the next piece starts; `None` if this one is empty.
    pub next: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn a_replaced_descriptor_keeps_its_place_and_a_forgotten_one_leaves_no_gap() {
        let mut registry = Registry::default();
        for key in ["state", "port/a/kick", "port/a/call", "port/ab/kick"] {
            registry.keep(key.to_owned(), fd());
        }
        registry.keep("state".to_owned(), fd());
        assert_eq!(
            registry.piece(0, 9).keys,
            ["state", "port/a/kick", "port/a/call", "port/ab/kick"]
        );
        registry.forget_all("port/a/");
        assert_eq!(registry.piece(0, 9).keys, ["state", "port/ab/kick"]);
        registry.forget("state");
        registry.forget("no such key");
        registry.keep("state".to_owned(), fd());
        assert_eq!(registry.piece(0, 9).keys, ["port/ab/kick", "state"]);
        assert_eq!(registry.count(), 2);
    }

    #[test]
    fn pieces_cover_all_once() {
        let mut registry = Registry::default();
        for n in 0..10 {
            registry.keep(format!("key/{n}"), fd());
        }
        let (mut from, mut sizes, mut keys) = (0, Vec::new(), Vec::new());
        while let piece = registry.piece(from, 4)
            && let Some(next) = piece.next
        {
            sizes.push(piece.descriptors.len());
            keys.extend(piece.keys);
            from = next;
        }
        assert_eq!(sizes, [4, 4, 2]);
        assert_eq!(keys, (0..10).map(|n| format!("key/{n}")).collect::<Vec<_>>());
    }
}
