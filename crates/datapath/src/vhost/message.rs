//! What a message asks for: its body and descriptors checked for form, once, at the border.
//!
//! Form only: whether a request can be carried out now is for the negotiation. A body longer than
//! its request's is taken for one with an extension that the base does not know; the rest is
//! ignored, as the protocol's own back ends do.

use std::os::fd::OwnedFd;

use vhost::vhost_user::message::FrontendReq;

use super::refusal::{Refusal, RequestCode};
use super::wire::{Header, Message};
use crate::names::RingId;
use crate::state::port::{MAX_MEMORY_SLOTS, MemorySlot, RingAddresses};

/// Set beside a ring's number where no descriptor comes along.
const NO_DESCRIPTOR: u64 = 1 << 8;
const QUEUE_MASK: u64 = 0xff;
/// Octets of a memory region's description.
const REGION_LEN: usize = 32;

/// A request of the right form.
#[derive(Debug)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<(MemorySlot, OwnedFd)>),
    SetRingSize(RingId, u32),
    SetRingAddresses { ring: RingId, flags: u32, addresses: RingAddresses },
    SetRingBase(RingId, u32),
    GetRingBase(RingId),
    SetKick(RingId, Option<OwnedFd>),
    SetCall(RingId, Option<OwnedFd>),
    SetErr(RingId, Option<OwnedFd>),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetRingEnable(RingId, bool),
    SendRarp,
    GetMaxMemSlots,
    AddMemoryRegion(MemorySlot, OwnedFd),
    RemoveMemoryRegion(MemorySlot),
}

impl Request {
    /// Checks the form of a message about a port with so many queue pairs.
    pub(super) fn parse(message: Message, pairs: usize) -> Result<Self, Refusal> {
        let Message { header, body, descriptors } = message;
        let body = Body { octets: &body, pairs };
        let code = FrontendReq::try_from(header.request).map_err(|_| Refusal::NotServed)?;
        // A request in whose arm no descriptor is taken has none; those of a request that is not
        // served are closed here unseen.
        let none = |request: Self| match descriptors.len() {
            0 => Ok(request),
            have => Err(Refusal::Descriptors { have, need: 0 }),
        };
        match code {
            FrontendReq::GET_FEATURES => none(Self::GetFeatures),
            FrontendReq::SET_FEATURES => none(Self::SetFeatures(body.u64(0)?)),
            FrontendReq::SET_OWNER => none(Self::SetOwner),
            FrontendReq::RESET_OWNER => none(Self::ResetOwner),
            FrontendReq::SET_MEM_TABLE => Self::memory_table(body, descriptors),
            FrontendReq::SET_VRING_NUM => none(Self::SetRingSize(body.ring()?, body.u32(4)?)),
            FrontendReq::SET_VRING_ADDR => {
                let addresses =
                    RingAddresses { desc: body.u64(8)?, used: body.u64(16)?, avail: body.u64(24)? };
                // The address of a log, which is not offered, ends the body.
                body.u64(32)?;
                none(Self::SetRingAddresses { ring: body.ring()?, flags: body.u32(4)?, addresses })
            }
            FrontendReq::SET_VRING_BASE => none(Self::SetRingBase(body.ring()?, body.u32(4)?)),
            FrontendReq::GET_VRING_BASE => {
                body.u32(4)?;
                none(Self::GetRingBase(body.ring()?))
            }
            FrontendReq::SET_VRING_KICK => bell(body, descriptors, Self::SetKick),
            FrontendReq::SET_VRING_CALL => bell(body, descriptors, Self::SetCall),
            FrontendReq::SET_VRING_ERR => bell(body, descriptors, Self::SetErr),
            FrontendReq::GET_PROTOCOL_FEATURES => none(Self::GetProtocolFeatures),
            FrontendReq::SET_PROTOCOL_FEATURES => none(Self::SetProtocolFeatures(body.u64(0)?)),
            FrontendReq::GET_QUEUE_NUM => none(Self::GetQueueNum),
            FrontendReq::SET_VRING_ENABLE => {
                none(Self::SetRingEnable(body.ring()?, body.u32(4)? != 0))
            }
            FrontendReq::SEND_RARP => none(Self::SendRarp),
            FrontendReq::GET_MAX_MEM_SLOTS => none(Self::GetMaxMemSlots),
            FrontendReq::ADD_MEM_REG => {
                let slot = body.region(8)?;
                Ok(Self::AddMemoryRegion(slot, exactly_one(descriptors)?))
            }
            // Some front ends send the region's descriptor along; it is closed unused.
            FrontendReq::REM_MEM_REG if descriptors.len() <= 1 => {
                Ok(Self::RemoveMemoryRegion(body.region(8)?))
            }
            FrontendReq::REM_MEM_REG => {
                Err(Refusal::Descriptors { have: descriptors.len(), need: 0 })
            }
            _ => Err(Refusal::NotServed),
        }
    }

    fn memory_table(body: Body<'_>, descriptors: Vec<OwnedFd>) -> Result<Self, Refusal> {
        let asked = usize::try_from(body.u32(0)?).unwrap_or(usize::MAX);
        if asked > MAX_MEMORY_SLOTS {
            return Err(Refusal::TooManyRegions { asked, limit: MAX_MEMORY_SLOTS });
        }
        if descriptors.len() != asked {
            return Err(Refusal::Descriptors { have: descriptors.len(), need: asked });
        }
        let starts = (8usize..).step_by(REGION_LEN);
        let regions = starts
            .zip(descriptors)
            .map(|(at, fd)| body.region(at).map(|slot| (slot, fd)))
            .collect::<Result<_, _>>()?;
        Ok(Self::SetMemTable(regions))
    }
}

/// Whether the protocol has an answer to this request of its own. If it is refused, the front end
/// would wait for ever.
pub(super) fn has_answer(header: Header) -> bool {
    matches!(
        FrontendReq::try_from(header.request),
        Ok(FrontendReq::GET_FEATURES
            | FrontendReq::GET_PROTOCOL_FEATURES
            | FrontendReq::GET_QUEUE_NUM
            | FrontendReq::GET_VRING_BASE
            | FrontendReq::GET_MAX_MEM_SLOTS)
    )
}

impl Header {
    /// The request's number, for reports.
    pub(super) fn code(self) -> RequestCode {
        RequestCode(self.request)
    }
}

fn exactly_one(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Refusal> {
    let wrong = Refusal::Descriptors { have: descriptors.len(), need: 1 };
    let mut descriptors = descriptors.into_iter();
    match (descriptors.next(), descriptors.next()) {
        (Some(fd), None) => Ok(fd),
        _ => Err(wrong),
    }
}

/// A ring's kick, call or err: a descriptor, or a bit that says there is none.
fn bell(
    body: Body<'_>,
    descriptors: Vec<OwnedFd>,
    request: impl FnOnce(RingId, Option<OwnedFd>) -> Request,
) -> Result<Request, Refusal> {
    let word = body.u64(0)?;
    let ring = body.known((word & QUEUE_MASK) as u32)?;
    if word & NO_DESCRIPTOR == 0 {
        return Ok(request(ring, Some(exactly_one(descriptors)?)));
    }
    match descriptors.len() {
        0 => Ok(request(ring, None)),
        have => Err(Refusal::Descriptors { have, need: 0 }),
    }
}

/// A message's body, in the machine's byte order.
#[derive(Clone, Copy)]
struct Body<'a> {
    octets: &'a [u8],
    /// Queue pairs of the port it is about.
    pairs: usize,
}

impl Body<'_> {
    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], Refusal> {
        let wrong = Refusal::Truncated { have: self.octets.len(), need: at.saturating_add(N) };
        self.octets.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(wrong)
    }

    fn u32(self, at: usize) -> Result<u32, Refusal> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(self, at: usize) -> Result<u64, Refusal> {
        self.array(at).map(u64::from_ne_bytes)
    }

    /// The ring whose number the body begins with.
    fn ring(self) -> Result<RingId, Refusal> {
        self.known(self.u32(0)?)
    }

    /// The ring of this number.
    fn known(self, queue: u32) -> Result<RingId, Refusal> {
        let pairs = self.pairs;
        RingId::from_number(queue, pairs).ok_or(Refusal::RingIndex { queue, pairs })
    }

    fn region(self, at: usize) -> Result<MemorySlot, Refusal> {
        let word = |n: usize| self.u64(at.saturating_add(n));
        Ok(MemorySlot { offset: word(24)?, guest: word(0)?, len: word(8)?, user: word(16)? })
    }
}
