//! The input queue and a well-behaved driver: what it gets, when it sees it, what does not fit.

use super::*;
use crate::Delivered;
use crate::driver::Shape;

fn receive(driver: &mut DriverRx) -> Option<(NetHeader, Vec<u8>)> {
    let mut frame = Vec::new();
    let header = driver.receive(&mut frame)?;
    Some((header, frame))
}

fn one(buffers: u16) -> NetHeader {
    NetHeader { num_buffers: buffers, ..HEADER }
}

const MERGEABLE: QueueFeatures = QueueFeatures { mergeable: true, ..PLAIN };

#[test]
fn a_frame_is_seen_after_publication_and_not_before() {
    let (mut driver, mut device) = rx(8, PLAIN);
    driver.fill(2000);
    driver.queue.expose();
    let sent = frame(1, 100);
    let parts: [&[u8]; 3] = [&sent[..14], &[], &sent[14..]];
    assert_eq!(device.deliver(&HEADER, &parts).unwrap(), Delivered::Written);
    assert_eq!(device.outstanding(), 1);
    assert_eq!(receive(&mut driver), None);
    assert!(device.publish().unwrap());
    assert_eq!(receive(&mut driver), Some((one(1), sent)));
}

#[test]
fn without_buffers_there_is_no_buffer() {
    let (mut driver, mut device) = rx(8, PLAIN);
    assert_eq!(device.deliver(&HEADER, &[&[1; 60]]).unwrap(), Delivered::NoBuffer);
    assert!(!device.publish().unwrap());
    driver.fill(2000);
    driver.queue.expose();
    assert_eq!(device.available().unwrap(), 8);
    for _ in 0..8 {
        assert_eq!(device.deliver(&HEADER, &[&[1; 60]]).unwrap(), Delivered::Written);
    }
    assert_eq!(device.deliver(&HEADER, &[&[1; 60]]).unwrap(), Delivered::NoBuffer);
}

#[test]
fn any_layout_of_the_buffer_gets_the_same_octets() {
    let sent = frame(4, 500);
    let shapes: &[&[usize]] =
        &[&[], &[12], &[10], &[11], &[5, 6, 1], &[1; 30], &[0, 12, 0, 100], &[512], &[511, 1]];
    for features in [PLAIN, MERGEABLE, RICH] {
        for cuts in shapes {
            for table in [None, Some(0), Some(1)] {
                if table.is_some() && !features.indirect {
                    continue;
                }
                let (mut driver, mut device) = rx(64, features);
                driver.post(600, Shape { cuts, table }).unwrap();
                driver.queue.expose();
                let delivered = device.deliver(&HEADER, &[&sent[..1], &sent[1..]]).unwrap();
                assert_eq!(delivered, Delivered::Written);
                device.publish().unwrap();
                let got = receive(&mut driver);
                assert_eq!(got, Some((one(1), sent.clone())), "{cuts:?} {table:?}");
            }
        }
    }
}

#[test]
fn a_legacy_header_has_ten_octets() {
    let features = QueueFeatures { header_len: HeaderLen::Short, ..PLAIN };
    let (mut driver, mut device) = rx(8, features);
    driver.post(110, Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&frame(1, 100)]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((HEADER, frame(1, 100))));
}

#[test]
fn a_buffer_that_fits_exactly_is_enough_and_one_octet_less_is_not() {
    let (mut driver, mut device) = rx(8, PLAIN);
    driver.post(111, Shape { cuts: &[50], table: None }).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&frame(1, 100)]).unwrap(), Delivered::TooSmall);
    assert_eq!(device.outstanding(), 0, "the buffer stays for a smaller frame");
    assert_eq!(device.deliver(&HEADER, &[&frame(1, 99)]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(1), frame(1, 99))));
}

#[test]
fn an_empty_buffer_is_too_small() {
    let (mut driver, mut device) = rx(8, PLAIN);
    driver.post(0, Shape { cuts: &[0, 0], table: None }).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&[0; 14]]).unwrap(), Delivered::TooSmall);
}

#[test]
fn a_frame_without_octets_is_a_header() {
    let (mut driver, mut device) = rx(8, PLAIN);
    driver.post(12, Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(1), vec![])));
}

#[test]
fn a_large_frame_takes_as_many_mergeable_buffers_as_it_needs() {
    let (mut driver, mut device) = rx(64, MERGEABLE);
    for _ in 0..64 {
        driver.post(1500, Shape::default()).unwrap();
    }
    driver.queue.expose();
    let large = frame(5, 65_000);
    assert_eq!(
        device.deliver(&HEADER, &[&large[..100], &large[100..]]).unwrap(),
        Delivered::Written
    );
    assert_eq!(device.outstanding(), 44);
    assert_eq!(device.deliver(&HEADER, &[&frame(6, 60)]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(44), large)));
    assert_eq!(receive(&mut driver), Some((one(1), frame(6, 60))));
}

#[test]
fn too_few_mergeable_buffers_leave_the_ring_as_it_was() {
    let (mut driver, mut device) = rx(8, MERGEABLE);
    for _ in 0..3 {
        driver.post(100, Shape::default()).unwrap();
    }
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&frame(1, 300)]).unwrap(), Delivered::NoBuffer);
    assert_eq!(device.outstanding(), 0);
    assert_eq!(device.deliver(&HEADER, &[&frame(2, 100)]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(2), frame(2, 100))));
    driver.post(100, Shape::default()).unwrap();
    driver.post(100, Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&frame(3, 288)]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(3), frame(3, 288))));
}

#[test]
fn the_number_of_buffers_finds_its_place_wherever_the_header_is_cut() {
    for cuts in [&[10][..], &[11], &[12], &[4, 7], &[10, 1, 1], &[0, 11, 0]] {
        let (mut driver, mut device) = rx(64, MERGEABLE);
        for _ in 0..10 {
            driver.post(40, Shape { cuts, table: None }).unwrap();
        }
        driver.queue.expose();
        assert_eq!(device.deliver(&HEADER, &[&frame(1, 100)]).unwrap(), Delivered::Written);
        device.publish().unwrap();
        assert_eq!(receive(&mut driver), Some((one(3), frame(1, 100))), "{cuts:?}");
    }
}

#[test]
fn an_empty_mergeable_buffer_is_used_up_with_no_octets() {
    let (mut driver, mut device) = rx(8, MERGEABLE);
    driver.post(30, Shape::default()).unwrap();
    driver.post(0, Shape { cuts: &[0], table: None }).unwrap();
    driver.post(30, Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&frame(1, 40)]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(3), frame(1, 40))));
}

#[test]
fn what_lies_beyond_the_frame_is_not_written() {
    let (mut driver, mut device) = rx(8, PLAIN);
    let memory = driver.queue.memory().clone();
    let at = memory.allocate(64, 1);
    memory.write(at, &[0xee; 64]);
    driver.queue.add(&[crate::driver::Buffer { address: at, len: 60 }], true, None).unwrap();
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&[0x11; 20]]).unwrap(), Delivered::Written);
    device.publish().unwrap();
    assert_eq!(driver.queue.take_used().unwrap().len, 32);
    let mut after = [0; 64];
    memory.read(at, &mut after);
    assert_eq!(after[12..32], [0x11; 20]);
    assert_eq!(after[32..], [0xee; 32]);
}

#[test]
fn a_buffer_at_the_very_end_of_a_region_is_filled_to_its_last_octet() {
    let memory = memory();
    let mut queue = Queue::new(memory.clone(), 8, PLAIN, START);
    let mut device = resume_rx(&queue);
    for region in 0..3 {
        for len in [12, 13, 14, 76, 1514] {
            let address = memory.last_of(region, len);
            let buffer = crate::driver::Buffer { address, len: len as u32 };
            queue.add(&[buffer], true, None).unwrap();
            queue.expose();
            let sent = frame(2, len as usize - 12);
            assert_eq!(device.deliver(&HEADER, &[&sent]).unwrap(), Delivered::Written);
            device.publish().unwrap();
            assert_eq!(u64::from(queue.take_used().unwrap().len), len);
            let mut got = vec![0; len as usize];
            memory.read(address, &mut got);
            assert_eq!(got[12..], sent);
        }
    }
}

#[test]
fn a_successor_writes_again_what_was_not_published() {
    let (mut driver, mut device) = rx(8, PLAIN);
    driver.fill(2000);
    driver.queue.expose();
    device.deliver(&HEADER, &[&frame(1, 60)]).unwrap();
    device.publish().unwrap();
    device.deliver(&HEADER, &[&frame(2, 60)]).unwrap();
    assert_eq!(device.next_index(), 1);
    drop(device);
    let mut device = resume_rx(&driver.queue);
    device.deliver(&HEADER, &[&frame(2, 60)]).unwrap();
    device.publish().unwrap();
    assert_eq!(receive(&mut driver), Some((one(1), frame(1, 60))));
    assert_eq!(receive(&mut driver), Some((one(1), frame(2, 60))));
    assert_eq!(receive(&mut driver), None);
}
