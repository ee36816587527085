//! When each side wakes the other: by flags and by event indices.

use super::*;
use crate::driver::Shape;

fn send(driver: &mut DriverTx) -> bool {
    driver.send(&HEADER, &[0; 60], Shape::default()).unwrap();
    driver.queue.expose()
}

fn carry(device: &mut TxQueue, count: usize) -> bool {
    for _ in 0..count {
        device.copy_next(&mut [0; 100]).unwrap().unwrap();
    }
    device.complete().unwrap()
}

#[test]
fn with_flags_the_driver_is_notified_unless_it_asks_not_to_be() {
    let (mut driver, mut device) = tx(8, PLAIN);
    for wish in [true, true, false, false, true] {
        if wish {
            driver.queue.arm();
        } else {
            driver.queue.disarm();
        }
        send(&mut driver);
        let first = device.next_index() == 0;
        assert_eq!(carry(&mut device, 1), wish || first);
        driver.reclaim();
    }
}

#[test]
fn with_flags_the_device_is_kicked_only_when_armed() {
    let (mut driver, mut device) = tx(8, PLAIN);
    assert!(!send(&mut driver), "a fresh queue wants no kick before it is armed");
    assert!(device.arm().unwrap(), "a frame is there");
    carry(&mut device, 1);
    assert!(!device.arm().unwrap());
    assert!(send(&mut driver));
    device.disarm();
    assert!(!send(&mut driver));
}

#[test]
fn with_event_index_the_device_is_kicked_once_per_arming() {
    let features = QueueFeatures { event_idx: true, ..PLAIN };
    let (mut driver, mut device) = tx(8, features);
    assert!(!device.arm().unwrap());
    assert!(send(&mut driver), "armed: the first frame kicks");
    assert!(!send(&mut driver), "not armed again: the second does not");
    carry(&mut device, 2);
    assert!(!send(&mut driver));
    assert!(device.arm().unwrap(), "arming finds the frame that did not kick");
    carry(&mut device, 1);
    assert!(!device.arm().unwrap());
    assert!(send(&mut driver));
}

#[test]
fn with_event_index_the_driver_is_notified_when_its_index_is_passed() {
    let features = QueueFeatures { event_idx: true, ..PLAIN };
    let (mut driver, mut device) = tx(8, features);
    driver.queue.disarm();
    send(&mut driver);
    assert!(carry(&mut device, 1), "the first publication notifies always");
    driver.reclaim();
    send(&mut driver);
    assert!(!carry(&mut device, 1), "not asked for");
    driver.reclaim();
    driver.queue.arm();
    for _ in 0..3 {
        send(&mut driver);
    }
    assert!(carry(&mut device, 1), "the next one was asked for");
    assert!(!carry(&mut device, 2), "and it is told once");
    assert!(driver.queue.arm(), "arming finds what was not told");
    driver.reclaim();
    // An index further ahead: after three more.
    driver.queue.arm_after(3);
    for _ in 0..4 {
        send(&mut driver);
    }
    assert!(!carry(&mut device, 2));
    assert!(carry(&mut device, 2), "passed in the middle of a batch");
}

#[test]
fn event_indices_wrap_around() {
    let features = QueueFeatures { event_idx: true, ..PLAIN };
    let mut driver = DriverTx::over(ring_at(8, features, 0xfff8), 0x100);
    let mut device = resume_tx(&driver.queue);
    for round in 0..20 {
        assert!(!device.arm().unwrap());
        driver.queue.arm();
        assert!(send(&mut driver), "round {round}");
        assert!(!send(&mut driver), "round {round}");
        assert!(carry(&mut device, 2), "round {round}");
        assert_eq!(driver.reclaim(), 2);
    }
}

#[test]
fn a_successor_notifies_the_driver_at_its_first_publication() {
    let features = QueueFeatures { event_idx: true, ..PLAIN };
    let (mut driver, mut device) = tx(8, features);
    send(&mut driver);
    carry(&mut device, 1);
    driver.queue.disarm();
    send(&mut driver);
    assert!(!carry(&mut device, 1));
    let mut device = resume_tx(&driver.queue);
    send(&mut driver);
    assert!(carry(&mut device, 1));
}

#[test]
fn an_input_queue_asks_for_no_kicks_unless_armed() {
    let (mut driver, mut device) = rx(8, PLAIN);
    driver.post(100, Shape::default()).unwrap();
    assert!(!driver.queue.expose());
    assert!(device.arm().unwrap());
    driver.post(100, Shape::default()).unwrap();
    assert!(driver.queue.expose());
    device.disarm();
    driver.post(100, Shape::default()).unwrap();
    assert!(!driver.queue.expose());
}
