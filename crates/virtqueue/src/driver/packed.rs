//! One packed virtqueue as its driver keeps it.
//!
//! What was added is hidden from the device by one word that is not written yet: the flags of the
//! first descriptor behind what it has seen.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex};

use crate::driver::memory::DriverMemory;
use crate::driver::queue::{Buffer, DriverRing, UsedBuffer};
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestAddress;
use crate::packed::{
    EVENT_LEN, EVENTS_AT, EVENTS_OFF, EVENTS_ON, F_AVAIL, F_USED, Intent, Journal, Position, Rest,
    Wish,
};
use crate::split::{DESC_LEN, F_INDIRECT, F_NEXT, F_WRITE};

/// A journal in this process's memory: for devices that die only in play.
#[derive(Clone, Debug)]
pub struct Notebook(Arc<Mutex<Option<Intent>>>);

impl Notebook {
    /// One that says where a ring stands.
    pub fn new(intent: Option<Intent>) -> Self {
        Self(Arc::new(Mutex::new(intent)))
    }
}

impl Journal for Notebook {
    fn note(&self, intent: Intent) {
        *self.0.lock().unwrap() = Some(intent);
    }

    fn last(&self) -> Option<Intent> {
        *self.0.lock().unwrap()
    }
}

/// The driver's side of a packed virtqueue.
pub struct PackedQueue {
    memory: Arc<DriverMemory>,
    layout: QueueLayout,
    features: QueueFeatures,
    /// Buffer ids not in use.
    ids: Vec<u16>,
    /// Descriptors not in use.
    free: u16,
    /// Per id, where its chain begins and how many descriptors it has.
    chains: Vec<(Position, u16)>,
    /// Ids of the buffers that the device has, oldest first.
    order: VecDeque<u16>,
    /// Per id, an indirect table and its entries.
    tables: Vec<Option<(GuestAddress, usize)>>,
    /// Behind all that was added.
    avail: Position,
    /// Behind what the device sees.
    exposed: Position,
    /// The word that hides the rest.
    hidden: Cell<Option<(Position, u64)>>,
    /// Where the next used descriptor comes.
    used: Position,
    notebook: Notebook,
}

impl PackedQueue {
    /// Sets up a ring that begins at `start`: an offset (taken modulo the size), and the wrap counter
    /// in bit 15.
    pub fn new(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures, start: u16) -> Self {
        let layout = QueueLayout {
            size,
            desc: memory.allocate(u64::from(size) * DESC_LEN as u64, DESC_LEN as u64),
            avail: memory.allocate(EVENT_LEN as u64, EVENT_LEN as u64),
            used: memory.allocate(EVENT_LEN as u64, EVENT_LEN as u64),
        };
        Self::at(memory, layout, features, start)
    }

    /// Sets up a ring at a given place.
    pub fn at(
        memory: Arc<DriverMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
        start: u16,
    ) -> Self {
        let size = layout.size;
        let (offset, wrap) = ((start & 0x7fff) % size, start & 0x8000);
        let start = Position::from_word(offset | wrap, size).unwrap();
        let queue = Self {
            memory,
            layout,
            features,
            ids: (0..size).rev().collect(),
            free: size,
            chains: vec![(start, 0); size.into()],
            order: VecDeque::new(),
            tables: vec![None; size.into()],
            avail: start,
            exposed: start,
            hidden: Cell::new(None),
            used: start,
            notebook: Notebook::new(Some(Intent::resting(start.word(), 0))),
        };
        // Nothing is available: all was used, those before `start` in its lap, the others before.
        for slot in 0..size {
            let wrap = if slot < start.offset() { start.wrap() } else { !start.wrap() };
            let word = Rest::used(0, 0, wrap).word().to_le();
            queue.rest_at(slot).store(word, Ordering::Release);
        }
        queue
    }

    /// What the device's journal for this ring is.
    pub fn journal(&self) -> Box<dyn Journal> {
        Box::new(self.notebook.clone())
    }

    /// Where the ring lies.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// What the driver negotiated.
    pub fn features(&self) -> QueueFeatures {
        self.features
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<DriverMemory> {
        &self.memory
    }

    /// Where descriptor `slot` of the ring lies: address (8 octets), length (4), id (2), flags (2).
    pub fn descriptor_at(&self, slot: u16) -> GuestAddress {
        GuestAddress(self.layout.desc.0 + u64::from(slot) * DESC_LEN as u64)
    }

    fn rest_at(&self, slot: u16) -> &std::sync::atomic::AtomicU64 {
        self.memory.u64_at(GuestAddress(self.descriptor_at(slot).0 + 8))
    }

    /// The second half of descriptor `slot` (length, id, flags) as the device will see it, before or
    /// after it does.
    pub fn second_half(&self, slot: u16) -> u64 {
        match self.hidden.get() {
            Some((at, word)) if at.offset() == slot => word,
            _ => u64::from_le(self.rest_at(slot).load(Ordering::Acquire)),
        }
    }

    /// Makes it another.
    pub fn set_second_half(&self, slot: u16, word: u64) {
        match self.hidden.get() {
            Some((at, _)) if at.offset() == slot => self.hidden.set(Some((at, word))),
            _ => self.rest_at(slot).store(word.to_le(), Ordering::Release),
        }
    }

    /// The first slot of the chain of `head`.
    pub fn slot_of(&self, head: u16) -> u16 {
        self.chains[usize::from(head)].0.offset()
    }

    /// Where the indirect table of `head` lies, if it has had one.
    pub fn table_at(&self, head: u16) -> Option<GuestAddress> {
        self.tables[usize::from(head)].map(|(at, _)| at)
    }

    /// Where the driver says what it wants to be notified of: place (2 octets), flags (2).
    pub fn driver_event_at(&self) -> GuestAddress {
        self.layout.avail
    }

    /// Where the device says it.
    pub fn device_event_at(&self) -> GuestAddress {
        self.layout.used
    }

    /// Descriptors not in use.
    pub fn free(&self) -> usize {
        self.free.into()
    }

    /// Buffers that the device has not given back.
    pub fn outstanding(&self) -> usize {
        self.order.len()
    }

    /// Makes a chain of `buffers` the next available one; the device sees it after
    /// [`PackedQueue::expose`]. With `table` as `Some(n)` the first `n` are plain descriptors and the
    /// others lie in an indirect table. Gives the id; `None` if there are too few descriptors.
    pub fn add(&mut self, buffers: &[Buffer], writable: bool, table: Option<usize>) -> Option<u16> {
        assert!(!buffers.is_empty(), "a chain has at least one descriptor");
        let (plain, inner) = buffers.split_at(table.unwrap_or(buffers.len()).min(buffers.len()));
        let slots = plain.len() + usize::from(!inner.is_empty());
        let slots = u16::try_from(slots).ok().filter(|n| *n <= self.free)?;
        let id = self.ids.pop()?;
        let flag = if writable { F_WRITE } else { 0 };
        let mut pieces: Vec<(Buffer, u16)> = plain.iter().map(|b| (*b, flag)).collect();
        if !inner.is_empty() {
            let address = self.table(id, inner.len());
            for (i, buffer) in inner.iter().enumerate() {
                let at = address.0 + (i * DESC_LEN) as u64;
                let rest = Rest { len: buffer.len, id: 0, flags: flag }.word();
                let words = [buffer.address.0, rest].map(u64::to_le_bytes).concat();
                self.memory.write(GuestAddress(at), &words);
            }
            let whole = Buffer { address, len: (inner.len() * DESC_LEN) as u32 };
            pieces.push((whole, F_INDIRECT));
        }
        self.chains[usize::from(id)] = (self.avail, slots);
        // From the last to the first, for the first makes it all available.
        for (n, (buffer, flag)) in pieces.iter().enumerate().rev() {
            let at = self.avail.plus(n as u16, self.layout.size);
            let more = if n + 1 == pieces.len() { 0 } else { F_NEXT };
            let lap = if at.wrap() { F_AVAIL } else { F_USED };
            let rest = Rest { len: buffer.len, id, flags: flag | more | lap }.word();
            let address = self.memory.u64_at(self.descriptor_at(at.offset()));
            address.store(buffer.address.0.to_le(), Ordering::Relaxed);
            if n == 0 && self.hidden.get().is_none() {
                self.hidden.set(Some((at, rest)));
            } else {
                self.rest_at(at.offset()).store(rest.to_le(), Ordering::Release);
            }
        }
        self.order.push_back(id);
        self.avail = self.avail.plus(slots, self.layout.size);
        self.free -= slots;
        Some(id)
    }

    fn table(&mut self, id: u16, entries: usize) -> GuestAddress {
        if let Some((at, room)) = self.tables[usize::from(id)]
            && room >= entries
        {
            return at;
        }
        let at = self.memory.allocate((entries * DESC_LEN) as u64, DESC_LEN as u64);
        self.tables[usize::from(id)] = Some((at, entries));
        at
    }

    /// Shows the device what was added. True if it wants to be notified.
    pub fn expose(&mut self) -> bool {
        let before = std::mem::replace(&mut self.exposed, self.avail);
        if let Some((at, word)) = self.hidden.take() {
            self.rest_at(at.offset()).store(word.to_le(), Ordering::Release);
        }
        fence(Ordering::SeqCst);
        let word = self.event(self.device_event_at()).load(Ordering::Relaxed);
        let wish = Wish::from_word(u32::from_le(word));
        wish.is_met(before, self.avail, self.features.event_idx, self.layout.size)
    }

    fn event(&self, at: GuestAddress) -> &AtomicU32 {
        self.memory.u32_at(at)
    }

    fn used_at(&self, at: Position) -> Option<Rest> {
        let rest = Rest::from_word(u64::from_le(self.rest_at(at.offset()).load(Ordering::Acquire)));
        let lap = if at.wrap() { F_AVAIL | F_USED } else { 0 };
        (rest.flags & (F_AVAIL | F_USED) == lap).then_some(rest)
    }

    /// Buffers given back and not yet taken.
    pub fn pending(&self) -> u16 {
        let mut at = self.used;
        let mut pending = 0;
        for &id in &self.order {
            if self.used_at(at).is_none() || self.hidden.get().is_some_and(|(first, _)| first == at)
            {
                break;
            }
            at = at.plus(self.chains[usize::from(id)].1, self.layout.size);
            pending += 1;
        }
        pending
    }

    /// Takes back the oldest buffer the device has given back.
    pub fn take_used(&mut self) -> Option<UsedBuffer> {
        if self.pending() == 0 {
            return None;
        }
        let rest = self.used_at(self.used)?;
        let expected = self.order.pop_front().unwrap();
        assert_eq!(rest.id, expected, "the device gave back out of order");
        let (_, slots) = self.chains[usize::from(expected)];
        self.used = self.used.plus(slots, self.layout.size);
        self.free += slots;
        self.ids.push(expected);
        let len = if rest.flags & F_WRITE != 0 { rest.len } else { 0 };
        Some(UsedBuffer { head: expected, len })
    }

    fn wish(&self, place: Position, flags: u16) {
        let word = Wish { place: place.word(), flags }.word();
        self.event(self.driver_event_at()).store(word.to_le(), Ordering::Relaxed);
    }

    /// Asks for a notification when the next buffer comes back. True if one is there already.
    pub fn arm(&mut self) -> bool {
        self.wish(self.used, if self.features.event_idx { EVENTS_AT } else { EVENTS_ON });
        fence(Ordering::SeqCst);
        self.pending() > 0
    }

    /// Asks for a notification when so many buffers of one descriptor each have come back (with event
    /// index).
    pub fn arm_after(&mut self, buffers: u16) {
        self.wish(self.used.plus(buffers - 1, self.layout.size), EVENTS_AT);
    }

    /// Asks for no notifications.
    pub fn disarm(&mut self) {
        self.wish(self.used, EVENTS_OFF);
    }
}

impl DriverRing for PackedQueue {
    fn set_up(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures) -> Self {
        Self::new(memory, size, features, 0x8000)
    }

    fn layout(&self) -> QueueLayout {
        self.layout
    }

    fn features(&self) -> QueueFeatures {
        self.features
    }

    fn memory(&self) -> &Arc<DriverMemory> {
        &self.memory
    }

    fn add(&mut self, buffers: &[Buffer], writable: bool, table: Option<usize>) -> Option<u16> {
        Self::add(self, buffers, writable, table)
    }

    fn expose(&mut self) -> bool {
        Self::expose(self)
    }

    fn take_used(&mut self) -> Option<UsedBuffer> {
        Self::take_used(self)
    }

    fn outstanding(&self) -> usize {
        Self::outstanding(self)
    }

    fn arm(&mut self) -> bool {
        Self::arm(self)
    }

    fn disarm(&mut self) {
        Self::disarm(self);
    }

    fn base(&self) -> u16 {
        let back = self.order.iter().take(self.pending().into());
        let slots = back.map(|id| self.chains[usize::from(*id)].1).sum();
        self.used.plus(slots, self.layout.size).word()
    }
}
