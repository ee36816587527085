//! Does a datagram fit the next link?
//!
//! A large send travels whole if its segments fit; anything else must fit as it is. What does not
//! fit is cut into fragments where IPv4 allows it (rule 4), else refused, and the sender told.

use crate::counters::Counter;
use crate::datagram::Payload;
use crate::offload::Offload;

/// Smallest MTU for which datagrams are cut: what every host must be able to take (RFC 791). No card
/// worth the name has less, and a datagram would fall into hundreds of pieces.
const LEAST: u32 = 576;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As it is.
    Whole,
    /// In IPv4 fragments.
    InFragments,
    /// Not at all, for this reason.
    Refused(Counter),
}

impl Fit {
    /// Whether `payload` fits a link whose largest datagram has `mtu` octets.
    pub fn of(offload: &Offload, payload: &Payload<'_>, mtu: u32) -> Self {
        if let Some(large) = offload.segmentation {
            let fits = large.segment_len() <= mtu as usize;
            return if fits { Self::Whole } else { Self::Refused(Counter::DropSegmentTooBig) };
        }
        if payload.bytes().len() <= mtu as usize {
            return Self::Whole;
        }
        match payload {
            Payload::Ip4(ip) if !ip.dont_fragment() && mtu >= LEAST => Self::InFragments,
            _ => Self::Refused(Counter::DropTooBig),
        }
    }
}

/// An MTU as ICMP tells it.
pub fn mtu16(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}
