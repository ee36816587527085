//! Stretches as the tests want them: of one frame, or of as many as there are rooms.

use crate::{RxQueue, Slots, TxQueue};

/// Rooms of the same size, one for each frame.
pub(super) struct Rooms<'a> {
    pub(super) rooms: &'a mut [&'a mut [u8]],
    pub(super) filled: Vec<usize>,
}

impl Slots for Rooms<'_> {
    fn room(&mut self) -> &mut [u8] {
        self.rooms.get_mut(self.filled.len()).map_or(&mut [], |room| room)
    }

    fn filled(&mut self, octets: usize) -> bool {
        self.filled.push(octets);
        self.filled.len() < self.rooms.len()
    }
}

/// A stretch of one frame; its length.
pub(super) fn copy_one(device: &mut TxQueue, room: &mut [u8], least: usize) -> Option<usize> {
    let mut slots = Rooms { rooms: &mut [room], filled: vec![] };
    device.copy_stretch(least, &mut slots);
    slots.filled.first().copied()
}

/// A stretch of one frame; whether it was delivered.
pub(super) fn deliver_one(device: &mut RxQueue, headers: &[u8; 26], body: &[u8]) -> bool {
    let position = device.position();
    let mark = |at| assert_eq!(at, position);
    let delivered = device.deliver_stretch(std::iter::once((headers, body)), mark);
    assert!([(0, 0), (1, body.len())].contains(&delivered));
    delivered.0 == 1
}
