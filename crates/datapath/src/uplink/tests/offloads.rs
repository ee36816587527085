//! The card's settings while the base uses it.

use std::os::fd::AsFd;

use super::world::{CARD, World};
use crate::names::NetworkId;
use crate::state::StateMemory;
use crate::uplink::sys::{features, set_features};
use crate::uplink::{keep_tags_in_frames, turn_off, turn_on_again};

const NETWORK: NetworkId = NetworkId(2);

fn on(name: &str) -> bool {
    features(CARD).unwrap().is_on(name)
}

/// Turns a feature of the card on or off.
pub(super) fn turn(name: &str, value: bool) {
    set_features(CARD, &features(CARD).unwrap(), &[name], value).unwrap();
    assert_eq!(on(name), value, "{name}");
}

#[test]
fn what_was_turned_off_is_turned_on_again_by_a_successor_and_nothing_else() {
    World::run(|_| {
        let (state, fd) = StateMemory::create().unwrap();
        turn("rx-gro", true);
        turn("rx-udp-gro-forwarding", true);
        turn("rx-gro-list", false);
        turn_off(CARD, true, &state, NETWORK).unwrap();
        assert_eq!((on("rx-gro"), on("rx-udp-gro-forwarding")), (true, false));
        turn_off(CARD, false, &state, NETWORK).unwrap();
        assert_eq!((on("rx-gro"), on("rx-udp-gro-forwarding")), (false, false));
        drop(state);

        let state = StateMemory::adopt(fd.as_fd()).unwrap();
        turn_on_again(CARD, &state, NETWORK).unwrap();
        assert_eq!((on("rx-gro"), on("rx-udp-gro-forwarding")), (true, true));
        assert!(!on("rx-gro-list"), "was off before");
        turn("rx-gro", false);
        turn_on_again(CARD, &state, NETWORK).unwrap();
        assert!(!on("rx-gro"), "once only");
    });
}

#[test]
fn a_successor_that_wants_merging_again_gets_it_back() {
    World::run(|_| {
        let state = StateMemory::create().unwrap().0;
        turn("rx-gro", true);
        turn_off(CARD, false, &state, NETWORK).unwrap();
        assert!(!on("rx-gro"));
        turn_off(CARD, true, &state, NETWORK).unwrap();
        assert!(on("rx-gro"));
    });
}

#[test]
fn tags_stay_in_frames_as_long_as_the_card_is_used_so() {
    const TAGS: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];
    World::run(|_| {
        let state = StateMemory::create().unwrap().0;
        turn(TAGS[1], false);
        turn_off(CARD, true, &state, NETWORK).unwrap();
        assert!(on(TAGS[0]), "a packet socket is told of tags");
        for _ in 0..2 {
            keep_tags_in_frames(CARD, &state, NETWORK).unwrap();
            turn_off(CARD, true, &state, NETWORK).unwrap();
            assert_eq!(TAGS.map(on), [false, false]);
        }
        turn_on_again(CARD, &state, NETWORK).unwrap();
        assert_eq!(TAGS.map(on), [true, false]);
    });
}

#[test]
fn a_card_that_is_not_there_is_named() {
    World::run(|_| {
        let state = StateMemory::create().unwrap().0;
        let error = turn_off("nowhere", true, &state, NETWORK).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the offloads of nowhere");
    });
}
