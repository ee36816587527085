//! A valid packed ring, one change, and the fault it must be called by.

use std::mem::{Discriminant, discriminant};
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::driver::{Buffer, Notebook, Shape};
use crate::{
    Delivered, GuestAddress, IndirectDefect, Intent, LayoutDefect, LayoutPart, QueueLayout,
};

const SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

fn put(queue: &PackedQueue, at: u64, octets: &[u8]) {
    queue.memory().write(GuestAddress(at), octets);
}

/// One change to a descriptor: address, length, id or flags. The first lap's flags are AVAIL.
fn address(queue: &PackedQueue, at: u64, value: u64) {
    put(queue, at, &value.to_le_bytes());
}
fn len(queue: &PackedQueue, at: u64, value: u32) {
    put(queue, at + 8, &value.to_le_bytes());
}
fn flags(queue: &PackedQueue, at: u64, value: u16) {
    put(queue, at + 14, &value.to_le_bytes());
}

/// All descriptors of the ring lead on, those behind its end in the next lap.
fn endless(queue: &PackedQueue, from: u64) {
    let mut old = [0; 2];
    queue.memory().read(GuestAddress(from + 14), &mut old);
    let direction = u16::from_le_bytes(old) & WRITE;
    for slot in 0..SIZE {
        let at = queue.descriptor_at(slot).0;
        let flow = if at >= from { AVAIL } else { USED };
        flags(queue, at, flow | NEXT | direction);
        len(queue, at, 0);
    }
}

/// What is changed, given the ring and the place of a first descriptor.
type Change = fn(&PackedQueue, u64);

const OUTSIDE: RingFault = RingFault::DescriptorAddress { address: 0, len: 0 };
const TORN_CHAIN: RingFault = RingFault::ChainFlags { index: 0 };
const CHAIN_LOOP: RingFault = RingFault::ChainLoop { limit: 0 };
const DIRECTION: RingFault = RingFault::Direction { index: 0, writable: false };

fn table_fault(defect: IndirectDefect) -> RingFault {
    RingFault::IndirectTable { address: 0, len: 0, defect }
}

/// Changes to a plain chain of three. `flow` is the flag that says the direction of the queue.
fn plain_changes(flow: u16) -> Vec<(&'static str, Change, RingFault)> {
    let mut all: Vec<(&'static str, Change, RingFault)> = vec![
        ("second not available", |q, d| flags(q, d + 16, 0), TORN_CHAIN),
        ("second of the next lap", |q, d| flags(q, d + 16, USED | NEXT), TORN_CHAIN),
        ("second used already", |q, d| flags(q, d + 16, AVAIL | USED), TORN_CHAIN),
        ("a chain to behind what is there", |q, d| flags(q, d + 32, AVAIL | NEXT), TORN_CHAIN),
        ("address 0", |q, d| address(q, d, 0), OUTSIDE),
        ("address before a region", |q, d| address(q, d, 0xfff), OUTSIDE),
        ("address between regions", |q, d| address(q, d, 0xc0_1000), OUTSIDE),
        ("address near the end of all", |q, d| address(q, d, u64::MAX - 3), OUTSIDE),
        ("end of a region passed", |q, d| address(q, d, 0x1_0040_0000 - 7), OUTSIDE),
        ("two touching regions", |q, d| address(q, d, 0x80_1000 - 7), OUTSIDE),
        ("length 4 GiB - 1", |q, d| len(q, d, u32::MAX), OUTSIDE),
        ("second address wrong", |q, d| address(q, d + 16, 1 << 40), OUTSIDE),
        ("a ring that leads on all around", endless, CHAIN_LOOP),
        ("table not negotiated", |q, d| flags(q, d, AVAIL | INDIRECT), {
            table_fault(IndirectDefect::NotNegotiated)
        }),
    ];
    all.extend(match flow {
        WRITE => [
            ("head to be read", (|q, d| flags(q, d, AVAIL | NEXT)) as Change, DIRECTION),
            ("last to be read", |q, d| flags(q, d + 32, AVAIL), DIRECTION),
        ],
        _ => [
            ("head to be written", (|q, d| flags(q, d, AVAIL | NEXT | WRITE)) as Change, DIRECTION),
            ("last to be written", |q, d| flags(q, d + 32, AVAIL | WRITE), DIRECTION),
        ],
    });
    // The direction of the queue is kept where it is not what is changed.
    if flow == WRITE {
        all.retain(|(name, ..)| *name != "a chain to behind what is there");
        all.push((
            "a chain to behind what is there",
            |q, d| flags(q, d + 32, AVAIL | NEXT | WRITE),
            TORN_CHAIN,
        ));
    }
    all
}

/// Changes to a buffer in an indirect table of three, given the place of the table.
fn table_changes(flow: u16) -> Vec<(&'static str, Change, RingFault)> {
    /// The descriptor that leads to the table: the second buffer's, in slot 1.
    fn head(q: &PackedQueue) -> u64 {
        q.descriptor_at(1).0
    }
    vec![
        ("address 0", |q, t| address(q, t, 0), OUTSIDE),
        ("length 4 GiB - 1", |q, t| len(q, t, u32::MAX), OUTSIDE),
        match flow {
            WRITE => ("to be read", |q, t| flags(q, t + 16, 0), DIRECTION),
            _ => ("to be written", |q, t| flags(q, t + 16, WRITE), DIRECTION),
        },
        (
            "table in a table",
            |q, t| flags(q, t + 16, INDIRECT),
            table_fault(IndirectDefect::Nested),
        ),
        ("table with a next", |q, _| flags(q, head(q), AVAIL | INDIRECT | NEXT), {
            table_fault(IndirectDefect::Chained)
        }),
        ("no octets", |q, _| len(q, head(q), 0), table_fault(IndirectDefect::BadLength)),
        ("8 octets", |q, _| len(q, head(q), 8), table_fault(IndirectDefect::BadLength)),
        ("47 octets", |q, _| len(q, head(q), 47), table_fault(IndirectDefect::BadLength)),
        ("1025 entries", |q, _| len(q, head(q), 1025 * 16), table_fault(IndirectDefect::BadLength)),
        ("4 GiB", |q, _| len(q, head(q), 0xffff_fff0), table_fault(IndirectDefect::BadLength)),
        ("table at 0", |q, _| address(q, head(q), 0), table_fault(IndirectDefect::Outside)),
        ("table beyond a region", |q, _| address(q, head(q), 0x1_003f_fff0), {
            table_fault(IndirectDefect::Outside)
        }),
    ]
}

/// The variant, and the defect where there is one.
fn kind(fault: RingFault) -> (Discriminant<RingFault>, Option<IndirectDefect>) {
    match fault {
        RingFault::IndirectTable { defect, .. } => (discriminant(&fault), Some(defect)),
        _ => (discriminant(&fault), None),
    }
}

/// The first descriptor of a buffer, or of its table.
fn first(queue: &PackedQueue, head: u16) -> u64 {
    queue.table_at(head).unwrap_or(queue.descriptor_at(queue.slot_of(head))).0
}

#[test]
fn each_change_to_an_output_ring_is_found_and_named() {
    for (table, changes) in [(None, plain_changes(0)), (Some(0), table_changes(0))] {
        for (name, change, expected) in changes {
            let features = QueueFeatures { indirect: table.is_some(), ..PLAIN };
            let (mut driver, mut device) = tx(SIZE, features);
            let mut room = [0; 200];
            // One frame that is in order, taken and not given back; then the one that is spoiled.
            let shape = Shape { cuts: &[12, 50], table };
            driver.send(&HEADER, &frame(0, 100), shape).unwrap();
            driver.queue.expose();
            device.copy_next(&mut room).unwrap().unwrap();
            let head = driver.send(&HEADER, &frame(1, 100), shape).unwrap();
            driver.queue.expose();
            change(&driver.queue, first(&driver.queue, head));
            for _ in 0..2 {
                let fault = device.copy_next(&mut room).unwrap_err();
                assert_eq!(kind(fault), kind(expected), "{name}: {fault}");
            }
            assert_eq!(device.outstanding(), 1, "{name}: nothing was taken");
            assert!(device.complete().unwrap(), "{name}: what was taken can be given back");
        }
    }
}

#[test]
fn each_change_to_an_input_ring_is_found_and_named() {
    for mergeable in [false, true] {
        for (table, changes) in [(None, plain_changes(WRITE)), (Some(0), table_changes(WRITE))] {
            for (name, change, expected) in changes {
                let features = QueueFeatures { indirect: table.is_some(), mergeable, ..PLAIN };
                let (mut driver, mut device) = rx(SIZE, features);
                let shape = Shape { cuts: &[12, 50], table };
                driver.post(112, shape).unwrap();
                driver.queue.expose();
                let sent = frame(0, 100);
                assert_eq!(device.deliver(&HEADER, &[&sent]).unwrap(), Delivered::Written);
                let head = driver.post(112, shape).unwrap();
                driver.queue.expose();
                change(&driver.queue, first(&driver.queue, head));
                // Larger than the chain, so that all of it is looked at.
                let fault = device.deliver(&HEADER, &[&frame(1, 2000)]).unwrap_err();
                assert_eq!(kind(fault), kind(expected), "{name}: {fault}");
                assert_eq!(device.outstanding(), 1, "{name}: nothing was taken");
                assert!(device.publish().unwrap(), "{name}: what was written can be published");
            }
        }
    }
}

#[test]
fn a_head_that_is_not_available_is_nothing() {
    for word in [0, USED, AVAIL | USED, NEXT, USED | NEXT | INDIRECT] {
        let (mut driver, mut device) = tx(SIZE, PLAIN);
        let head = driver.send(&HEADER, &[7; 60], Shape::default()).unwrap();
        driver.queue.expose();
        flags(&driver.queue, first(&driver.queue, head), word);
        assert_eq!(device.copy_next(&mut [0; 100]), Ok(None), "{word:#x}");
        assert_eq!(device.foresee(4), Ok(0));
        assert_eq!(copy_one(&mut device, &mut [0; 100], 26), None);
        assert_eq!(device.skip_next(), Ok(false));
        assert_eq!(device.arm(), Ok(false));
    }
}

#[test]
fn the_buffer_id_is_given_back_whatever_it_is() {
    let (mut driver, mut device) = tx(SIZE, PLAIN);
    let head = driver.send(&HEADER, &[7; 60], Shape::default()).unwrap();
    let at = first(&driver.queue, head);
    driver.queue.expose();
    put(&driver.queue, at + 12, &0xabcd_u16.to_le_bytes());
    device.copy_next(&mut [0; 100]).unwrap().unwrap();
    device.complete().unwrap();
    let mut rest = [0; 8];
    driver.queue.memory().read(GuestAddress(at + 8), &mut rest);
    assert_eq!(rest, [0, 0, 0, 0, 0xcd, 0xab, 0x80, 0x80]);
}

#[test]
fn each_wrong_layout_is_refused_with_the_value_that_is_wrong() {
    let queue = ring_at(SIZE, RICH, 0x8000);
    let memory = queue.memory().share();
    let good = queue.layout();
    let refuse = |layout: QueueLayout, part, value, defect| {
        let expected = RingFault::Layout { part, value, defect };
        assert_eq!(TxQueue::resume(memory.clone(), layout, RICH).err(), Some(expected));
        assert_eq!(RxQueue::resume(memory.clone(), layout, RICH).err(), Some(expected));
    };
    for size in [0, 0x8001, 0xffff] {
        let layout = QueueLayout { size, ..good };
        refuse(layout, LayoutPart::Size, u64::from(size), LayoutDefect::NotAPackedSize);
    }
    let places = |last: u64| [0, 0xc0_1000, 1 << 40, !0xf, 0x1_0040_0000 - last, 0x80_1000 - last];
    for at in places(0xf0) {
        let layout = QueueLayout { desc: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Desc, at, LayoutDefect::Outside);
    }
    for at in places(2) {
        let layout = QueueLayout { avail: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Avail, at, LayoutDefect::Outside);
        let layout = QueueLayout { used: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Used, at, LayoutDefect::Outside);
    }
    let at = good.desc.0 + 8;
    let layout = QueueLayout { desc: GuestAddress(at), ..good };
    refuse(layout, LayoutPart::Desc, at, LayoutDefect::Misaligned);
    for skew in [1, 2] {
        let at = good.avail.0 + skew;
        let layout = QueueLayout { avail: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Avail, at, LayoutDefect::Misaligned);
    }
}

#[test]
fn a_place_that_the_ring_does_not_have_is_refused() {
    let queue = ring_at(SIZE, PLAIN, 0x8000);
    for word in [SIZE, 0x8000 | SIZE, u16::MAX] {
        let journal = Box::new(Notebook::new(Some(Intent::resting(word, 0))));
        let memory = queue.memory().share();
        let fault = TxQueue::resume_packed(memory, queue.layout(), PLAIN, journal).err();
        let (part, value) = (LayoutPart::Base, u64::from(word));
        assert_eq!(fault, Some(RingFault::Layout { part, value, defect: LayoutDefect::Beyond }));
    }
}

#[test]
fn a_journal_that_contradicts_the_ring_is_named() {
    let place = |slot: u16| 0x8000 | slot;
    for (name, from, to) in [
        ("more than the ring has", place(1), place(0)),
        ("in the middle of a chain", place(0), place(2)),
    ] {
        let mut driver = DriverTx::over(ring_at(SIZE, PLAIN, 0x8000), 0x100);
        driver.send(&HEADER, &frame(0, 60), Shape { cuts: &[12, 20], table: None }).unwrap();
        driver.queue.expose();
        let journal = Box::new(Notebook::new(Some(Intent { from, to, first: 0, buffers: 1 })));
        let (memory, layout) = (driver.queue.memory().share(), driver.queue.layout());
        let fault = TxQueue::resume_packed(memory, layout, PLAIN, journal).err();
        assert_eq!(fault, Some(RingFault::Publication { from, to }), "{name}");
    }
}

#[test]
fn chains_of_empty_buffers_cannot_make_one_frame_cost_more_than_its_budget() {
    const LARGE: u16 = 0x8000;
    let features = QueueFeatures { mergeable: true, ..PLAIN };
    let mut queue = ring_at(LARGE, features, 0x8000);
    let mut device = resume_rx(&queue);
    let empty = Buffer { address: GuestAddress(0), len: 0 };
    queue.add(&vec![empty; 5000], true, None).unwrap();
    queue.expose();
    let fault = device.deliver(&HEADER, &[&[0; 60]]).unwrap_err();
    assert_eq!(fault, RingFault::ChainLoop { limit: 2048 });
    // To look ahead costs less than that.
    assert_eq!(device.foresee_chains(4), Ok(()));
}

#[test]
fn a_wish_for_a_place_that_the_ring_does_not_have_is_a_wish_for_all() {
    let features = QueueFeatures { event_idx: true, ..PLAIN };
    let (mut driver, mut device) = tx(SIZE, features);
    for _ in 0..3 {
        driver.send(&HEADER, &[7; 60], Shape::default()).unwrap();
        driver.queue.expose();
        let at = driver.queue.driver_event_at();
        let word = u32::from(SIZE) | 2 << 16;
        driver.queue.memory().u32_at(at).store(word, Ordering::Relaxed);
        device.copy_next(&mut [0; 100]).unwrap().unwrap();
        assert!(device.complete().unwrap());
    }
}

/// Takes all that there is, by stretches as far as they go. The frames, and where the ring stands then.
fn take_all(device: &mut TxQueue) -> (usize, u32) {
    let (mut room, mut frames) = ([0; 2000], 0);
    loop {
        let mut rooms: Vec<&mut [u8]> = room.chunks_mut(100).collect();
        let mut slots = Rooms { rooms: &mut rooms, filled: vec![] };
        device.copy_stretch(26, &mut slots);
        frames += slots.filled.len();
        if device.copy_next(&mut [0; 2000]).unwrap().is_none() {
            device.complete().unwrap();
            return (frames, device.base() & 0xffff);
        }
        frames += 1;
    }
}

#[test]
fn a_chain_that_grows_after_it_was_foreseen_takes_no_more_than_the_ring_has() {
    // One lap later.
    const WHOLE: u32 = 0;
    // A pair, and single ones up to the end: the pair becomes a chain of all but the last.
    let (mut driver, mut device) = tx(SIZE, PLAIN);
    let shape = Shape { cuts: &[12], table: None };
    let head = driver.send(&HEADER, &[7; 60], shape).unwrap();
    while driver.send(&HEADER, &[7; 60], Shape::default()).is_some() {}
    driver.queue.expose();
    assert_eq!(device.foresee(SIZE), Ok(SIZE - 1));
    for slot in 1..SIZE - 2 {
        flags(&driver.queue, first(&driver.queue, head) + 16 * u64::from(slot), AVAIL | NEXT);
    }
    assert_eq!(take_all(&mut device), (2, WHOLE));

    // An empty buffer before single ones becomes a pair with the next one.
    let (mut driver, mut device) = tx(SIZE, PLAIN);
    let head = driver.send(&HEADER, &[7; 60], Shape::default()).unwrap();
    while driver.send(&HEADER, &[7; 60], Shape::default()).is_some() {}
    let at = first(&driver.queue, head);
    driver.queue.expose();
    len(&driver.queue, at, 0);
    assert_eq!(device.foresee(SIZE), Ok(SIZE));
    len(&driver.queue, at, 12);
    flags(&driver.queue, at, AVAIL | NEXT);
    assert_eq!(take_all(&mut device), (usize::from(SIZE) - 1, WHOLE));

    // The same of an input queue.
    let mut driver = DriverRx::over(ring_at(SIZE, PLAIN, START), 0x400);
    let mut device = resume_rx(&driver.queue);
    let head = driver.post(300, Shape { cuts: &[12], table: None }).unwrap();
    while driver.post(300, Shape::default()).is_some() {}
    driver.queue.expose();
    device.foresee_chains(SIZE).unwrap();
    device.foresee_buffers(SIZE);
    for slot in 1..SIZE - 2 {
        let at = first(&driver.queue, head) + 16 * u64::from(slot);
        flags(&driver.queue, at, AVAIL | NEXT | WRITE);
    }
    let (mut frames, mut refused) = (0, false);
    while !refused {
        while deliver_one(&mut device, &[0; 26], &[1; 50]) {
            frames += 1;
        }
        refused = device.deliver(&HEADER, &[&[1; 60]]) != Ok(Delivered::Written);
        frames += usize::from(!refused);
    }
    device.publish().unwrap();
    assert_eq!((frames, device.base() & 0xffff), (2, WHOLE));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Guard pages and bounded loops are what this test relies on: any over-read is fatal.
    #[test]
    fn any_octets_anywhere_in_a_ring_do_no_more_than_break_it(
        shape in prop::collection::vec(0_usize..90, 0..5),
        table in prop::option::of(0_usize..3),
        seed in any::<u16>(),
        spoils in prop::collection::vec((0_u8..4, any::<prop::sample::Index>(), any::<u8>()), 1..6),
        intent in any::<[u16; 4]>(),
    ) {
        let mut out = DriverTx::over(ring_at(SIZE, RICH, seed), 0x400);
        let mut into = DriverRx::over(ring_at(SIZE, RICH, seed), 0x400);
        let (mut tx, mut rx) = (resume_tx(&out.queue), resume_rx(&into.queue));
        let shape = Shape { cuts: &shape, table };
        while out.send(&HEADER, &frame(1, 400), shape).is_some() {}
        while into.post(300, shape).is_some() {}
        out.queue.expose();
        into.queue.expose();
        for queue in [&out.queue, &into.queue] {
            for (part, index, value) in &spoils {
                let (at, len) = match part {
                    0 => (queue.driver_event_at(), 4),
                    1 => match queue.table_at(0) {
                        Some(at) => (at, 16),
                        None => continue,
                    },
                    _ => (queue.layout().desc, 16 * usize::from(SIZE)),
                };
                put(queue, at.0 + index.index(len) as u64, &[*value]);
            }
        }
        let mut room = [0; 500];
        let _ = tx.foresee(8).map(|_| copy_one(&mut tx, &mut room, 26));
        for _ in 0..40 {
            match tx.copy_next(&mut room) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let _ = (tx.complete(), tx.arm());
        for _ in 0..40 {
            match rx.deliver(&HEADER, &[&room]) {
                Ok(Delivered::Written) => {}
                _ => break,
            }
        }
        let _ = (rx.publish(), rx.arm());
        // Whatever the journal says, too.
        let [from, to, first, buffers] = intent;
        for mask in [u16::MAX, 0x801f] {
            let intent = Intent { from: from & mask, to: to & mask, first, buffers };
            let journal = || Box::new(Notebook::new(Some(intent)));
            let (memory, layout) = (out.queue.memory().share(), out.queue.layout());
            let _ = TxQueue::resume_packed(memory, layout, RICH, journal());
            let (memory, layout) = (into.queue.memory().share(), into.queue.layout());
            let _ = RxQueue::resume_packed(memory, layout, RICH, journal());
        }
    }
}
