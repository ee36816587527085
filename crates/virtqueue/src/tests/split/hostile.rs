//! A valid ring, one change, and the fault it must be called by.

use std::mem::{Discriminant, discriminant};
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::driver::{Buffer, Shape};
use crate::{
    Delivered, GuestAddress, IndirectDefect, LayoutDefect, LayoutPart, QueueLayout, RingFault,
};

const SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn put(queue: &DriverQueue, at: GuestAddress, octets: &[u8]) {
    queue.memory().write(at, octets);
}

fn plus(at: GuestAddress, offset: u64) -> GuestAddress {
    GuestAddress(at.0 + offset)
}

/// One change to a descriptor: address, length, flags or next.
fn address(queue: &DriverQueue, at: GuestAddress, value: u64) {
    put(queue, at, &value.to_le_bytes());
}
fn len(queue: &DriverQueue, at: GuestAddress, value: u32) {
    put(queue, plus(at, 8), &value.to_le_bytes());
}
fn flags(queue: &DriverQueue, at: GuestAddress, value: u16) {
    put(queue, plus(at, 12), &value.to_le_bytes());
}
fn next(queue: &DriverQueue, at: GuestAddress, value: u16) {
    put(queue, plus(at, 14), &value.to_le_bytes());
}

/// What is changed, given the ring and the place of the first descriptor of the chain that is next.
type Change = fn(&DriverQueue, GuestAddress);

/// Changes to a plain chain of three, the head at descriptor `n`, with what must be found.
/// `flow` is the flag that says the direction of the queue.
fn plain_changes(flow: u16) -> Vec<(&'static str, Change, RingFault)> {
    let outside = RingFault::DescriptorAddress { address: 0, len: 0 };
    let avail = RingFault::AvailIndex { found: 0, seen: 0, used: 0, size: 0 };
    let head = RingFault::HeadIndex { head: 0, size: 0 };
    let beyond = RingFault::NextIndex { next: 0, size: 0 };
    let chain_loop = RingFault::ChainLoop { limit: 0 };
    let direction = RingFault::Direction { index: 0, writable: false };
    let indirect = |defect| RingFault::IndirectTable { address: 0, len: 0, defect };
    let mut all: Vec<(&'static str, Change, RingFault)> = vec![
        ("index too far", |q, _| put(q, q.avail_index_at(), &18u16.to_le_bytes()), avail),
        ("index far away", |q, _| put(q, q.avail_index_at(), &0x8000u16.to_le_bytes()), avail),
        ("index went back", |q, _| put(q, q.avail_index_at(), &0u16.to_le_bytes()), avail),
        ("index before zero", |q, _| put(q, q.avail_index_at(), &[0xff, 0xff]), avail),
        ("head = size", |q, _| put(q, q.avail_entry_at(1), &SIZE.to_le_bytes()), head),
        ("head = 65535", |q, _| put(q, q.avail_entry_at(1), &[0xff, 0xff]), head),
        ("next = size", |q, d| next(q, d, SIZE), beyond),
        ("next = 65535", |q, d| next(q, d, 0xffff), beyond),
        ("a loop onto itself", |q, d| next(q, d, 3), chain_loop),
        ("loop of two", |q, d| next(q, plus(d, 16), 3), chain_loop),
        ("address 0", |q, d| address(q, d, 0), outside),
        ("address before a region", |q, d| address(q, d, 0xfff), outside),
        ("address between regions", |q, d| address(q, d, 0xc0_1000), outside),
        ("address near the end of all", |q, d| address(q, d, u64::MAX - 3), outside),
        ("end of a region passed", |q, d| address(q, d, 0x1_0040_0000 - 7), outside),
        ("two touching regions", |q, d| address(q, d, 0x80_1000 - 7), outside),
        ("length 4 GiB - 1", |q, d| len(q, d, u32::MAX), outside),
        ("second address wrong", |q, d| address(q, plus(d, 16), 1 << 40), outside),
        ("table not negotiated", |q, d| flags(q, d, INDIRECT), {
            indirect(IndirectDefect::NotNegotiated)
        }),
    ];
    all.extend(match flow {
        WRITE => [
            ("head to be read", (|q, d| flags(q, d, NEXT)) as Change, direction),
            ("last to be read", |q, d| flags(q, plus(d, 32), 0), direction),
        ],
        _ => [
            ("head to be written", (|q, d| flags(q, d, NEXT | WRITE)) as Change, direction),
            ("last to be written", |q, d| flags(q, plus(d, 32), WRITE), direction),
        ],
    });
    all
}

/// Changes to a chain of one descriptor with an indirect table of three, given the table's place.
fn table_changes(flow: u16) -> Vec<(&'static str, Change, RingFault)> {
    let beyond = RingFault::NextIndex { next: 0, size: 0 };
    let chain_loop = RingFault::ChainLoop { limit: 0 };
    let outside = RingFault::DescriptorAddress { address: 0, len: 0 };
    let direction = RingFault::Direction { index: 0, writable: false };
    let indirect = |defect| RingFault::IndirectTable { address: 0, len: 0, defect };
    let bad_length = indirect(IndirectDefect::BadLength);
    let no_memory = indirect(IndirectDefect::Outside);
    vec![
        ("next = entries", |q, d| next(q, d, 3), beyond),
        ("next = 65535", |q, d| next(q, d, 0xffff), beyond),
        ("a loop", |q, d| next(q, plus(d, 16), 0), chain_loop),
        ("address 0", |q, d| address(q, d, 0), outside),
        ("length 4 GiB - 1", |q, d| len(q, d, u32::MAX), outside),
        match flow {
            WRITE => ("to be read", |q, d| flags(q, d, NEXT), direction),
            _ => ("to be written", |q, d| flags(q, d, NEXT | WRITE), direction),
        },
        ("table in a table", |q, d| flags(q, d, INDIRECT), indirect(IndirectDefect::Nested)),
        ("table with a next", |q, _| flags(q, q.descriptor_at(1), INDIRECT | NEXT), {
            indirect(IndirectDefect::Chained)
        }),
        ("table of no octets", |q, _| len(q, q.descriptor_at(1), 0), bad_length),
        ("table of 8 octets", |q, _| len(q, q.descriptor_at(1), 8), bad_length),
        ("table of 47 octets", |q, _| len(q, q.descriptor_at(1), 47), bad_length),
        ("table of 1025 entries", |q, _| len(q, q.descriptor_at(1), 1025 * 16), bad_length),
        ("table of 4 GiB", |q, _| len(q, q.descriptor_at(1), 0xffff_fff0), bad_length),
        ("table at 0", |q, _| address(q, q.descriptor_at(1), 0), no_memory),
        ("table beyond a region", |q, _| address(q, q.descriptor_at(1), 0x1_003f_fff0), no_memory),
    ]
}

/// The variant, and the defect where there is one.
fn kind(fault: RingFault) -> (Discriminant<RingFault>, Option<IndirectDefect>) {
    match fault {
        RingFault::IndirectTable { defect, .. } => (discriminant(&fault), Some(defect)),
        _ => (discriminant(&fault), None),
    }
}

fn check(name: &str, fault: RingFault, expected: RingFault) {
    assert_eq!(kind(fault), kind(expected), "{name}: {fault}");
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
            let first = driver.queue.table_at(head).unwrap_or(driver.queue.descriptor_at(head));
            change(&driver.queue, first);
            let fault = device.copy_next(&mut room).unwrap_err();
            check(name, fault, expected);
            check(name, device.copy_next(&mut room).unwrap_err(), expected);
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
                let first = driver.queue.table_at(head).unwrap_or(driver.queue.descriptor_at(head));
                change(&driver.queue, first);
                // Larger than the chain, so that all of it is looked at.
                let fault = device.deliver(&HEADER, &[&frame(1, 2000)]).unwrap_err();
                check(name, fault, expected);
                assert_eq!(device.outstanding(), 1, "{name}: nothing was taken");
                assert!(device.publish().unwrap(), "{name}: what was written can be published");
            }
        }
    }
}

#[test]
fn an_output_chain_shorter_than_the_header_is_refused() {
    for (features, lens) in
        [(PLAIN, 0..12), (QueueFeatures { header_len: HeaderLen::Short, ..PLAIN }, 0..10)]
    {
        for len in lens {
            let (mut driver, mut device) = tx(SIZE, features);
            let head = driver.send(&HEADER, &[0; 60], Shape::default()).unwrap();
            driver.queue.expose();
            super::hostile::len(&driver.queue, driver.queue.descriptor_at(head), len);
            let need = features.header_octets();
            let expected = RingFault::ChainTooShort { len: u64::from(len), need };
            assert_eq!(device.copy_next(&mut [0; 100]).unwrap_err(), expected);
        }
    }
}

#[test]
fn an_empty_descriptor_may_have_any_address() {
    let (mut driver, mut device) = tx(SIZE, PLAIN);
    let head = driver.send(&HEADER, &[7; 60], Shape { cuts: &[0, 72], table: None }).unwrap();
    address(&driver.queue, driver.queue.descriptor_at(head), u64::MAX);
    driver.queue.expose();
    assert_eq!(device.copy_next(&mut [0; 100]).unwrap().unwrap().len, 60);
}

#[test]
fn used_and_available_index_must_agree_at_the_start() {
    for (used, avail, fine) in [
        (0, 0, true),
        (0, 16, true),
        (0, 17, false),
        (1, 0, false),
        (0xfff8, 8, true),
        (0xfff8, 9, false),
        (0, 0x8000, false),
    ] {
        let queue = ring_at(SIZE, PLAIN, used);
        put(&queue, queue.avail_index_at(), &u16::to_le_bytes(avail));
        let device = TxQueue::resume(queue.memory().share(), queue.layout(), PLAIN);
        match device {
            Ok(device) => assert!(fine && device.next_index() == used),
            Err(fault) => {
                assert!(!fine);
                assert_eq!(fault, RingFault::UsedIndex { used, avail, size: SIZE });
            }
        }
    }
}

#[test]
fn each_wrong_layout_is_refused_with_the_value_that_is_wrong() {
    let queue = ring_at(SIZE, RICH, 0);
    let memory = queue.memory().share();
    let good = queue.layout();
    assert!(TxQueue::resume(memory.clone(), good, RICH).is_ok());
    let refuse = |layout: QueueLayout, part, value, defect| {
        let expected = RingFault::Layout { part, value, defect };
        assert_eq!(TxQueue::resume(memory.clone(), layout, RICH).err(), Some(expected));
        assert_eq!(RxQueue::resume(memory.clone(), layout, RICH).err(), Some(expected));
    };
    for size in [0, 3, 15, 0x7fff, 0x8001, 0xffff] {
        let layout = QueueLayout { size, ..good };
        refuse(layout, LayoutPart::Size, u64::from(size), LayoutDefect::NotASize);
    }
    let places = |last: u64| [0, 0xc0_1000, 1 << 40, !0xf, 0x1_0040_0000 - last, 0x80_1000 - last];
    for at in places(0xf0) {
        let layout = QueueLayout { desc: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Desc, at, LayoutDefect::Outside);
    }
    for at in places(0x24) {
        let layout = QueueLayout { avail: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Avail, at, LayoutDefect::Outside);
    }
    for at in places(0x84) {
        let layout = QueueLayout { used: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Used, at, LayoutDefect::Outside);
    }
    for skew in [1, 2, 4, 8] {
        let at = good.desc.0 + skew;
        let layout = QueueLayout { desc: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Desc, at, LayoutDefect::Misaligned);
    }
    let at = good.avail.0 + 1;
    let layout = QueueLayout { avail: GuestAddress(at), ..good };
    refuse(layout, LayoutPart::Avail, at, LayoutDefect::Misaligned);
    for skew in [1, 2, 3] {
        let at = good.used.0 + skew;
        let layout = QueueLayout { used: GuestAddress(at), ..good };
        refuse(layout, LayoutPart::Used, at, LayoutDefect::Misaligned);
    }
}

#[test]
fn chains_of_empty_buffers_cannot_make_one_frame_cost_the_square_of_the_ring() {
    const LARGE: u16 = 0x8000;
    let features = QueueFeatures { mergeable: true, ..PLAIN };
    let queue = ring_at(LARGE, features, 0);
    let mut device = RxQueue::resume(queue.memory().share(), queue.layout(), features).unwrap();
    let empty = Buffer { address: GuestAddress(0), len: 0 };
    for i in 0..LARGE {
        let more = if i == LARGE - 1 { 0 } else { NEXT };
        queue.write_descriptor(i, empty, WRITE | more, i + 1);
        put(&queue, queue.avail_entry_at(i), &[0, 0]);
    }
    queue.memory().u16_at(queue.avail_index_at()).store(LARGE, Ordering::Release);
    let fault = device.deliver(&HEADER, &[&[0; 60]]).unwrap_err();
    assert_eq!(fault, RingFault::ChainLoop { limit: 2048 });
}

#[test]
fn a_fault_tells_what_was_found_and_what_was_allowed() {
    let said = RingFault::HeadIndex { head: 300, size: 256 }.to_string();
    assert_eq!(said, "available entry names descriptor 300 of a table of 256");
    let said = RingFault::Direction { index: 2, writable: true }.to_string();
    assert_eq!(said, "descriptor 2 is to be written, in a queue of the other direction");
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
    ) {
        let features = RICH;
        let mut out = DriverTx::over(ring_at(SIZE, features, seed), 0x400);
        let mut into = DriverRx::over(ring_at(SIZE, features, seed), 0x400);
        let mut tx = TxQueue::resume(
            out.queue.memory().share(), out.queue.layout(), features).unwrap();
        let mut rx = RxQueue::resume(
            into.queue.memory().share(), into.queue.layout(), features).unwrap();
        let shape = Shape { cuts: &shape, table };
        while out.send(&HEADER, &frame(1, 400), shape).is_some() {}
        while into.post(300, shape).is_some() {}
        out.queue.expose();
        into.queue.expose();
        for queue in [&out.queue, &into.queue] {
            for (part, index, value) in &spoils {
                let layout = queue.layout();
                let (at, len) = match part {
                    0 => (layout.desc, 16 * usize::from(SIZE)),
                    1 => (layout.avail, 6 + 2 * usize::from(SIZE)),
                    2 => (layout.used, 6 + 8 * usize::from(SIZE)),
                    _ => match queue.table_at(0) {
                        Some(at) => (at, 16),
                        None => continue,
                    },
                };
                put(queue, plus(at, index.index(len) as u64), &[*value]);
            }
        }
        let mut room = [0; 500];
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
    }
}
