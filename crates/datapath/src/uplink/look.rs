//! What can be said of a card before anybody uses it: who drives it, what it would have to be told,
//! what its driver can do with XDP programs. Nothing is changed.

use std::io;

use super::guard::Guard;
use super::{UplinkError, bpf, offloads, sys};
use crate::netlink::{XdpFeatures, xdp_features};

/// A setting of the card that would change what was on the wire, and is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meddling {
    /// The setting, as `ethtool -k` calls it.
    pub name: &'static str,
    /// It cannot be turned off.
    pub fixed: bool,
}

/// A card as its driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardLook {
    /// The driver's name; empty if it does not say.
    pub driver: String,
    /// What merges datagrams on the way in, other than the kernel's own merging of TCP.
    pub merges: Vec<Meddling>,
    /// What takes VLAN tags out of frames: of interest to AF_XDP only.
    pub strips_tags: Vec<Meddling>,
    /// What it does with XDP programs. `None`: the kernel does not tell (before Linux 6.3).
    pub xdp: Option<XdpFeatures>,
}

/// Looks at the card of this name and index.
pub fn look(name: &str, index: u32) -> io::Result<CardLook> {
    let have = sys::features(name)?;
    let on = |names: &'static [&'static str]| {
        let on = names.iter().filter(|feature| have.is_on(feature));
        on.map(|name| Meddling { name, fixed: !have.can_change(name) }).collect()
    };
    Ok(CardLook {
        driver: sys::driver(name).unwrap_or_default(),
        merges: on(&offloads::NEVER),
        strips_tags: on(&offloads::TAGS),
        // An older kernel, or one that does not know the card: then nobody can tell.
        xdp: xdp_features(index).unwrap_or(None),
    })
}

/// Loads the programs that share a card with the host, attaches them to nothing and lets them go:
/// whether the kernel takes them from this process.
pub fn programs_load() -> Result<(), UplinkError> {
    let guard = Guard::open("look")?;
    guard.socket_filter()?;
    let maps = guard.descriptors();
    let program = bpf::ingress(maps.vm4, maps.vm6)?;
    bpf::load(bpf::ProgramKind::Ingress, &program).map(drop)
}
