//! Asks on a LAN whether somebody is there: by ARP or neighbour discovery, as the base would, on a
//! socket of its own that is gone afterwards.
//!
//! # Theory of operation
//! The machine of states that finds neighbours for the VMs ([`Lan`]) is given the addresses, and
//! driven until each is found, or has not answered as often as is asked of any neighbour (two
//! seconds). The socket hears all that the card receives, the host's own answers among it, and takes
//! nothing away from anybody.
//!
//! # Limits
//! Answers that come with a VLAN tag are not understood. Where the host has no address on the card,
//! nobody's is named as the asker's, and some routers do not answer that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{UplinkError, sys};
use crate::datagram;
use crate::names::{NetworkId, Owner};
use crate::neighbor::{Asker, Event, Lan, Lookup, Outbox, Settings};

/// Longer than any neighbour is waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// Octets of a frame that are looked at.
const FRAME: usize = 2048;

/// Which of these neighbours answer on the card with this index, and by which MAC address.
pub fn knock(
    index: u32,
    settings: Settings,
    wanted: &[IpAddr],
) -> Result<BTreeMap<IpAddr, crate::names::Mac>, UplinkError> {
    let failed = |action: &str, source| UplinkError::refused(action, "CAP_NET_RAW", source);
    let socket = sys::packet_socket().map_err(|e| failed("make a packet socket", e))?;
    sys::set_int(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
        .and_then(|()| sys::bind(socket.as_fd(), index, libc::ETH_P_ALL as u16))
        .map_err(|e| failed("bind a packet socket", e))?;
    let mut visit = Visit {
        lan: Lan::new(settings),
        out: Outbox::new(),
        waiting: Vec::new(),
        found: BTreeMap::new(),
    };
    let now = Instant::now();
    for hop in wanted {
        let asker = Asker { owner: Owner::Uplink(NetworkId(0)), address: None };
        if visit.lan.lookup(now, *hop, asker, &mut visit.out) == Lookup::Resolving {
            visit.waiting.push(*hop);
        }
    }
    visit.wait(socket.as_fd()).map_err(|e| failed("ask on the LAN", e.into()))?;
    Ok(visit.found)
}

/// One round of questions.
struct Visit {
    lan: Lan,
    out: Outbox,
    waiting: Vec<IpAddr>,
    found: BTreeMap<IpAddr, crate::names::Mac>,
}

impl Visit {
    /// Asks and listens until nobody is waited for.
    fn wait(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let begun = Instant::now();
        let mut frame = [0; FRAME];
        while begun.elapsed() < PATIENCE {
            self.lan.poll(Instant::now(), &mut self.out);
            self.say(socket)?;
            if self.waiting.is_empty() {
                return Ok(());
            }
            sleep(socket, self.lan.next_deadline())?;
            while let Ok((len, _)) = recv(socket, &mut frame[..], RecvFlags::TRUNC) {
                self.hear(frame.get(..len.min(FRAME)).unwrap_or_default());
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: &[u8]) {
        if let Ok((ethernet, payload)) = datagram::parse(frame) {
            // What is malformed answers nothing.
            let _ = self.lan.input(Instant::now(), &ethernet, &payload, &mut self.out);
        }
    }

    /// Sends what is to be sent, and notes who was found and who was not.
    fn say(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        for (ethernet, rest) in self.out.frames() {
            let frame = [ethernet.as_slice(), rest].concat();
            match send(socket, &frame, SendFlags::empty()) {
                // A card that is busy, or whose link went down: it is asked again, and given up.
                Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::NETDOWN) => {}
                Err(other) => return Err(other),
            }
        }
        for event in self.out.events() {
            match event {
                Event::Resolved { hop, mac } => {
                    self.found.insert(*hop, *mac);
                    self.waiting.retain(|waits| waits != hop);
                }
                Event::Unreachable { hop } => self.waiting.retain(|waits| waits != hop),
                _ => {}
            }
        }
        self.out.clear();
        Ok(())
    }
}

/// Until something comes, or somebody is to be asked again.
fn sleep(socket: BorrowedFd<'_>, until: Option<Instant>) -> Result<(), Errno> {
    let left = until.map_or(PATIENCE, |at| at.saturating_duration_since(Instant::now()));
    // A little later rather than a little before.
    let left = left.saturating_add(Duration::from_millis(1));
    let limit = Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(1),
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(other) => Err(other),
    }
}
