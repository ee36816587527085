//! Whatever a guest writes: no panic, at most one frame back, and only a sound one.

use proptest::prelude::*;

use super::*;
use crate::datagram::{ethertype, last_inch_only};

/// Frames that the base answers, or nearly.
fn valid() -> Vec<Vec<u8>> {
    let discover = {
        let mut bytes = vec![1, 1, 6, 0, 1, 2, 3, 4];
        bytes.extend([0; 20]);
        bytes.extend(GUEST.0);
        bytes.extend([0; 202]);
        bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 3, 50, 4, 203, 0, 113, 10]);
        bytes.extend([61, 7, 1, 2, 3, 4, 5, 6, 7, 55, 3, 1, 3, 6, 255]);
        bytes
    };
    let mut renew = vec![5, 1, 2, 3, 0, 1, 0, 4, 0, 3, 0, 1, 0, 2, 0, 10];
    renew.extend([0, 3, 0, 1, 0x02, 0x69, 0x70, 0x76, 0x00, 0x01]);
    renew.extend([0, 3, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24]);
    renew.extend(OTHER6.octets());
    renew.extend([0; 8]);
    renew.extend([0, 25, 0, 12, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &GUEST.0, &OWN4.octets(), &[0; 6], &OTHER4.octets()];
    let solicit = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &OTHER6.octets(), &[1, 1], &GUEST.0].concat();
    let router = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1];
    let echo4 = icmp4_message(vec![8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3]);
    vec![
        frame(Mac::BROADCAST, ethertype::ARP, &arp.concat()),
        frame4(&udp4((Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST), (68, 67), &discover)),
        frame4(&ip4((OWN4, BASE4), 1, &echo4)),
        frame6(&icmp6((OWN6, OTHER6), 255, solicit)),
        frame6(&icmp6((LINK_LOCAL, BASE6), 255, router)),
        frame6(&icmp6((OWN6, BASE6), 64, vec![128, 0, 0, 0, 1, 2, 3, 4, 5])),
        frame6(&udp6((LINK_LOCAL, ALL_SERVERS), (546, 547), &renew)),
    ]
}

/// What must hold for every frame, however wrong.
fn holds(bytes: &[u8], checksum_pending: bool) -> Result<(), TestCaseError> {
    let Ok((ethernet, payload)) = parse(bytes) else { return Ok(()) };
    let mut replies = Replies::new();
    for inch in [inch(), bare(), LastInch { guest_mac: None, ..inch() }] {
        replies.clear();
        let answer = answer(&inch, &ethernet, &payload, checksum_pending, &mut replies);
        prop_assert_eq!(replies.len(), usize::from(answer == Answer::Replied));
        for reply in replies.iter() {
            prop_assert!(parse(reply).is_ok());
            prop_assert!(reply.len() <= 14 + usize::from(inch.mtu));
        }
        if answer == Answer::NotForBase {
            prop_assert!(
                !matches!(last_inch_only(&payload), Err(Counter::DropLastInch)),
                "discovery is never passed on"
            );
        }
        replies.clear();
        let told = crate::answer::errors::too_big(&inch, &payload, 1280, &mut replies);
        prop_assert_eq!(replies.len(), usize::from(told));
    }
    Ok(())
}

#[test]
fn the_frames_that_are_mutated_are_answered_as_they_are() {
    for frame in valid() {
        reply(&inch(), &frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With the checksum left to offload, a change reaches the parsers behind it.
    #[test]
    fn a_valid_frame_with_some_octets_changed_does_no_harm(
        which in 0usize..7,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
        pending: bool,
    ) {
        let mut frame = valid().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        holds(&frame, pending)?;
    }

    /// The headers are right, and everything in them is made up.
    #[test]
    fn random_messages_in_sound_datagrams_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        kind in 0usize..6,
        pending: bool,
    ) {
        let mut bytes = bytes;
        let frame = match kind {
            0 => frame(Mac::BROADCAST, ethertype::ARP, &bytes),
            1 => {
                // A DHCP message's fixed part.
                let head = valid().swap_remove(1)[42..42 + 240].to_vec();
                frame4(&udp4((OWN4, BASE4), (68, 67), &[head, bytes].concat()))
            }
            2 => frame6(&udp6((LINK_LOCAL, BASE6), (546, 547), &bytes)),
            3 => {
                bytes.resize(bytes.len().max(4), 0);
                bytes[0] = 133 + bytes[0] % 5;
                bytes[1] = 0;
                frame6(&icmp6((LINK_LOCAL, ALL_NODES), 255, bytes))
            }
            4 => frame6(&ip6((OWN6, BASE6), 58, 255, &bytes)),
            _ => frame4(&ip4((OWN4, BASE4), 1, &bytes)),
        };
        holds(&frame, pending)?;
    }

    #[test]
    fn random_frames_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes, false)?;
    }
}
