//! Filters at a card's ingress: adding one of our own, and leaving everybody else's alone.
//!
//! Foreign filters may be of any kind, with options nobody here knows. So lists are read with just
//! enough parsing to see priority, kind, handle and, of BPF filters, the name.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};

use super::{Netlink, NetlinkError};

const CLSACT: &str = "clsact";
/// Octets of the fixed header of a traffic control message.
const HEADER_LEN: usize = 20;
/// RTM_NEWTFILTER.
const NEW_FILTER: u16 = 44;
/// Attribute types.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
/// The protocol a filter looks at: all.
const ETH_P_ALL: u16 = 0x0003;

/// Which way traffic passes a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the card.
    Ingress,
    /// To the card.
    Egress,
}

impl Direction {
    fn hook(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// A filter, ours or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its kind: `bpf`, `flower` and so on.
    pub kind: String,
    /// Lower comes first.
    pub priority: u16,
    /// Tells filters of one priority apart; 0 for a priority's head entry.
    pub handle: u32,
    /// Name, if it is a BPF filter.
    pub name: Option<String>,
}

fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(payload).filter_map(Result::ok).map(|nla| {
        let (kind, len) = (nla.kind(), nla.value_length());
        // The view's own accessor borrows from the view; the octets live as long as the payload.
        let value = nla.into_inner().get(4..).and_then(|v| v.get(..len)).unwrap_or(&[]);
        (kind, value)
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&b| b == 0).next().unwrap_or(value)).into_owned()
}

/// The kind of a traffic control object.
fn kind_of(payload: &[u8]) -> Option<String> {
    attributes(payload.get(HEADER_LEN..)?)
        .find_map(|(kind, value)| (kind == TCA_KIND).then(|| text(value)))
}

fn parse_filter(payload: &[u8]) -> Option<Filter> {
    let header = TcHeader::parse(payload).ok()?;
    let name = attributes(payload.get(HEADER_LEN..)?)
        .find_map(|(kind, value)| (kind == TCA_OPTIONS).then_some(value))
        .and_then(|options| {
            attributes(options)
                .find_map(|(kind, value)| (kind == TCA_BPF_NAME).then(|| text(value)))
        });
    let kind = kind_of(payload)?;
    Some(Filter {
        name: name.filter(|_| kind == TcFilterBpf::KIND),
        kind,
        priority: (header.info >> 16) as u16,
        handle: header.handle.into(),
    })
}

fn message(index: u32, parent: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).unwrap_or(0);
    message.header.parent = parent;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

impl Netlink {
    /// Gives the link a place for ingress filters; `false` if it had one.
    pub fn add_clsact(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let mut request = message(index, TcHandle::CLSACT, CLSACT);
        request.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        match self
            .order(RouteNetlinkMessage::NewQueueDiscipline(request), NLM_F_CREATE | NLM_F_EXCL)
        {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(NetlinkError::new(format!("add a clsact to link number {index}"), e)),
        }
    }

    /// Takes the place for ingress filters away, with all that is in it.
    pub fn remove_clsact(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut request = message(index, TcHandle::CLSACT, CLSACT);
        request.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        match self.order(RouteNetlinkMessage::DelQueueDiscipline(request), 0) {
            Err(e) if gone(&e) => Ok(()),
            other => other,
        }
        .map_err(|e| NetlinkError::new(format!("remove the clsact of link number {index}"), e))
    }

    /// Whether the link has a clsact.
    #[cfg(test)]
    pub(crate) fn has_clsact(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let mut request = TcMessage::default();
        request.header.index = i32::try_from(index).unwrap_or(0);
        let answer = self
            .list(&RouteNetlinkMessage::GetQueueDiscipline(request))
            .map_err(|e| NetlinkError::new("list the queueing disciplines", e))?;
        Ok(answer.iter().any(|raw| {
            TcHeader::parse(&raw.payload).is_ok_and(|h| u32::try_from(h.index) == Ok(index))
                && kind_of(&raw.payload).is_some_and(|k| k == CLSACT)
        }))
    }

    /// The filters of one direction, in no order. Empty if the link has no place for them.
    pub fn filters(
        &mut self,
        index: u32,
        direction: Direction,
    ) -> Result<Vec<Filter>, NetlinkError> {
        let mut request = TcMessage::default();
        request.header.index = i32::try_from(index).unwrap_or(0);
        request.header.parent = direction.hook();
        match self.list(&RouteNetlinkMessage::GetTrafficFilter(request)) {
            Ok(answer) => Ok(answer
                .iter()
                .filter(|raw| raw.kind == NEW_FILTER)
                .filter_map(|raw| parse_filter(&raw.payload))
                .collect()),
            Err(e) if gone(&e) => Ok(Vec::new()),
            Err(e) => Err(NetlinkError::new(format!("list the filters of link number {index}"), e)),
        }
    }

    /// Adds a BPF program at the ingress. Refused (EEXIST) if priority and handle are taken.
    pub fn add_bpf_filter(
        &mut self,
        index: u32,
        priority: u16,
        handle: u32,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let mut request = filter(index, priority, handle);
        request.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(
                u32::try_from(program.as_raw_fd()).unwrap_or(u32::MAX),
            )),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        self.order(RouteNetlinkMessage::NewTrafficFilter(request), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|e| {
                NetlinkError::new(format!("add the filter {name} to link number {index}"), e)
            })
    }

    /// Removes a BPF program from the ingress; that there is none is no error.
    pub fn remove_bpf_filter(
        &mut self,
        index: u32,
        priority: u16,
        handle: u32,
    ) -> Result<(), NetlinkError> {
        match self.order(RouteNetlinkMessage::DelTrafficFilter(filter(index, priority, handle)), 0)
        {
            Err(e) if gone(&e) => Ok(()),
            other => other,
        }
        .map_err(|e| NetlinkError::new(format!("remove a filter of link number {index}"), e))
    }
}

fn filter(index: u32, priority: u16, handle: u32) -> TcMessage {
    let mut request = message(index, Direction::Ingress.hook(), TcFilterBpf::KIND);
    request.header.handle = handle.into();
    request.header.info = u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be());
    request
}

/// The object, its place or its card is no longer there.
fn gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
}

/// What only tests do: they make the older place for filters, which a clsact excludes.
#[cfg(test)]
impl Netlink {
    pub(crate) fn add_ingress(&mut self, index: u32) {
        let mut request = message(index, TcHandle::INGRESS, "ingress");
        request.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        self.order(RouteNetlinkMessage::NewQueueDiscipline(request), NLM_F_CREATE | NLM_F_EXCL)
            .unwrap();
    }
}
