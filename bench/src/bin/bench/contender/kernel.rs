//! The kernel: two TAP devices, by system calls (without vhost-net), and what Linux offers between
//! them.
//!
//! # Theory of operation
//! A frame that is written into a device is switched before the write returns, in the writer's time.
//! So one thread writes and reads, and its processor time is the kernel's, but for what it takes to
//! write a number into a buffer: the frame is not written afresh, which is to the kernel's favour.
//! It is sent from and received into as many buffers as a guest's rings have, by turns, so that the
//! caches are used as they are by the others.

use std::time::{Duration, Instant};

use bench::frames::Kind;
use lab::Result;
use lab::netns::Netns;
use lab::tap_device::TapDevice;

use super::ours::{GATEWAY_MAC, MACS, ends};
use crate::generator::{Template, number_at};
use crate::slice::{Slice, computed};

/// Frames written before what has arrived is read: far fewer than a device keeps (500).
const BATCH: u32 = 32;
/// Longest frame with its header.
const LONGEST: usize = 1 << 17;

/// Octets of all buffers of one direction, and the number of buffers at most: as the guests' rings.
const FOOTPRINT: usize = 4 << 20;
const BUFFERS: usize = 1024;

/// What is between the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A bridge that has learned both MAC addresses.
    Bridged,
    /// Two links of a router.
    Routed,
    /// The same, with the sender's address hidden by nftables.
    Masqueraded,
}

/// Two devices and one way between them.
pub struct Kernel {
    way: Way,
    devices: [TapDevice; 2],
    /// Frames to be sent, and room for those that arrive.
    sent: Vec<Vec<u8>>,
    number: usize,
    arrived: Vec<Vec<u8>>,
    next: u64,
    expected: u64,
    _space: Netns,
}

impl Kernel {
    /// Makes devices and way for frames of one kind.
    pub fn new(way: Way, kind: Kind, octets: usize) -> Result<Self> {
        let space = Netns::new()?;
        // A new device takes these from the namespace's defaults.
        space.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        space.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        space.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        let offloads = kind == Kind::LargeTcp;
        let devices =
            [TapDevice::new(&space, "tap0", offloads)?, TapDevice::new(&space, "tap1", offloads)?];
        let mut ends = ends();
        let text = |mac: [u8; 6]| mac.map(|o| format!("{o:02x}")).join(":");
        match way {
            Way::Bridged => {
                space.run("ip link add br0 type bridge")?;
                space.run("ip link set br0 up")?;
                for (device, mac) in ["tap0", "tap1"].into_iter().zip(MACS) {
                    space.run(&format!("ip link set {device} master br0"))?;
                    space
                        .run(&format!("bridge fdb add {} dev {device} master static", text(mac)))?;
                }
                ends.macs[1] = MACS[1];
            }
            Way::Routed | Way::Masqueraded => {
                space.sysctl("net.ipv4.ip_forward", "1")?;
                let [from, to] = ends.addresses;
                for (device, address, mac) in [("tap0", from, MACS[0]), ("tap1", to, MACS[1])] {
                    space.run(&format!("ip link set {device} address {}", text(GATEWAY_MAC)))?;
                    space.run(&format!("ip route add {address}/32 dev {device}"))?;
                    let mac = text(mac);
                    space.run(&format!("ip neigh add {address} lladdr {mac} dev {device}"))?;
                }
                // A router has an address to speak from.
                space.run("ip addr add 198.51.100.1/32 dev tap1")?;
            }
        }
        if way == Way::Masqueraded {
            space.run("nft add table ip nat")?;
            space.run("nft add chain ip nat out { type nat hook postrouting priority 100 ; }")?;
            space.run("nft add rule ip nat out oifname tap1 masquerade")?;
        }
        let octets = Template::new(kind, ends, octets).octets().to_vec();
        let buffers = (FOOTPRINT / octets.len()).min(BUFFERS);
        Ok(Self {
            way,
            devices,
            number: 8 * number_at(kind),
            sent: vec![octets; buffers],
            arrived: vec![vec![0; LONGEST]; buffers],
            next: 1,
            expected: 1,
            _space: space,
        })
    }

    /// The devices: the sender's, the receiver's.
    pub fn devices(&self) -> &[TapDevice; 2] {
        &self.devices
    }

    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self.way {
            Way::Bridged => "kernel, bridged taps",
            Way::Routed => "kernel, routed taps",
            Way::Masqueraded => "kernel, masquerading",
        }
    }

    /// Sends as much as goes for `time`.
    pub fn flood(&mut self, time: Duration) -> Result<Slice> {
        let mut seen = Slice::default();
        let (start, before) = (Instant::now(), computed());
        while seen.time < time {
            for _ in 0..BATCH {
                // The kernel switches in the sender's time: it always has something to do.
                (seen.attempts, seen.full) = (seen.attempts + 1, seen.full + 1);
                let turn = self.next as usize % self.sent.len();
                let octets = &mut self.sent[turn];
                octets[self.number..self.number + 8].copy_from_slice(&self.next.to_le_bytes());
                if !self.devices[0].send(octets)? {
                    break;
                }
                self.next += 1;
            }
            self.receive(&mut seen)?;
            seen.time = start.elapsed();
        }
        seen.own_time = Some(computed().saturating_sub(before));
        Ok(seen)
    }

    fn receive(&mut self, seen: &mut Slice) -> Result<()> {
        loop {
            let turn = self.expected as usize % self.arrived.len();
            let buffer = &mut self.arrived[turn];
            let Some(len) = self.devices[1].receive(buffer)? else { return Ok(()) };
            let octets = buffer.get(self.number..).and_then(|b| b.first_chunk::<8>());
            let number = octets.map_or(0, |o| u64::from_le_bytes(*o));
            if len != self.sent[0].len() {
                // The kernel's own words: its router and bridge say some by themselves.
                continue;
            }
            if number < self.expected || number >= self.next {
                seen.wrong += 1;
                continue;
            }
            seen.lost += number - self.expected;
            self.expected = number + 1;
            seen.received += 1;
        }
    }
}
