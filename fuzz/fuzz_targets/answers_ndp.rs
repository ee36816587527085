//! Neighbour and router discovery of a guest: the first octet picks the addresses, the second the
//! type; the rest is the message.
#![no_main]

mod last_inch;

use std::net::Ipv6Addr;

use datapath::answer::{Answer, BASE6};
use last_inch::{LINK_LOCAL, OWN6, frame6};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[pick, kind], message)) = input.split_first_chunk::<2>() else { return };
    let group = |last| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, last);
    let from = [OWN6, LINK_LOCAL, Ipv6Addr::UNSPECIFIED, BASE6][usize::from(pick & 3)];
    let to = [group(0x20), "ff02::2".parse().unwrap(), BASE6, OWN6][usize::from(pick >> 2 & 3)];
    let message = [&[133 + kind % 5, kind / 5 & 1, 0, 0], message].concat();
    let fate = last_inch::answer(&frame6(from, to, 58, 255, &message));
    assert!(fate != Some(Answer::NotForBase), "discovery is never passed on");
});
