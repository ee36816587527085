//! What a successor found damaged in the state memory, and did without: to be told to people.
//!
//! Whoever reads a part notes what it could not trust; the control side takes the notes and makes
//! events of them. There are few: each part is read once in a life, and the list has a bound.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::names::{NetworkId, PortId};

/// Notes that are kept; of more than these only the number.
const KEPT: usize = 256;

/// Whose part it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The instance's: the header, or the whole memory.
    Instance,
    /// A port's.
    Port(PortId),
    /// A network's.
    Network(NetworkId),
}

/// Something that was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose part it was.
    pub place: Place,
    /// What it was, and what follows.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The notes of one base.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<(Vec<Damage>, u64)>);

impl Notes {
    pub fn add(&self, place: Place, what: String) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, more) = &mut *notes;
        if kept.len() < KEPT {
            kept.push(Damage { place, what });
        } else {
            *more = more.saturating_add(1);
        }
    }

    pub fn take(&self) -> Vec<Damage> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut kept, more) = std::mem::take(&mut *notes);
        if more > 0 {
            let what = format!("{more} more parts of the state memory were damaged");
            kept.push(Damage { place: Place::Instance, what });
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_page_of_notes_ends_with_their_number() {
        let notes = Notes::default();
        for n in 0..KEPT as u16 + 3 {
            notes.add(Place::Port(PortId(n)), "its name".to_owned());
        }
        let taken = notes.take();
        assert_eq!(taken.len(), KEPT + 1);
        assert_eq!(taken[KEPT].to_string(), "3 more parts of the state memory were damaged");
        assert!(notes.take().is_empty());
    }
}
