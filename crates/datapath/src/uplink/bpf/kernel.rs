//! Maps, programs and links in the kernel (bpf(2)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ipnet::IpNet;

use super::super::UplinkError;

const MAP_CREATE: u32 = 0;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const MAP_NEXT_KEY: u32 = 4;
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

/// What a link attaches: a program to the receive path of a card.
const ATTACH_XDP: u32 = 37;
/// In the card's driver, before a buffer for the kernel's stack is made.
const XDP_NATIVE: u32 = 1 << 2;

/// The program knows that what is behind a frame's first octets may lie elsewhere (since Linux 5.18).
const XDP_HAS_FRAGS: u32 = 1 << 5;

/// Longest-prefix match: single addresses and prefixes alike.
const MAP_TYPE_LPM_TRIE: u32 = 11;
/// AF_XDP sockets by receive queue.
const MAP_TYPE_XSKMAP: u32 = 17;
/// Entries take memory when they are made, not before.
const NO_PREALLOC: u32 = 1;
/// Entries one map can have.
const MAX_ENTRIES: u32 = 1 << 20;

/// Octets of the attributes handed to the kernel; what lies beyond those it knows must be zero.
const ATTRIBUTES_LEN: usize = 128;
/// Octets for the verifier's log.
const LOG_LEN: u32 = 256 * 1024;

/// The attributes of one call, each at the offset that `union bpf_attr` gives it.
struct Attributes([u64; ATTRIBUTES_LEN / 8]);

impl Attributes {
    fn new() -> Self {
        Self([0; ATTRIBUTES_LEN / 8])
    }

    fn word(mut self, offset: usize, value: u32) -> Self {
        if let Some(slot) = self.0.get_mut(offset / 8) {
            let mut octets = slot.to_ne_bytes();
            for (to, from) in octets.iter_mut().skip(offset % 8).zip(value.to_ne_bytes()) {
                *to = from;
            }
            *slot = u64::from_ne_bytes(octets);
        }
        self
    }

    fn fd(self, offset: usize, fd: BorrowedFd<'_>) -> Self {
        self.word(offset, u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX))
    }

    fn pointer<T>(mut self, offset: usize, to: *const T) -> Self {
        if let Some(slot) = self.0.get_mut(offset / 8) {
            *slot = to as usize as u64;
        }
        self
    }

    /// Makes the call.
    ///
    /// # Safety
    /// Every pointer among the attributes is valid for what the command does with it: keys and
    /// values as long as the map's, buffers as long as the attributes say.
    unsafe fn call(&self, command: u32) -> io::Result<libc::c_long> {
        // SAFETY: the attributes outlive the call; what they point to is the caller's promise.
        let answer = unsafe {
            libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), ATTRIBUTES_LEN as libc::c_uint)
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(answer).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec, as all of bpf(2)'s).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn refused(action: &str, source: io::Error) -> UplinkError {
    UplinkError::refused(action, "CAP_BPF and CAP_NET_ADMIN", source)
}

/// A key: prefix length, then the address; as long as the longest.
type Key = [u8; 20];

fn key(prefix: IpNet) -> Key {
    let mut key = [0; 20];
    let length = u32::from(prefix.prefix_len()).to_ne_bytes();
    let put = |key: &mut Key, address: &[u8]| {
        for (to, from) in key.iter_mut().zip(length.iter().chain(address)) {
            *to = *from;
        }
    };
    match prefix.network() {
        IpAddr::V4(a) => put(&mut key, &a.octets()),
        IpAddr::V6(a) => put(&mut key, &a.octets()),
    }
    key
}

fn prefix(key: &Key, ip4: bool) -> Option<IpNet> {
    let (length, address) = key.split_first_chunk::<4>()?;
    let address = if ip4 {
        IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?))
    } else {
        IpAddr::V6(Ipv6Addr::from(*address.first_chunk::<16>()?))
    };
    IpNet::new(address, u32::from_ne_bytes(*length).try_into().ok()?).ok()
}

/// A set of prefixes of one family in the kernel.
#[derive(Debug)]
pub(in super::super) struct Map {
    fd: OwnedFd,
    ip4: bool,
}

impl Map {
    /// Makes an empty one.
    pub fn create(ip4: bool) -> Result<Self, UplinkError> {
        let key_len = if ip4 { 8 } else { 20 };
        let attributes = Attributes::new()
            .word(0, MAP_TYPE_LPM_TRIE)
            .word(4, key_len)
            .word(8, 4)
            .word(12, MAX_ENTRIES)
            .word(16, NO_PREALLOC);
        // SAFETY: no pointers among the attributes.
        let made = unsafe { attributes.call(MAP_CREATE) }.and_then(owned);
        let fd = made.map_err(|e| refused("make an address map in the kernel", e))?;
        Ok(Self { fd, ip4 })
    }

    /// Takes over one that [`Map::create`] made.
    pub fn adopt(fd: OwnedFd, ip4: bool) -> Self {
        Self { fd, ip4 }
    }

    /// Adds a prefix; that it is in already is no error.
    pub fn insert(&self, prefix: IpNet) -> Result<(), UplinkError> {
        let (key, value) = (key(prefix), 1u32);
        let attributes = Attributes::new()
            .fd(0, self.fd.as_fd())
            .pointer(8, key.as_ptr())
            .pointer(16, &raw const value);
        // SAFETY: the key is as long as the longest any map of ours has, the value is a word.
        unsafe { attributes.call(MAP_UPDATE) }
            .map_err(|e| refused(&format!("add {prefix} to a map in the kernel"), e))?;
        Ok(())
    }

    /// Takes a prefix out; that it is not in is no error.
    pub fn remove(&self, prefix: IpNet) -> Result<(), UplinkError> {
        let key = key(prefix);
        let attributes = Attributes::new().fd(0, self.fd.as_fd()).pointer(8, key.as_ptr());
        // SAFETY: the key is as long as the longest any map of ours has.
        match unsafe { attributes.call(MAP_DELETE) } {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => {
                Err(refused(&format!("take {prefix} out of a map in the kernel"), e))
            }
            _ => Ok(()),
        }
    }

    /// All prefixes in it.
    pub fn list(&self) -> Result<Vec<IpNet>, UplinkError> {
        let mut found = Vec::new();
        let mut last: Option<Key> = None;
        loop {
            let mut next: Key = [0; 20];
            let mut attributes =
                Attributes::new().fd(0, self.fd.as_fd()).pointer(16, next.as_mut_ptr());
            if let Some(last) = &last {
                attributes = attributes.pointer(8, last.as_ptr());
            }
            // SAFETY: both keys are as long as the longest any map of ours has.
            match unsafe { attributes.call(MAP_NEXT_KEY) } {
                Ok(_) => found.extend(prefix(&next, self.ip4)),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
                Err(e) => return Err(refused("read a map in the kernel", e)),
            }
            last = Some(next);
        }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The AF_XDP sockets of a card, by receive queue.
#[derive(Debug)]
pub(in super::super) struct SocketMap(OwnedFd);

impl SocketMap {
    /// Makes an empty one for so many queues.
    pub fn create(queues: u32) -> Result<Self, UplinkError> {
        let attributes = Attributes::new()
            .word(0, MAP_TYPE_XSKMAP)
            .word(4, size_of::<u32>() as u32)
            .word(8, size_of::<u32>() as u32)
            .word(12, queues);
        // SAFETY: no pointers among the attributes.
        let made = unsafe { attributes.call(MAP_CREATE) }.and_then(owned);
        made.map(Self).map_err(|e| refused("make a socket map in the kernel", e))
    }

    /// Takes over one that [`SocketMap::create`] made.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Frames of this queue go to this socket when the program says so.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), UplinkError> {
        let value = socket.as_raw_fd();
        let attributes = Attributes::new()
            .fd(0, self.0.as_fd())
            .pointer(8, &raw const queue)
            .pointer(16, &raw const value);
        // SAFETY: key and value are a word each, as the map was made.
        unsafe { attributes.call(MAP_UPDATE) }
            .map_err(|e| refused("put a socket into a map in the kernel", e))?;
        Ok(())
    }
}

impl AsFd for SocketMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A program at work at a card: it goes with the last descriptor of this, if not before.
#[derive(Debug)]
pub(in super::super) struct Link(OwnedFd);

impl Link {
    /// Attaches a program to the receive path of a card's driver.
    pub fn create(program: &Program, index: u32) -> Result<Self, UplinkError> {
        let attributes = Attributes::new()
            .fd(0, program.as_fd())
            .word(4, index)
            .word(8, ATTACH_XDP)
            .word(12, XDP_NATIVE);
        // SAFETY: no pointers among the attributes.
        let made = unsafe { attributes.call(LINK_CREATE) }.and_then(owned);
        made.map(Self).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => UplinkError::Card {
                link: format!("number {index}"),
                why: "has an XDP program of somebody else's",
            },
            Some(libc::EOPNOTSUPP) => UplinkError::Card {
                link: format!("number {index}"),
                why: "has a driver that cannot run XDP programs",
            },
            _ => refused("attach an XDP program", e),
        })
    }

    /// Takes over one that [`Link::create`] made.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Replaces the program, without a moment in which there is none.
    pub fn update(&self, program: &Program) -> Result<(), UplinkError> {
        let attributes = Attributes::new().fd(0, self.0.as_fd()).fd(4, program.as_fd());
        // SAFETY: no pointers among the attributes.
        unsafe { attributes.call(LINK_UPDATE) }
            .map_err(|e| refused("replace an XDP program", e))?;
        Ok(())
    }

    /// Takes the program off the card, whoever else has a descriptor of this.
    pub fn detach(&self) -> Result<(), UplinkError> {
        let attributes = Attributes::new().fd(0, self.0.as_fd());
        // SAFETY: no pointers among the attributes.
        unsafe { attributes.call(LINK_DETACH) }
            .map_err(|e| refused("take an XDP program off a card", e))?;
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A loaded program.
#[derive(Debug)]
pub(in super::super) struct Program(OwnedFd);

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum ProgramKind {
    /// Filters what a socket gets.
    SocketFilter,
    /// Filters at a link's ingress.
    Ingress,
    /// Takes frames out of a link's receive path.
    Xdp,
    /// The same, of a link whose frames may be in pieces.
    XdpInPieces,
}

impl ProgramKind {
    fn number(self) -> u32 {
        match self {
            Self::SocketFilter => 1,
            Self::Ingress => 3,
            Self::Xdp | Self::XdpInPieces => 6,
        }
    }

    fn flags(self) -> u32 {
        if self == Self::XdpInPieces { XDP_HAS_FRAGS } else { 0 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::SocketFilter => "socket filter",
            Self::Ingress => "ingress",
            Self::Xdp | Self::XdpInPieces => "XDP",
        }
    }
}

/// Loads a program.
pub(in super::super) fn load(kind: ProgramKind, program: &[u8]) -> Result<Program, UplinkError> {
    let instructions = u32::try_from(program.len() / 8).unwrap_or(u32::MAX);
    let license = c"Apache-2.0 OR MIT";
    let attributes = || {
        Attributes::new()
            .word(0, kind.number())
            .word(4, instructions)
            .pointer(8, program.as_ptr())
            .pointer(16, license.as_ptr())
            .word(44, kind.flags())
    };
    // SAFETY: the program is as long as said, the license ends with a zero.
    let first = unsafe { attributes().call(PROG_LOAD) }.and_then(owned);
    let source = match first {
        Ok(fd) => return Ok(Program(fd)),
        Err(e) => e,
    };
    if source.kind() == io::ErrorKind::PermissionDenied
        && source.raw_os_error() == Some(libc::EPERM)
    {
        return Err(refused(&format!("load the {} program into the kernel", kind.name()), source));
    }
    // Once more, to hear why.
    let mut log = vec![0u8; LOG_LEN as usize];
    let asking = attributes().word(24, 1).word(28, LOG_LEN).pointer(32, log.as_mut_ptr());
    // SAFETY: as above, and the log is as long as said.
    let second = unsafe { asking.call(PROG_LOAD) }.and_then(owned);
    if let Ok(fd) = second {
        return Ok(Program(fd));
    }
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.trim_end_matches('\0').trim_end().lines().rev().take(3).collect();
    let log = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(UplinkError::Program { program: kind.name(), log, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_and_its_key_say_the_same() {
        for (text, ip4) in [
            ("203.0.113.0/24", true),
            ("203.0.113.10/32", true),
            ("2001:db8:1::/64", false),
            ("2001:db8:1::10/128", false),
        ] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(prefix(&key(net), ip4), Some(net));
        }
    }

    #[test]
    fn attributes_lie_at_their_offsets() {
        let attributes = Attributes::new().word(0, 1).word(4, 2).word(24, 3);
        assert_eq!(attributes.0[0].to_ne_bytes(), [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(attributes.0[3], 3);
    }
}
