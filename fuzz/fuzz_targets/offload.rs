//! A guest's virtio-net header and datagram: refused, or whatever is made of them lies within the
//! datagram and is itself a right datagram.
#![no_main]

use datapath::checksum::Sum;
use datapath::counters::Counter;
use datapath::datagram::{Payload, parse_ip};
use datapath::fragment::Fragments;
use datapath::offload::{Abilities, Checksum, Handover, Offload, Sender, complete_checksum};
use datapath::segment::Segments;
use libfuzzer_sys::fuzz_target;
use virtqueue::NetHeader;

/// Puts an IPv4 header's checksum right.
fn repair(datagram: &mut [u8]) {
    let Some(&first) = datagram.first().filter(|first| **first >> 4 == 4) else { return };
    let Some(header) = datagram.get_mut(..usize::from(first & 15) * 4) else { return };
    if header.len() >= 20 {
        header[10..12].fill(0);
        let sum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((header, datagram)) = input.split_first_chunk::<{ NetHeader::LEN }>() else { return };
    let header = NetHeader::from_bytes(*header);
    let mut datagram = datagram.to_vec();
    repair(&mut datagram);
    let Ok(payload) = parse_ip(&datagram) else { return };
    let datagram = payload.bytes();
    let mut buffer = vec![0; 65_536];
    if let Payload::Ip4(ip) = payload
        && let Some(fragments) = Fragments::of(&ip, usize::from(header.gso_size))
    {
        for index in 0..fragments.count() {
            let len = fragments.write(index, &mut buffer).expect("each fragment can be written");
            assert!(len <= usize::from(header.gso_size));
            // A link so small that a first fragment has no room for TCP's header is not our fault.
            let read = parse_ip(&buffer[..len]);
            assert!(matches!(read, Ok(_) | Err(Counter::DropFirstFragment)));
        }
    }
    let Ok(offload) = Offload::check(&header, 0, &payload, Sender::Guest(Abilities::ALL)) else {
        return;
    };
    if let Checksum::Partial { start, offset } = offload.checksum {
        complete_checksum(&mut datagram.to_vec(), start, offset).expect("the field is inside");
    }
    if let Handover::Segment(large) = offload.header_for(Abilities::default(), 0) {
        let segments = Segments::of(datagram, &large).expect("what was checked fits together");
        for index in 0..segments.count() {
            let len = segments.write(index, &mut buffer).expect("each segment can be written");
            assert!(len <= large.segment_len() && parse_ip(&buffer[..len]).is_ok());
        }
    }
});
