//! Settings of the card that would change what was on the wire: off while the base uses it.
//!
//! A card or driver that merges datagrams (LRO, hardware GRO) does not say how to take them apart
//! again, and merging of UDP changes what even a careful reader gets. The kernel's own GRO for TCP
//! can be undone exactly but for the identification of DF segments, so it stays on unless asked
//! otherwise. Of what is turned off, the network's record remembers what was on: it is turned on
//! again when the base goes, by a successor if need be.

use super::UplinkError;
use super::sys::{Features, features, set_features};
use crate::names::NetworkId;
use crate::state::StateMemory;
use crate::state::network::NetworkRecord;

/// Always off. A feature's bit in the record is its place here; append only.
pub(super) const NEVER: [&str; 4] = ["rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding"];
/// Off unless merging TCP segments is wanted: the next bit.
const COALESCE: &str = "rx-gro";
/// Off where AF_XDP is used, see [`keep_tags_in_frames`]: the next bits.
pub(super) const TAGS: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

fn all() -> impl Iterator<Item = (u64, &'static str)> {
    NEVER
        .into_iter()
        .chain([COALESCE])
        .chain(TAGS)
        .enumerate()
        .map(|(place, name)| (1 << place, name))
}

fn named(bits: u64) -> Vec<&'static str> {
    all().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect()
}

fn read(card: &str) -> Result<Features, UplinkError> {
    features(card).map_err(|e| {
        UplinkError::refused(format!("read the offloads of {card}"), "CAP_NET_ADMIN", e)
    })
}

fn set(card: &str, have: &Features, change: &[&str], on: bool) -> Result<(), UplinkError> {
    if change.is_empty() {
        return Ok(());
    }
    let what = if on { "on" } else { "off" };
    set_features(card, have, change, on).map_err(|e| {
        let action = format!("turn {what} {} of {card}", change.join(", "));
        UplinkError::refused(action, "CAP_NET_ADMIN", e)
    })
}

/// Turns off LRO, hardware GRO and the merging of UDP on a card, and the kernel's GRO for TCP too
/// unless `coalesce`. To be called again when the card came back, or something may have turned
/// them on.
pub fn turn_off(
    card: &str,
    coalesce: bool,
    state: &StateMemory,
    network: NetworkId,
) -> Result<(), UplinkError> {
    let have = read(card)?;
    let record = NetworkRecord::of(state, network);
    let mut bits = 0;
    for (bit, name) in all() {
        if have.is_on(name) && !TAGS.contains(&name) && !(coalesce && name == COALESCE) {
            bits |= bit;
        }
    }
    let names = named(bits);
    if names.iter().any(|name| !have.can_change(name)) {
        return Err(UplinkError::Card {
            link: card.to_owned(),
            why: "merges datagrams on the way in and cannot be told not to: `ethtool -k` shows \
                  which of large-receive-offload and rx-gro-hw is fixed",
        });
    }
    // Noted first: a death in between turns on what was on, which changes nothing.
    let noted = record.offloads();
    record.set_offloads(noted | bits);
    set(card, &have, &names, false)?;
    // A predecessor may have been told otherwise about merging TCP segments.
    let wanted = all().filter(|(bit, name)| coalesce && *name == COALESCE && noted & bit != 0);
    for (bit, name) in wanted {
        set(card, &have, &[name], true)?;
        record.set_offloads(record.offloads() & !bit);
    }
    Ok(())
}

/// Has a card leave VLAN tags in the frames: an XDP program does not see one that the card has put
/// beside its frame. [`turn_on_again`] undoes it.
pub fn keep_tags_in_frames(
    card: &str,
    state: &StateMemory,
    network: NetworkId,
) -> Result<(), UplinkError> {
    let have = read(card)?;
    let on = all().filter(|(_, name)| TAGS.contains(name) && have.is_on(name));
    let bits = on.fold(0, |bits, (bit, _)| bits | bit);
    let names = named(bits);
    if names.iter().any(|name| !have.can_change(name)) {
        return Err(UplinkError::Card {
            link: card.to_owned(),
            why: "takes VLAN tags out of frames and cannot be told not to: `ethtool -k` shows \
                  which of rx-vlan-offload and rx-vlan-stag-hw-parse is fixed",
        });
    }
    let record = NetworkRecord::of(state, network);
    record.set_offloads(record.offloads() | bits);
    set(card, &have, &names, false)
}

/// Turns on again what [`turn_off`] and [`keep_tags_in_frames`] noted for this network, in this life
/// or an earlier one.
pub fn turn_on_again(
    card: &str,
    state: &StateMemory,
    network: NetworkId,
) -> Result<(), UplinkError> {
    let record = NetworkRecord::of(state, network);
    let names = named(record.offloads());
    if !names.is_empty() {
        set(card, &read(card)?, &names, true)?;
    }
    record.set_offloads(0);
    Ok(())
}
