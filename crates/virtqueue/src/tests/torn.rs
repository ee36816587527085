//! Memory that is taken away under a running queue.

use super::split::{PLAIN, tx};
use super::*;
use crate::driver::Shape;
use crate::{Delivered, RingFault, sigbus};

const PAGE: u64 = 0x1000;

/// A ring in the second region, buffers in both.
fn split_memory() -> DriverQueue {
    let memory = DriverMemory::new(&[(0, 64 * PAGE), (1 << 32, 64 * PAGE)]).unwrap();
    let place = |len, align| memory.allocate_in(1, len, align).unwrap();
    let layout = crate::QueueLayout {
        size: 16,
        desc: place(16 * 16, 16),
        avail: place(6 + 2 * 16, 2),
        used: place(6 + 8 * 16, 4),
    };
    DriverQueue::at(memory, layout, PLAIN, 0)
}

#[test]
fn a_shrunk_data_region_stops_the_queue_by_name_and_no_other() {
    sigbus::install().unwrap();
    let (mut neighbor, mut neighbors) = tx(16, PLAIN);
    let mut driver = DriverTx::over(split_memory(), 0x100);
    let memory = driver.queue.memory().share();
    let mut device = TxQueue::resume(memory.clone(), driver.queue.layout(), PLAIN).unwrap();
    for i in 0..3 {
        driver.send(&HEADER, &frame(i, 60), Shape::default()).unwrap();
    }
    driver.queue.expose();
    let mut room = [0; 100];
    device.copy_next(&mut room).unwrap().unwrap();
    assert!(memory.torn().is_none());

    driver.queue.memory().resize(0, 0).unwrap();
    let torn = RingFault::MemoryTorn { guest: 0 };
    // The copy that meets the hole gives zeroes, and they are not taken for a frame.
    assert_eq!(device.copy_next(&mut room), Err(torn));
    assert_eq!(room[..60], [0; 60]);
    assert_eq!(device.copy_next(&mut room), Err(torn));
    assert_eq!(device.complete(), Err(torn));
    assert_eq!(device.arm(), Err(torn));
    assert_eq!(memory.torn().unwrap().guest.0, 0);

    neighbor.send(&HEADER, &frame(1, 60), Shape::default()).unwrap();
    neighbor.queue.expose();
    assert_eq!(neighbors.copy_next(&mut room).unwrap().unwrap().len, 60);
    assert_eq!(room[..60], frame(1, 60));
    neighbors.complete().unwrap();
}

#[test]
fn a_shrunk_ring_region_is_called_torn_whatever_the_zeroes_look_like() {
    sigbus::install().unwrap();
    let mut driver = DriverTx::over(split_memory(), 0x100);
    let layout = driver.queue.layout();
    let mut device = TxQueue::resume(driver.queue.memory().share(), layout, PLAIN).unwrap();
    for i in 0..3 {
        driver.send(&HEADER, &frame(i, 60), Shape::default()).unwrap();
    }
    driver.queue.expose();
    device.copy_next(&mut [0; 100]).unwrap().unwrap();
    device.complete().unwrap();
    driver.queue.memory().resize(1, 0).unwrap();
    let torn = RingFault::MemoryTorn { guest: 1 << 32 };
    assert_eq!(device.copy_next(&mut [0; 100]), Err(torn));
    assert_eq!(device.complete(), Err(torn));
}

#[test]
fn a_shrunk_region_stops_an_input_queue() {
    sigbus::install().unwrap();
    let mut driver = DriverRx::over(split_memory(), 0x100);
    let layout = driver.queue.layout();
    let mut device = RxQueue::resume(driver.queue.memory().share(), layout, PLAIN).unwrap();
    driver.fill(0x100);
    driver.queue.expose();
    assert_eq!(device.deliver(&HEADER, &[&[1; 60]]).unwrap(), Delivered::Written);
    driver.queue.memory().resize(0, 0).unwrap();
    let torn = RingFault::MemoryTorn { guest: 0 };
    let met = device.deliver(&HEADER, &[&[1; 60]]);
    assert!(met.is_ok() || met == Err(torn), "{met:?}");
    assert_eq!(device.publish(), Err(torn));
    assert_eq!(device.available(), Err(torn));
}

#[test]
fn a_queue_over_memory_that_is_torn_already_does_not_start() {
    sigbus::install().unwrap();
    let driver = split_memory();
    let memory = driver.memory().share();
    driver.memory().resize(1, 0).unwrap();
    let torn = Some(RingFault::MemoryTorn { guest: 1 << 32 });
    assert_eq!(TxQueue::resume(memory.clone(), driver.layout(), PLAIN).err(), torn);
    assert_eq!(TxQueue::resume(memory, driver.layout(), PLAIN).err(), torn);
}

#[test]
fn only_what_is_lost_reads_as_zeroes() {
    sigbus::install().unwrap();
    let memory = DriverMemory::new(&[(0, 16 * PAGE)]).unwrap();
    let device = memory.share();
    for page in 0..16 {
        memory.write(crate::GuestAddress(page * PAGE), &[page as u8 + 1; 8]);
    }
    memory.resize(0, 10 * PAGE).unwrap();
    let mapping = &device.regions()[0].mapping;
    for page in 0..16 {
        let mut octets = [0xff; 8];
        mapping.read((page * PAGE) as usize, &mut octets).unwrap();
        let expected = if page < 10 { page as u8 + 1 } else { 0 };
        assert_eq!(octets, [expected; 8]);
        assert_eq!(mapping.is_torn(), page >= 10);
    }
    // What is left is still shared, what was lost is private, and a write there is kept.
    mapping.write(0, &[0xaa]).unwrap();
    mapping.write((12 * PAGE) as usize, &[0xbb]).unwrap();
    memory.resize(0, 16 * PAGE).unwrap();
    let mut octet = [0];
    memory.read(crate::GuestAddress(0), &mut octet);
    assert_eq!(octet, [0xaa]);
    memory.read(crate::GuestAddress(12 * PAGE), &mut octet);
    assert_eq!(octet, [0]);
}

/// Pieces that this process's address space is made of.
fn pieces() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn a_chain_all_over_what_is_lost_does_not_cut_the_mapping_into_as_many_pieces() {
    sigbus::install().unwrap();
    const PAGES: u64 = 4096;
    let memory = DriverMemory::new(&[(0, PAGES * PAGE)]).unwrap();
    let device = memory.share();
    memory.resize(0, PAGE).unwrap();
    let mapping = &device.regions()[0].mapping;
    let before = pieces();
    // From the end, so that every second page is met by itself.
    for page in (1..PAGES).rev().step_by(2) {
        let mut octet = [7];
        mapping.read((page * PAGE) as usize, &mut octet).unwrap();
        assert_eq!(octet, [0]);
    }
    assert!(mapping.is_torn());
    // Other tests of this process make and lose mappings meanwhile.
    let more = pieces().saturating_sub(before);
    assert!(more < PAGES as usize / 8, "{more} pieces more");
}

#[test]
fn a_new_mapping_is_whole_even_where_a_torn_one_was() {
    sigbus::install().unwrap();
    for _ in 0..100 {
        let memory = DriverMemory::new(&[(0, PAGE)]).unwrap();
        let device = memory.share();
        assert!(device.torn().is_none());
        memory.resize(0, 0).unwrap();
        device.regions()[0].mapping.read(0, &mut [0; 8]).unwrap();
        assert!(device.torn().is_some());
    }
}

/// Runs this test binary again for one test that is to die, and gives the signal it died of.
fn dies_of(test: &str) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("VIRTQUEUE_TEST_DIES", "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    status.unwrap().signal()
}

fn is_the_one_to_die() -> bool {
    std::env::var_os("VIRTQUEUE_TEST_DIES").is_some()
}

#[test]
fn a_bus_error_elsewhere_still_ends_the_process() {
    if !is_the_one_to_die() {
        let name = "tests::torn::a_bus_error_elsewhere_still_ends_the_process";
        assert_eq!(dies_of(name), Some(libc::SIGBUS));
        return;
    }
    sigbus::install().unwrap();
    let file = rustix::fs::memfd_create("other", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let prot = rustix::mm::ProtFlags::READ;
    let flags = rustix::mm::MapFlags::SHARED;
    // SAFETY: a new mapping of one page that nothing refers to; reading it is meant to fault.
    unsafe {
        let at = rustix::mm::mmap(std::ptr::null_mut(), 0x1000, prot, flags, &file, 0).unwrap();
        at.cast::<u8>().read_volatile();
    }
}

#[test]
fn a_step_beside_a_mapping_ends_the_process() {
    if !is_the_one_to_die() {
        let name = "tests::torn::a_step_beside_a_mapping_ends_the_process";
        assert_eq!(dies_of(name), Some(libc::SIGSEGV));
        return;
    }
    let memory = DriverMemory::new(&[(0, PAGE)]).unwrap().share();
    let piece = memory.regions()[0].mapping.piece(0, PAGE as usize).unwrap();
    // SAFETY: none: the octet after the mapping lies in its guard page, and the read is meant to
    // fault.
    unsafe { piece.start().add(PAGE as usize).read_volatile() };
}
