//! A driver that writes anything into its rings, before the device looks and between its looks; of a
//! packed ring the journal says anything, too.
//!
//! The input is a short program: features, sizes and indices; then descriptors in a compact code, so
//! that chains which nearly hold are common; then single octets written anywhere, each followed by a
//! turn of the device. Guest memory lies between guard pages: what reads or writes beyond it dies.
#![no_main]

use std::cell::OnceCell;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use virtqueue::driver::{Buffer, DriverMemory, DriverQueue, Notebook};
use virtqueue::{Delivered, GuestAddress, GuestMemory, NetHeader, QueueFeatures, QueueLayout};
use virtqueue::{Intent, RxQueue, Traces, TxQueue};

/// Two small regions that touch, and one far away.
const REGIONS: [(u64, u64); 3] = [(0x1000, 0x2000), (0x3000, 0x1000), (1 << 32, 0x1000)];
/// Where the rings and one indirect table lie, in the first region.
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x1800;
const USED: u64 = 0x1a00;
const TABLE: u64 = 0x1f00;
/// Octets of the rings and the table, which every run begins with as zeroes.
const RINGS: usize = 0x1000;
/// Addresses that are near a border.
const ADDRESSES: [u64; 16] = [
    0,
    0xfff,
    0x1000,
    TABLE,
    TABLE + 8,
    0x2000,
    0x2fc0,
    0x2ff4,
    0x3000,
    0x3ff4,
    0x3fff,
    0x4000,
    1 << 32,
    (1 << 32) + 0xff4,
    (1 << 32) + 0x1000,
    u64::MAX - 8,
];
const LENGTHS: [u32; 16] =
    [0, 1, 8, 10, 11, 12, 13, 16, 32, 48, 60, 64, 512, 0x1000, 0x4000, u32::MAX];

thread_local! {
    static MEMORY: OnceCell<(Arc<DriverMemory>, Arc<GuestMemory>)> = const { OnceCell::new() };
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.octet()?, self.octet()?]))
    }

    /// Address and length in one octet each half, flags and next in another.
    fn descriptor(&mut self) -> Option<(Buffer, u16, u16)> {
        let (place, rest) = (self.octet()?, self.octet()?);
        let address = GuestAddress(ADDRESSES[usize::from(place >> 4)]);
        let len = LENGTHS[usize::from(place & 15)];
        Some((Buffer { address, len }, u16::from(rest & 7), u16::from(rest >> 3)))
    }
}

enum Device {
    Tx(TxQueue),
    Rx(RxQueue),
}

/// One turn: up to a few frames, then given back. False if the ring is broken.
fn turn(device: &mut Device, size: u16, room: &mut [u8]) -> bool {
    match device {
        Device::Tx(tx) => {
            let mut alive = true;
            for _ in 0..4 {
                match tx.copy_next(room) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => alive = false,
                }
            }
            assert!(tx.outstanding() <= size);
            let done = tx.complete().and_then(|_| tx.arm());
            alive && done.is_ok()
        }
        Device::Rx(rx) => {
            let mut alive = true;
            for len in [0, 60, 600] {
                let (one, two) = room[..len].split_at(len / 4);
                match rx.deliver(&NetHeader::default(), &[one, two]) {
                    Ok(Delivered::Written | Delivered::TooSmall) => {}
                    Ok(Delivered::NoBuffer) => break,
                    Err(_) => alive = false,
                }
            }
            assert!(rx.outstanding() <= size);
            let done = rx.publish().and_then(|_| rx.arm());
            alive && done.is_ok()
        }
    }
}

/// Descriptors, available entries and one indirect table of a split ring.
fn fill_split(
    memory: &Arc<DriverMemory>,
    layout: QueueLayout,
    features: QueueFeatures,
    start: u16,
    ahead: u16,
    input: &mut Input<'_>,
) -> Option<()> {
    let queue = DriverQueue::at(memory.clone(), layout, features, start);
    for index in 0..layout.size.min(8) {
        let (buffer, flags, next) = input.descriptor()?;
        queue.write_descriptor(index, buffer, flags, next);
        let head = input.octet()?;
        let entry = queue.avail_entry_at(start.wrapping_add(index));
        memory.write(entry, &u16::from(head % 33).to_le_bytes());
    }
    for entry in 0..4 {
        let (buffer, flags, next) = input.descriptor()?;
        write(memory, TABLE + entry * 16, buffer, [flags, next]);
    }
    let avail = start.wrapping_add(ahead);
    memory.write(queue.avail_index_at(), &avail.to_le_bytes());
    Some(())
}

/// Descriptors and one indirect table of a packed ring.
fn fill_packed(memory: &Arc<DriverMemory>, size: u16, input: &mut Input<'_>) -> Option<()> {
    let slots = (0..u64::from(size.min(8))).map(|slot| DESC + slot * 16);
    for at in slots.chain((0..4).map(|entry| TABLE + entry * 16)) {
        let (buffer, flags, more) = input.descriptor()?;
        // Mostly available in the one lap or the other.
        let lap = [1 << 7, 1 << 15, 1 << 7, 1 << 15, 0, 1 << 7 | 1 << 15][usize::from(more % 6)];
        write(memory, at, buffer, [more, flags | lap]);
    }
    Some(())
}

fn write(memory: &DriverMemory, at: u64, buffer: Buffer, [third, fourth]: [u16; 2]) {
    memory.write(GuestAddress(at), &buffer.address.0.to_le_bytes());
    memory.write(GuestAddress(at + 8), &buffer.len.to_le_bytes());
    memory.write(GuestAddress(at + 12), &third.to_le_bytes());
    memory.write(GuestAddress(at + 14), &fourth.to_le_bytes());
}

fn run(memory: &Arc<DriverMemory>, shared: &Arc<GuestMemory>, data: &[u8]) -> Option<()> {
    let mut input = Input(data);
    let setup = input.word()?;
    let bits = u64::from(setup);
    let features = QueueFeatures::from_bits(
        (bits & 1) << QueueFeatures::EVENT_IDX
            | (bits >> 1 & 1) << QueueFeatures::INDIRECT_DESC
            | (bits >> 2 & 1) << QueueFeatures::MRG_RXBUF
            | (bits >> 3 & 1) << QueueFeatures::VERSION_1
            | (bits >> 8 & 1) << QueueFeatures::RING_PACKED,
    );
    let size = if features.packed { 1 + (setup >> 9 & 31) } else { 1 << (setup >> 4 & 7).min(5) };
    let layout = QueueLayout {
        size,
        desc: GuestAddress(DESC),
        avail: GuestAddress(AVAIL),
        used: GuestAddress(USED),
    };
    let start = input.word()?;
    let ahead = u16::from(input.octet()?);
    memory.write(GuestAddress(DESC), &[0; RINGS]);
    let journal = if features.packed {
        let intent = Intent { from: start, to: start ^ ahead, first: 0, buffers: 1 };
        fill_packed(memory, size, &mut input)?;
        let traces = Traces::of(shared, layout).ok()?;
        // What the ring says of itself never contradicts it.
        assert!(traces.place().is_none_or(|place| !traces.contradict(place)));
        let _ = traces.contradict(start);
        Some(Notebook::new(Some(intent)))
    } else {
        fill_split(memory, layout, features, start, ahead, &mut input)?;
        None
    };
    let tx = setup >> 7 & 1 == 0;
    let mut room = [0; 1024];
    let resume = || match (&journal, tx) {
        (None, true) => TxQueue::resume(shared.clone(), layout, features).map(Device::Tx),
        (None, false) => RxQueue::resume(shared.clone(), layout, features).map(Device::Rx),
        (Some(journal), true) => {
            let journal = Box::new(journal.clone());
            TxQueue::resume_packed(shared.clone(), layout, features, journal).map(Device::Tx)
        }
        (Some(journal), false) => {
            let journal = Box::new(journal.clone());
            RxQueue::resume_packed(shared.clone(), layout, features, journal).map(Device::Rx)
        }
    };
    let mut device = resume().ok()?;
    loop {
        if !turn(&mut device, size, &mut room) {
            device = resume().ok()?;
        }
        let at = u64::from(input.word()?) % RINGS as u64;
        memory.write(GuestAddress(DESC + at), &[input.octet()?]);
    }
}

fuzz_target!(|data: &[u8]| {
    MEMORY.with(|cell| {
        let (memory, shared) = cell.get_or_init(|| {
            let memory = DriverMemory::new(&REGIONS).unwrap();
            let shared = memory.share_same();
            (memory, shared)
        });
        let _ = run(memory, shared, data);
    });
});
