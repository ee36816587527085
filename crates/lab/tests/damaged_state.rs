//! The state memory of a running instance is damaged at places nobody chose, and the base killed:
//! its successor takes over what it can trust, and carries what it carried before.
//!
//! The octet is changed while the base stands still, so that none but the successor meets it. That
//! each octet in turn is met as it should be shows a test beside the code
//! (`vhost/tests/damage.rs`); here the whole base does it, with its card and its path to the host.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::command::wait_until;
use lab::deaths::{deaths, is_panic};
use lab::driver::{DriverPort, Settings};
use lab::frames;
use lab::instance::Instance;
use lab::scene::{OUTSIDE, vm};
use lab::wired::{LIMIT, MACS, NAMES, Wired, Wiring};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const TAKEOVERS: u64 = 300;
/// Of these, how many try the way to the LAN too: an address that has to be probed for is silent
/// meanwhile.
const LAN_EVERY: u64 = 10;
const PAGE: u64 = 4096;

/// The state memory, as the holder has it.
fn state_memory(holder: i32) -> File {
    for entry in std::fs::read_dir(format!("/proc/{holder}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let is = |target: std::path::PathBuf| target.to_string_lossy().contains("ipvisor-state");
        if std::fs::read_link(&path).is_ok_and(is) {
            return File::options().read(true).write(true).open(path).unwrap();
        }
    }
    panic!("the holder {holder} has no state memory");
}

/// Where there is a word that is not zero: what is in use.
fn in_use(memory: &File) -> Vec<u64> {
    let (mut at, mut words) = (0, Vec::new());
    let mut page = [0; PAGE as usize];
    while let Ok(from) = rustix::fs::seek(memory, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(memory, rustix::fs::SeekFrom::Hole(from)).unwrap();
        for start in (from..end).step_by(PAGE as usize) {
            memory.read_exact_at(&mut page, start).unwrap();
            let used = page.chunks(8).enumerate().filter(|(_, word)| **word != [0; 8]);
            words.extend(used.map(|(n, _)| start + 8 * n as u64));
        }
        at = end;
    }
    words
}

/// What the base says of itself, without a process for each question.
fn base_of(instance: &Instance) -> Option<i32> {
    let ps = instance.ask(&json!({"do": "ps"})).ok()?;
    ps.pointer("/instance/base")?.as_i64()?.try_into().ok()
}

/// Stops the base, changes an octet of the state memory, kills it, and waits for its successor; gives
/// the process that was killed.
fn damage(instance: &Instance, memory: &File, at: u64, by: u8) -> i32 {
    let base = base_of(instance).unwrap();
    let signal = |signal| kill_process(Pid::from_raw(base).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    let mut octet = [0];
    memory.read_exact_at(&mut octet, at).unwrap();
    memory.write_all_at(&[octet[0] ^ by], at).unwrap();
    signal(Signal::KILL);
    let successor = || Ok(base_of(instance).filter(|now| *now != base));
    wait_until(LIMIT, || format!("a successor after octet {at} ^ {by:#x}"), successor).unwrap();
    base
}

/// Each driver sends to both addresses of the other: they arrive there, and nothing comes that is
/// not its own.
fn exchange(ports: &mut [DriverPort; 2], base_mac: [u8; 6], tag: u64, when: &str) {
    let payload = tag.to_be_bytes();
    for (from, to) in [(0, 1), (1, 0)] {
        for family in [0, 1] {
            let [source, destination] = [from, to].map(|n| vm(n as u8)[family]);
            let udp = frames::udp(source, destination, (1, 2), &payload);
            let datagram = frames::datagram(source, destination, frames::protocol::UDP, udp);
            let frame = frames::carry(base_mac, MACS[from], &datagram);
            ports[from].send_plain(&frame).unwrap();
            let end = Instant::now() + LIMIT;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let Some((_, frame)) = ports[to].receive(left).unwrap() else {
                    panic!("{when}: no datagram from {source} to {destination}");
                };
                if let Some(address) = destination_of(&frame) {
                    assert!(vm(to as u8).contains(&address), "{when}: {address} at {}", NAMES[to]);
                }
                if frames::datagram_of(&frame) == datagram {
                    break;
                }
            }
        }
    }
}

/// To whom a frame's datagram is, if that is one address.
fn destination_of(frame: &[u8]) -> Option<IpAddr> {
    let datagram = frames::datagram_of(frame);
    let address = match datagram.first()? >> 4 {
        4 => IpAddr::from(*datagram.get(16..)?.first_chunk::<4>()?),
        6 => IpAddr::from(*datagram.get(24..)?.first_chunk::<16>()?),
        _ => return None,
    };
    (!address.is_multicast()).then_some(address)
}

/// The machine outside answers a driver's echo request.
fn reaches_outside(port: &mut DriverPort, base_mac: [u8; 6], tag: u64, when: &str) {
    let [source, destination] = [vm(0)[0], OUTSIDE[0]];
    let end = Instant::now() + Duration::from_secs(20);
    let [.., a, b] = tag.to_be_bytes();
    while Instant::now() < end {
        let echo = frames::icmp(source, destination, 8, 0, &[a, b, 0, 1]);
        let request = frames::datagram(source, destination, frames::protocol::ICMP, echo);
        port.send_plain(&frames::carry(base_mac, MACS[0], &request)).unwrap();
        let is_reply = |_: &_, frame: &[u8]| {
            let datagram = frames::datagram_of(frame);
            datagram.get(20) == Some(&0) && datagram.get(24..26) == Some(&[a, b])
        };
        if port.receive_matching(Duration::from_millis(500), is_reply).unwrap().is_some() {
            return;
        }
    }
    panic!("{when}: nobody answers outside");
}

fn is_damage(event: &Value) -> bool {
    event["kind"] == "state_damaged"
}

#[test]
fn a_state_memory_damaged_anywhere_stops_nobody() {
    let settings = Settings { ring: 64, ..Settings::plain() };
    let wiring = Wiring { drivers: [settings; 2], ..Wiring::default() };
    let Wired { a, b, instance, base_mac, scene: _scene, .. } = Wired::up(&wiring).unwrap();
    let memory = state_memory(instance.holder_process().unwrap());
    let mut ports = [a, b];
    let mut chance = Chance::fresh();
    let (mut told, mut anew, mut killed) = (0, 0, Vec::new());
    reaches_outside(&mut ports[0], base_mac, 0, "at first");
    for n in 1..=TAKEOVERS {
        let used = in_use(&memory);
        let at = used[chance.below(used.len() as u64) as usize] + chance.below(8);
        let by = 1 + chance.below(255) as u8;
        killed.push(damage(&instance, &memory, at, by));
        let when = format!("takeover {n}, octet {at} ^ {by:#x}");
        let mut shut = Vec::new();
        for (port, name) in ports.iter_mut().zip(NAMES) {
            if port.front_end.is_closed() {
                *port = DriverPort::connect(&instance.socket(name), &settings).unwrap();
                shut.push(format!("vm/{name}"));
            }
        }
        exchange(&mut ports, base_mac, n, &when);
        let events = instance.ask(&json!({"do": "events"})).unwrap();
        let damaged: Vec<_> = events.as_array().unwrap().iter().filter(|e| is_damage(e)).collect();
        for port in &shut {
            let named = damaged.iter().any(|e| e["subject"] == port.as_str());
            assert!(named, "{when}: {port} was shut out, and told is {damaged:?}");
        }
        anew += shut.len();
        told += usize::from(!damaged.is_empty());
        if n % LAN_EVERY == 0 {
            reaches_outside(&mut ports[0], base_mac, n, &when);
        }
    }
    println!("{TAKEOVERS} octets damaged: {told} told, {anew} front ends negotiated anew");
    assert!(told >= TAKEOVERS as usize / 5, "only {told} were told");
    // By the holder's word: the base's own count of takeovers lies in the memory that is damaged.
    let log = instance.messages();
    let died = deaths(&log);
    assert_eq!(died.iter().map(|d| d.process).collect::<Vec<_>>(), killed, "others died besides");
    assert!(died.iter().all(|death| death.at_once), "the next base had to wait: {died:?}");
    assert_eq!(log.lines().find(|line| is_panic(line)), None);
    instance.down().unwrap();
}
