//! A LAN that says nothing by itself: everybody on it answers when asked for, and no more.
//!
//! # Theory of operation
//! A kernel on the LAN answers ARP and neighbour discovery, and says much more: it reports groups,
//! looks for routers, complains about datagrams that it cannot use. Where a test counts every single
//! frame, the kernel's part is taken by a thread that answers for every address but the host's and the
//! VMs'; all else that passes is the test's or the base's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::capture::Tap;
use crate::error::{Attempt, Result};
use crate::frames::{self, Mac, protocol};
use crate::scene::{HOST, LAN_CARD, Scene, vm};

/// How often the thread looks whether it is to end.
const TURN: Duration = Duration::from_millis(20);
/// Advertisement flags: solicited, override.
const FLAGS: u8 = 0x60;

/// The machine. It goes when this is dropped.
#[derive(Debug)]
pub struct QuietNeighbor {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl QuietNeighbor {
    /// Takes the place of the kernel at the LAN's end of the cable.
    pub fn replace(scene: &Scene) -> Result<Self> {
        silence_kernel(scene)?;
        let mac = crate::netns::mac(&scene.outside, LAN_CARD)?;
        let tap = Tap::open(&scene.outside, LAN_CARD)?;
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let work = move || {
            while !stop.load(Ordering::Relaxed) {
                // The tap goes with its namespace, when nobody asks any more.
                let Ok(heard) = tap.receive(TURN) else { return };
                let question = heard.filter(|f| !f.outgoing);
                if let Some(answer) = question.and_then(|f| answer(mac, &f.bytes)) {
                    let _ = tap.send(&answer);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("quiet neighbour".to_owned())
            .spawn(work)
            .attempt(|| "start a thread".to_owned())?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for QuietNeighbor {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes the kernel's addresses at the LAN's end of the cable away.
pub fn silence_kernel(scene: &Scene) -> Result<()> {
    scene.outside.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    scene.outside.run(&format!("ip addr flush dev {LAN_CARD}")).map(drop)
}

/// It stands for everybody on the LAN but the host and its VMs.
fn is_ours(address: IpAddr) -> bool {
    let theirs = (0..10).any(|number| vm(number).contains(&address));
    !theirs && !HOST.contains(&address)
}

/// The answer of whoever is at `mac` to a question that is not for the host or a VM.
pub fn answer(mac: Mac, frame: &[u8]) -> Option<Vec<u8>> {
    let from: Mac = *frame.get(6..)?.first_chunk()?;
    match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
        frames::ARP => answer_arp(mac, from, frame.get(14..)?),
        frames::IP6 => answer_solicitation(mac, from, frame.get(14..)?),
        _ => None,
    }
}

fn answer_arp(mac: Mac, from: Mac, message: &[u8]) -> Option<Vec<u8>> {
    let address =
        |at: usize| -> Option<Ipv4Addr> { Some((*message.get(at..)?.first_chunk::<4>()?).into()) };
    let (asker, target) = (address(14)?, address(24)?);
    let request = message.get(6..8)? == [0, 1];
    if !request || asker.is_unspecified() || !is_ours(target.into()) {
        return None;
    }
    let reply = frames::arp(2, (mac, target), (from, asker));
    Some(frames::ethernet(from, mac, frames::ARP, &reply))
}

fn answer_solicitation(mac: Mac, from: Mac, datagram: &[u8]) -> Option<Vec<u8>> {
    let address = |at: usize| -> Option<Ipv6Addr> {
        Some((*datagram.get(at..)?.first_chunk::<16>()?).into())
    };
    let (asker, target) = (address(8)?, address(48)?);
    let solicitation = *datagram.get(6)? == protocol::ICMP6 && *datagram.get(40)? == 135;
    if !solicitation || asker.is_unspecified() || !is_ours(target.into()) {
        return None;
    }
    let rest = [&[FLAGS, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat();
    let message = frames::icmp(target.into(), asker.into(), 136, 0, &rest);
    let advertisement =
        frames::Ip6 { hop_limit: 255, ..frames::Ip6::new(target, asker, protocol::ICMP6, message) };
    Some(frames::ethernet(from, mac, frames::IP6, &advertisement.bytes()))
}
