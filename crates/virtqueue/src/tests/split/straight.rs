//! The straight way of common frames against the general one, over rings of any contents; and a ring at
//! the very end of its memory.

use proptest::prelude::*;

use super::*;
use crate::driver::{Buffer, Shape};
use crate::{Delivered, GuestAddress};

const NOTHING: NetHeader = NetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
};

#[test]
fn the_ring_itself_may_end_with_its_region() {
    for event_idx in [false, true] {
        let features = QueueFeatures { event_idx, ..PLAIN };
        let memory = memory();
        let event = if event_idx { 2 } else { 0 };
        let layout = crate::QueueLayout {
            size: 16,
            desc: memory.last_of(0, 16 * 16),
            avail: memory.last_of(1, 4 + 2 * 16 + event),
            // The used ring needs an alignment of 4: its last two octets can only be the event.
            used: memory.last_of(2, 4 + 8 * 16 + if event_idx { 4 } else { 0 }),
        };
        if !event_idx {
            // The driver's own code knows no ring without events: only the device is tried.
            TxQueue::resume(memory.share(), layout, features).unwrap();
            continue;
        }
        let mut driver = DriverTx::over(DriverQueue::at(memory, layout, features, 0), 0x100);
        let memory = driver.queue.memory().share();
        let mut device = TxQueue::resume(memory, layout, features).unwrap();
        for i in 0..100 {
            driver.send(&HEADER, &frame(i, 40), Shape::default()).unwrap();
            driver.queue.expose();
            let taken = device.copy_next(&mut [0; 100]).unwrap().unwrap();
            assert_eq!((taken.header, taken.len), (HEADER, 40));
            device.complete().unwrap();
            device.arm().unwrap();
            assert_eq!(driver.reclaim(), 1);
        }
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

proptest! {
    /// What the straight way takes, the general way would have taken, and as the same.
    #[test]
    fn the_straight_way_takes_nothing_that_the_general_way_would_refuse(
        descriptors in prop::collection::vec(
            (address(), prop_oneof![Just(12u32), 0..300u32, any::<u32>()], 0..8u16, 0..9u16), 8),
        heads in prop::collection::vec(0..9u16, 4),
        writable: bool,
    ) {
        let mut queue = ring_at(8, RICH, 0);
        let memory = queue.memory().share();
        for (index, (at, len, flags, next)) in descriptors.into_iter().enumerate() {
            let flags = if writable && flags & 4 == 0 { flags | 2 } else { flags };
            let buffer = Buffer { address: GuestAddress(at), len };
            queue.write_descriptor(index as u16, buffer, flags, next);
        }
        for (position, head) in heads.iter().enumerate() {
            let at = queue.avail_entry_at(position as u16);
            queue.memory().write(at, &head.to_le_bytes());
        }
        queue.memory().write(queue.avail_index_at(), &4u16.to_le_bytes());
        let _ = &mut queue;
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
            prop_assert_eq!(straight.foresee(8), Ok(4));
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
