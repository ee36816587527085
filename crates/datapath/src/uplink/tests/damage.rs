//! A network's record that was damaged, and the ring of a real socket beside it.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::packet::{number, numbered, take};
use super::world::{World, readable};
use crate::names::NetworkId;
use crate::state::{StateMemory, network_at};
use crate::uplink::{Guard, PacketUplink, UplinkError};

const NETWORK: NetworkId = NetworkId(0);
/// Slots of the ring.
const LAP: u32 = 15;

/// The cursor's words.
const CURSOR: std::ops::Range<usize> = 0..16;
/// The ring's layout, and its seal.
const LAYOUT: [std::ops::Range<usize>; 2] = [16..32, 40..48];

#[test]
fn a_successor_with_a_damaged_record_finds_its_place_in_the_ring_or_refuses_it() {
    World::run(|world| {
        let peer = world.peer();
        // Nothing yet; some lie there; none left in the third lap; all slots full, begun anywhere.
        let rings = [(0, 0), (7, 5), (36, 0), (14, 3), (0, LAP), (22, LAP)];
        let filter = Guard::open("test").unwrap().socket_filter().unwrap();
        for (released, waiting) in rings {
            for at in 0..56 {
                let (state, _fd) = StateMemory::create().unwrap();
                let index = world.card.index;
                let mut uplink = PacketUplink::open(index, LAP, &filter, &state, NETWORK).unwrap();
                for n in 0..released {
                    peer.send(&numbered(n));
                    assert_eq!(number(&take(&mut uplink).1), n);
                    uplink.release();
                }
                (released..released + waiting).for_each(|n| peer.send(&numbered(n)));
                let kept = uplink.as_fd().try_clone_to_owned().unwrap();
                drop(uplink);
                let octet = state.memory().u8_at(network_at(NETWORK) + at).unwrap();
                octet.fetch_xor([0xff, 1][at % 2], Ordering::Relaxed);
                let when = format!("{released} released, {waiting} waiting, octet {at}");
                let adopted = PacketUplink::adopt(kept, index, &state, NETWORK);
                if LAYOUT.iter().any(|range| range.contains(&at)) {
                    let error = adopted.map(drop).unwrap_err();
                    assert!(matches!(error, UplinkError::Adopt { .. }), "{when}: {error}");
                    continue;
                }
                let mut uplink = adopted.unwrap_or_else(|e| panic!("{when}: {e}"));
                let told = state.take_damage().len();
                assert_eq!(told > 0, CURSOR.contains(&at) || at >= 48, "{when}");
                // All that lay there comes in order, and what comes later too, for more than a lap.
                for n in released..released + waiting {
                    assert_eq!(number(&take(&mut uplink).1), n, "{when}");
                }
                uplink.release();
                for n in released + waiting..released + waiting + LAP + 2 {
                    peer.send(&numbered(n));
                    assert!(readable(&uplink), "{when}");
                    assert_eq!(number(&take(&mut uplink).1), n, "{when}");
                    uplink.release();
                }
                assert_eq!(uplink.next(), None, "{when}");
                assert_eq!(uplink.kernel_drops(), 0, "{when}");
            }
        }
    });
}
