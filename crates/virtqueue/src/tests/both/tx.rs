//! The output queue and a well-behaved driver: every layout of a chain, and when buffers go back.

use super::*;
use crate::driver::Shape;

fn next(device: &mut TxQueue) -> Option<(NetHeader, Vec<u8>)> {
    let mut room = vec![0; 0x1_0000];
    let taken = device.copy_next(&mut room).unwrap()?;
    room.truncate(taken.len);
    Some((taken.header, room))
}

#[test]
fn an_empty_ring_gives_nothing() {
    let (_driver, mut device) = tx(8, PLAIN);
    assert_eq!(next(&mut device), None);
    assert!(!device.complete().unwrap());
}

#[test]
fn a_frame_in_one_descriptor_comes_out_with_its_header() {
    let (mut driver, mut device) = tx(8, PLAIN);
    driver.send(&HEADER, &frame(1, 60), Shape::default()).unwrap();
    assert_eq!(next(&mut device), None, "taken before the driver showed it");
    driver.queue.expose();
    assert_eq!(next(&mut device), Some((HEADER, frame(1, 60))));
    assert_eq!(next(&mut device), None);
}

#[test]
fn a_buffer_is_given_back_at_completion_and_not_before() {
    let (mut driver, mut device) = tx(8, PLAIN);
    driver.send(&HEADER, &frame(1, 60), Shape::default()).unwrap();
    driver.send(&HEADER, &frame(2, 61), Shape::default()).unwrap();
    driver.queue.expose();
    next(&mut device).unwrap();
    next(&mut device).unwrap();
    assert_eq!(device.outstanding(), 2);
    assert_eq!(driver.reclaim(), 0);
    assert!(device.complete().unwrap());
    assert_eq!(device.outstanding(), 0);
    assert_eq!(driver.reclaim(), 2);
}

#[test]
fn a_buffer_is_left_out_without_a_look_at_what_it_is() {
    let (mut driver, mut device) = tx(8, PLAIN);
    assert!(!device.skip_next().unwrap());
    driver.send(&HEADER, &frame(1, 60), Shape::default()).unwrap();
    driver.send(&HEADER, &frame(2, 61), Shape::default()).unwrap();
    driver.queue.expose();
    assert!(device.skip_next().unwrap());
    assert_eq!(next(&mut device), Some((HEADER, frame(2, 61))));
    assert!(device.complete().unwrap());
    assert_eq!(driver.reclaim(), 2);
}

#[test]
fn any_layout_of_header_and_frame_gives_the_same_octets() {
    let sent = frame(3, 100);
    let shapes: &[&[usize]] = &[
        &[],
        &[12],
        &[5],
        &[5, 7],
        &[1; 40],
        &[11, 2, 30],
        &[12, 0, 50],
        &[0, 0, 12, 14],
        &[112, 0],
        &[13],
    ];
    for features in [PLAIN, RICH] {
        for cuts in shapes {
            for table in [None, Some(0), Some(1), Some(2)] {
                if table.is_some() && !features.indirect {
                    continue;
                }
                let (mut driver, mut device) = tx(64, features);
                driver.send(&HEADER, &sent, Shape { cuts, table }).unwrap();
                driver.queue.expose();
                assert_eq!(next(&mut device), Some((HEADER, sent.clone())), "{cuts:?} {table:?}");
                device.complete().unwrap();
                assert_eq!(driver.reclaim(), 1);
            }
        }
    }
}

#[test]
fn a_legacy_header_has_ten_octets() {
    let features = QueueFeatures { header_len: HeaderLen::Short, ..PLAIN };
    let (mut driver, mut device) = tx(8, features);
    let header = NetHeader { num_buffers: 77, ..HEADER };
    driver.send(&header, &frame(1, 60), Shape { cuts: &[9, 2], table: None }).unwrap();
    driver.queue.expose();
    assert_eq!(next(&mut device), Some((HEADER, frame(1, 60))));
}

#[test]
fn a_frame_longer_than_the_room_is_named_by_its_true_length() {
    let (mut driver, mut device) = tx(8, PLAIN);
    driver.send(&HEADER, &frame(1, 300), Shape { cuts: &[12, 50, 100], table: None }).unwrap();
    driver.queue.expose();
    let mut room = [0; 200];
    let taken = device.copy_next(&mut room).unwrap().unwrap();
    assert_eq!(taken.len, 300);
    assert_eq!(room[..], frame(1, 300)[..200]);
    device.complete().unwrap();
    assert_eq!(driver.reclaim(), 1);
}

#[test]
fn a_header_without_a_frame_is_a_frame_of_no_octets() {
    let (mut driver, mut device) = tx(8, PLAIN);
    driver.send(&HEADER, &[], Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(next(&mut device), Some((HEADER, vec![])));
}

#[test]
fn indices_wrap_around() {
    // Of a packed ring: offset 2, wrap counter 1.
    let queue = ring_at(4, PLAIN, 0xfffe);
    let mut driver = DriverTx::over(queue, 0x100);
    let mut device = resume_tx(&driver.queue);
    let before = device.next_index();
    for round in 0..10 {
        for i in 0..4 {
            driver.send(&HEADER, &frame(round * 4 + i, 20), Shape::default()).unwrap();
        }
        driver.queue.expose();
        for i in 0..4 {
            assert_eq!(next(&mut device), Some((HEADER, frame(round * 4 + i, 20))));
        }
        device.complete().unwrap();
        assert_eq!(driver.reclaim(), 4);
    }
    assert_eq!(device.next_index(), before.wrapping_add(40));
}

#[test]
fn a_successor_takes_again_what_was_not_given_back() {
    let (mut driver, mut device) = tx(8, PLAIN);
    for i in 0..6 {
        driver.send(&HEADER, &frame(i, 40), Shape::default()).unwrap();
    }
    driver.queue.expose();
    for _ in 0..2 {
        next(&mut device).unwrap();
    }
    device.complete().unwrap();
    for _ in 0..3 {
        next(&mut device).unwrap();
    }
    assert_eq!(device.next_index(), 2);
    drop(device);
    let mut device = resume_tx(&driver.queue);
    assert_eq!(device.available().unwrap(), 4);
    for i in 2..6 {
        assert_eq!(next(&mut device), Some((HEADER, frame(i, 40))));
    }
    device.complete().unwrap();
    assert_eq!(driver.reclaim(), 6);
}

#[test]
fn rings_of_the_smallest_and_the_largest_size_work() {
    for size in EXTREMES {
        let mut driver = DriverTx::over(ring_at(size, PLAIN, START), 32);
        let mut device = resume_tx(&driver.queue);
        for i in 0..usize::from(size) {
            driver.send(&HEADER, &frame(i, 16), Shape::default()).unwrap();
        }
        assert_eq!(driver.send(&HEADER, &[], Shape::default()), None, "the ring is full");
        driver.queue.expose();
        let mut room = [0; 16];
        for i in 0..usize::from(size) {
            assert_eq!(device.copy_next(&mut room).unwrap().unwrap().len, 16);
            assert_eq!(room[..], frame(i, 16));
        }
        device.complete().unwrap();
        assert_eq!(driver.reclaim(), usize::from(size));
    }
}

#[test]
fn an_indirect_table_may_be_longer_than_a_small_ring_and_lie_unaligned() {
    let (mut driver, mut device) = tx(2, RICH);
    let sent = frame(1, 100);
    driver.send(&HEADER, &sent, Shape { cuts: &[5; 22], table: Some(0) }).unwrap();
    let head = driver.queue.descriptor_at(0);
    let old = driver.queue.table_at(0).unwrap();
    let mut table = vec![0; 23 * 16];
    driver.queue.memory().read(old, &mut table);
    let moved = driver.queue.memory().allocate(table.len() as u64, 16).0 + 3;
    driver.queue.memory().allocate(16, 1);
    driver.queue.memory().write(crate::GuestAddress(moved), &table);
    driver.queue.memory().write(head, &moved.to_le_bytes());
    driver.queue.expose();
    assert_eq!(next(&mut device), Some((HEADER, sent)));
}

#[test]
fn a_buffer_at_the_very_end_of_a_region_is_read_to_its_last_octet_and_no_further() {
    let memory = memory();
    let mut queue = Queue::new(memory.clone(), 8, PLAIN, START);
    let mut device = resume_tx(&queue);
    for region in 0..3 {
        for len in [12, 13, 14, 76, 1514] {
            let address = memory.last_of(region, len);
            let mut octets = HEADER.to_bytes().to_vec();
            octets.extend(frame(9, len as usize - 12));
            memory.write(address, &octets);
            let buffer = crate::driver::Buffer { address, len: len as u32 };
            queue.add(&[buffer], false, None).unwrap();
            queue.expose();
            assert_eq!(next(&mut device), Some((HEADER, frame(9, len as usize - 12))));
            device.complete().unwrap();
            queue.take_used().unwrap();
        }
    }
}

#[test]
fn the_effort_is_the_descriptors_read_since_the_last_completion() {
    let (mut driver, mut device) = tx(8, PLAIN);
    assert_eq!(device.effort(), 0);
    driver.send(&HEADER, &frame(1, 60), Shape::default()).unwrap();
    driver.send(&HEADER, &frame(2, 60), Shape { cuts: &[5, 7], ..Shape::default() }).unwrap();
    driver.queue.expose();
    next(&mut device).unwrap();
    assert_eq!(device.effort(), 1);
    next(&mut device).unwrap();
    assert_eq!(device.effort(), 4);
    device.complete().unwrap();
    assert_eq!(device.effort(), 0);
}
