//! Features of a network interface, by the names that `ethtool -k` knows, and its queues
//! (SIOCETHTOOL).

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::check;
use super::tun::request;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
/// Octets of a name.
const NAME_LEN: usize = 32;
/// 32-bit words of a name.
const NAME_WORDS: usize = NAME_LEN / size_of::<u32>();
/// Names that any kernel could have, by far.
const MAX_FEATURES: u32 = 1024;

/// One command: its words go to the kernel and come back changed.
fn command(interface: &str, words: &mut [u32]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the request names an interface and points to `words`, which outlive the call. For
    // GSSET_INFO and the features, how much the kernel writes there follows from the count in the
    // words themselves, and each caller sizes them by it; the channels are a fixed nine words,
    // what is said of the driver a fixed 49. For GSTRINGS it does not: the kernel writes
    // as many names as it has, whatever the caller says. Of features that is the same number for
    // every interface of one kernel, and GSSET_INFO has told it just before (`count`).
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })
        .map(|_| ())
}

/// The name of an interface's driver.
pub(in super::super) fn driver(interface: &str) -> io::Result<String> {
    // cmd; name, version and three more texts of 32 octets, 12 octets, five numbers.
    let mut words = vec![ETHTOOL_GDRVINFO];
    words.resize(49, 0);
    command(interface, &mut words)?;
    let name = words.get(1..=NAME_WORDS).unwrap_or_default();
    Ok(text(name))
}

/// A text of the kernel's, which ends with a zero.
fn text(words: &[u32]) -> String {
    let octets = words.iter().flat_map(|w| w.to_ne_bytes());
    octets.take_while(|&b| b != 0).map(char::from).collect()
}

/// How many receive queues an interface uses now.
pub(in super::super) fn receive_queues(interface: &str) -> io::Result<u32> {
    // cmd; most that are possible: receive, transmit, other, both ways; in use: the same.
    let mut words = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    command(interface, &mut words)?;
    let [_, _, _, _, _, receive, _, _, both] = words;
    Ok(receive.saturating_add(both))
}

/// Gives an interface so many queues each way.
#[cfg(test)]
pub(crate) fn set_queues(interface: &str, receive: u32, transmit: u32) -> io::Result<()> {
    const ETHTOOL_SCHANNELS: u32 = 0x3d;
    command(interface, &mut [ETHTOOL_SCHANNELS, 0, 0, 0, 0, receive, transmit, 0, 0])
}

/// How many features the kernel knows.
fn count(interface: &str) -> io::Result<u32> {
    // cmd, reserved, mask (64 bits), one answer per set bit of the mask.
    let mut words = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    command(interface, &mut words)?;
    let [.., count] = words;
    if count > MAX_FEATURES { Err(io::ErrorKind::InvalidData.into()) } else { Ok(count) }
}

/// Names of all features; a feature's number is its place.
fn names(interface: &str, count: u32) -> io::Result<Vec<String>> {
    let mut words = vec![ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count];
    words.resize((count as usize).saturating_mul(NAME_WORDS).saturating_add(3), 0);
    command(interface, &mut words)?;
    let names = words.get(3..).unwrap_or(&[]);
    Ok(names.chunks_exact(NAME_WORDS).map(text).collect())
}

/// The features of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Features(Vec<Feature>);

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Feature {
    name: String,
    active: bool,
    changeable: bool,
}

impl Features {
    /// Whether a feature is on, changeable or not.
    pub fn is_on(&self, name: &str) -> bool {
        self.0.iter().any(|f| f.name == name && f.active)
    }

    /// Whether a feature is there and can be changed.
    pub fn can_change(&self, name: &str) -> bool {
        self.0.iter().any(|f| f.name == name && f.changeable)
    }
}

/// Reads the features of an interface.
pub(in super::super) fn features(interface: &str) -> io::Result<Features> {
    let count = count(interface)?;
    let names = names(interface, count)?;
    let blocks = count.div_ceil(u32::BITS);
    // cmd, size, then per 32 features: available, requested, active, never changed.
    let mut words = vec![ETHTOOL_GFEATURES, blocks];
    words.resize((blocks as usize).saturating_mul(4).saturating_add(2), 0);
    command(interface, &mut words)?;
    let bit = |place: usize, column: usize| {
        let block = (place / 32).saturating_mul(4).saturating_add(2).saturating_add(column);
        words.get(block).is_some_and(|w| w & 1u32.wrapping_shl(place as u32 % 32) != 0)
    };
    Ok(Features(
        names
            .into_iter()
            .enumerate()
            .map(|(place, name)| Feature {
                name,
                active: bit(place, 2),
                changeable: bit(place, 0) && !bit(place, 3),
            })
            .collect(),
    ))
}

/// Turns features on or off, all others stay. The kernel may keep what cannot be changed.
pub(in super::super) fn set_features(
    interface: &str,
    features: &Features,
    change: &[&str],
    on: bool,
) -> io::Result<()> {
    let blocks = features.0.len().div_ceil(32);
    // cmd, size, then per 32 features: valid, requested.
    let mut words = vec![ETHTOOL_SFEATURES, u32::try_from(blocks).unwrap_or(0)];
    words.resize(blocks.saturating_mul(2).saturating_add(2), 0);
    for (place, feature) in features.0.iter().enumerate() {
        if !change.contains(&feature.name.as_str()) {
            continue;
        }
        let bit = 1u32.wrapping_shl(place as u32 % 32);
        let block = (place / 32).saturating_mul(2).saturating_add(2);
        if let Some(valid) = words.get_mut(block) {
            *valid |= bit;
        }
        if let Some(requested) = words.get_mut(block.saturating_add(1))
            && on
        {
            *requested |= bit;
        }
    }
    command(interface, &mut words)
}
