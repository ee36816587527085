//! The straight way of common frames against the general one, over packed rings of any contents; and a
//! ring at the very end of its memory.

use proptest::prelude::*;

use super::*;
use crate::driver::Shape;
use crate::{Delivered, QueueLayout};

const NOTHING: NetHeader = NetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
};
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

#[test]
fn the_ring_itself_may_end_with_its_region() {
    let memory = memory();
    let layout = QueueLayout {
        size: 13,
        desc: memory.last_of(0, 13 * 16),
        avail: memory.last_of(1, 4),
        used: memory.last_of(2, 4),
    };
    let mut driver = DriverTx::over(PackedQueue::at(memory, layout, RICH, START), 0x100);
    let mut device = resume_tx(&driver.queue);
    for i in 0..100 {
        driver.send(&HEADER, &frame(i, 40), Shape { cuts: &[12], table: None }).unwrap();
        driver.queue.expose();
        assert_eq!(device.copy_next(&mut [0; 100]).unwrap().unwrap().len, 40);
        device.complete().unwrap();
        device.arm().unwrap();
        assert_eq!(driver.reclaim(), 1);
    }
}

/// An address of the test's memory or near its borders, or any other.
fn address() -> impl Strategy<Value = u64> {
    let near = |at: u64| (0..600u64).prop_map(move |d| at.wrapping_sub(300).wrapping_add(d));
    prop_oneof![
        0xf00..0x1000u64,
        near(0x80_1000),
        near(0xc0_1000),
        near(0x1_0040_0000),
        any::<u64>()
    ]
}

/// Flags of a descriptor, mostly of one that is available.
fn flags() -> impl Strategy<Value = u16> {
    let lap =
        prop_oneof![20 => Just(AVAIL), 1 => Just(USED), 1 => Just(0), 1 => Just(AVAIL | USED)];
    (0..8u16, lap).prop_map(|(kind, lap)| kind | lap)
}

proptest! {
    /// What the straight way takes, the general way would have taken, and as the same.
    #[test]
    fn the_straight_way_takes_nothing_that_the_general_way_would_refuse(
        descriptors in prop::collection::vec(
            (address(), prop_oneof![Just(12u32), 0..300u32, any::<u32>()], any::<u16>(), flags()), 8),
        writable: bool,
    ) {
        let queue = ring_at(8, RICH, START);
        let memory = queue.memory().share();
        for (slot, (at, len, id, flags)) in descriptors.into_iter().enumerate() {
            let flags = if writable && flags & 4 == 0 { flags | 2 } else { flags };
            let [l, i, f] = [u64::from(len), u64::from(id) << 32, u64::from(flags) << 48];
            let octets = [at, l | i | f].map(u64::to_le_bytes).concat();
            queue.memory().write(queue.descriptor_at(slot as u16), &octets);
        }
        if writable {
            let mut straight = RxQueue::resume(memory.clone(), queue.layout(), RICH).unwrap();
            let mut general = RxQueue::resume(memory, queue.layout(), RICH).unwrap();
            straight.foresee_chains(4).unwrap();
            straight.foresee_buffers(4);
            while deliver_one(&mut straight, &[0; 26], &[1; 50]) {
                let (head, rest) = (NOTHING, [&[0; 14][..], &[1; 50]].concat());
                prop_assert_eq!(general.deliver(&head, &[&rest]), Ok(Delivered::Written));
                prop_assert_eq!(general.position(), straight.position());
            }
        } else {
            let mut straight = TxQueue::resume(memory.clone(), queue.layout(), RICH).unwrap();
            let mut general = TxQueue::resume(memory, queue.layout(), RICH).unwrap();
            let _ = straight.foresee(8).unwrap();
            let (mut a, mut b) = ([0; 300], [0; 300]);
            while let Some(len) = copy_one(&mut straight, &mut a, 26) {
                let taken = general.copy_next(&mut b).unwrap().unwrap();
                prop_assert_eq!(taken.len + 12, len);
                prop_assert_eq!(&taken.header.to_bytes()[..], &a[..12]);
                prop_assert_eq!(&b[..taken.len], &a[12..len]);
                prop_assert_eq!(general.effort(), straight.effort());
            }
        }
    }
}

#[test]
fn a_shrunk_region_stops_a_packed_queue_by_name() {
    const PAGE: u64 = 0x1000;
    crate::sigbus::install().unwrap();
    // The ring in the second region, buffers in both; one of them goes.
    for lost in [0, 1] {
        let regions = [(0, 64 * PAGE), (1 << 32, 64 * PAGE)];
        let memory = DriverMemory::new(&regions).unwrap();
        let place = |len, align| memory.allocate_in(1, len, align).unwrap();
        let layout = QueueLayout {
            size: 16,
            desc: place(16 * 16, 16),
            avail: place(4, 4),
            used: place(4, 4),
        };
        let mut driver = DriverTx::over(PackedQueue::at(memory, layout, PLAIN, START), 0x100);
        let shared = driver.queue.memory().share();
        let mut device = driver.queue.resume_tx(shared.clone()).unwrap();
        for i in 0..3 {
            driver.send(&HEADER, &frame(i, 60), Shape::default()).unwrap();
        }
        driver.queue.expose();
        device.copy_next(&mut [0; 100]).unwrap().unwrap();
        driver.queue.memory().resize(lost, 0).unwrap();
        let torn = RingFault::MemoryTorn { guest: regions[lost].0 };
        assert_eq!(device.copy_next(&mut [0; 100]), Err(torn));
        assert_eq!(device.complete(), Err(torn));
        assert_eq!(device.arm(), Err(torn));
        assert_eq!(device.available(), Err(torn));
        let again = driver.queue.resume_tx(shared);
        assert_eq!(again.err(), Some(torn), "one that is torn already does not start");
    }
}
