//! DNS on the last inch of a running instance: names, reverse, a server outside, TCP, deaths of the resolver
//! and of the base. Questions and answers are octets made here; the server outside is one of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::command::wait_until;
use lab::driver::{DriverPort, Settings};
use lab::frames;
use lab::instance::Instance;
use lab::scene::{GATEWAY, OUTSIDE, Scene, vm};
use lab::stack::{Address, Stack};
use lab::wired::{MACS, Wired, Wiring};

const LIMIT: Duration = Duration::from_secs(10);
const BASE4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1));
const BASE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
/// What the server outside says to every question for an address.
const OUTSIDE_DATA: [u8; 4] = [192, 0, 2, 80];

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn question(id: u16, of: &str, kind: u16) -> Vec<u8> {
    let head = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    [head, name(of), [kind, 1].map(u16::to_be_bytes).concat()].concat()
}

/// Code, flag for truncation and data of the answers in a message.
fn told(message: &[u8]) -> (u8, bool, Vec<Vec<u8>>) {
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let skip = |mut at: usize| loop {
        match message[at] {
            0 => return at + 1,
            len if len & 0xc0 == 0xc0 => return at + 2,
            len => at += 1 + usize::from(len),
        }
    };
    let mut at = skip(12) + 4;
    let mut data = Vec::new();
    for _ in 0..word(6) {
        let head = skip(at);
        let end = head + 10 + usize::from(word(head + 8));
        data.push(message[head + 10..end].to_vec());
        at = end;
    }
    (message[3] & 15, message[2] & 2 != 0, data)
}

/// The server outside: says one address to all, and by TCP alone ten long texts.
struct Server {
    dead: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Server {
    fn start(scene: &Scene) -> Self {
        let at = SocketAddr::new(OUTSIDE[0], 53);
        let open = || (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap());
        let (udp, tcp) = scene.outside.enter(open).unwrap();
        let server = Self { dead: Arc::default(), asked: Arc::default() };
        let (dead, asked) = (server.dead.clone(), server.asked.clone());
        std::thread::spawn(move || {
            let mut room = [0; 4096];
            while let Ok((len, from)) = udp.recv_from(&mut room) {
                asked.fetch_add(1, Ordering::Relaxed);
                if !dead.load(Ordering::Relaxed) {
                    let _ = udp.send_to(&answer(&room[..len], false), from);
                }
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut message = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut message).unwrap();
                let answer = answer(&message, true);
                stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        server
    }
}

fn answer(asked: &[u8], by_tcp: bool) -> Vec<u8> {
    let end = 12 + asked[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let kind = u16::from_be_bytes([asked[end - 4], asked[end - 3]]);
    let texts = || (0..10).map(|n| [&[250][..], &[b'a' + n; 250]].concat()).collect();
    let (data, cut): (Vec<Vec<u8>>, bool) = match kind {
        A => (vec![OUTSIDE_DATA.to_vec()], false),
        TXT if by_tcp => (texts(), false),
        TXT => (vec![], true),
        _ => (vec![], false),
    };
    let flags = 0x8180 | u16::from(cut) << 9;
    let mut message = asked[..2].to_vec();
    message.extend([flags, 1, data.len() as u16, 0, 0].map(u16::to_be_bytes).concat());
    message.extend(&asked[12..end]);
    for data in data {
        message.extend([0xc00c, kind, 1, 0, 60, data.len() as u16].map(u16::to_be_bytes).concat());
        message.extend(data);
    }
    message
}

/// A VM's end of the link: asks by UDP.
struct Guest {
    port: DriverPort,
    mac: frames::Mac,
    base: frames::Mac,
    own: [IpAddr; 2],
    id: u16,
}

impl Guest {
    fn send(&mut self, to: IpAddr, of: &str, kind: u16) -> u16 {
        self.id += 1;
        let own = if to.is_ipv4() { self.own[0] } else { self.own[1] };
        let message = question(self.id, of, kind);
        let udp = frames::udp(own, to, (5000 + self.id % 100, 53), &message);
        let datagram = frames::datagram(own, to, 17, udp);
        self.port.send_plain(&frames::carry(self.base, self.mac, &datagram)).unwrap();
        self.id
    }

    /// The answer to a question, if one comes within this time.
    fn hear(&mut self, id: u16, limit: Duration) -> Option<Vec<u8>> {
        let message = |frame: &[u8]| {
            let datagram = frames::datagram_of(frame);
            let (header, kind) = match datagram[0] >> 4 {
                4 => (20, datagram[9]),
                _ => (40, datagram[6]),
            };
            let from_dns = kind == 17 && datagram[header..header + 2] == [0, 53];
            from_dns.then(|| datagram[header + 8..].to_vec())
        };
        let mine = |frame: &[u8]| message(frame).is_some_and(|m| m[..2] == id.to_be_bytes());
        let found = self.port.receive_matching(limit, |_, frame| mine(frame)).unwrap();
        found.and_then(|(_, frame)| message(&frame))
    }

    fn ask(&mut self, to: IpAddr, of: &str, kind: u16) -> (u8, bool, Vec<Vec<u8>>) {
        let id = self.send(to, of, kind);
        told(&self.hear(id, LIMIT).unwrap_or_else(|| panic!("no answer about {of}")))
    }

    /// Asks for its own name until it is told.
    fn wait_for_resolver(&mut self, what: &str) {
        wait_until(
            LIMIT,
            || format!("the resolver, {what}"),
            || {
                let id = self.send(BASE4, "a", A);
                Ok(self.hear(id, Duration::from_millis(200)).map(drop))
            },
        )
        .unwrap();
    }
}

/// The resolver's process.
fn resolver(instance: &Instance) -> Option<i32> {
    let base = instance.base_process().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{base}/task/{base}/children")).ok()?;
    let is = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("__resolver")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

/// Two VMs on the scene's network, of which the first asks, and a server outside.
fn set() -> (Guest, DriverPort, Server, Instance, Scene) {
    let scene = Scene::set().unwrap();
    let server = Server::start(&scene);
    let network = format!("dns = [\"{}\"]", OUTSIDE[0]);
    let wiring = Wiring { drivers: [Settings::plain(); 2], network, ..Wiring::default() };
    let Wired { a, b, instance, scene, base_mac, .. } = Wired::on(scene, &wiring).unwrap();
    let mut guest = Guest { port: a, mac: MACS[0], base: base_mac, own: vm(0), id: 0 };
    guest.wait_for_resolver("at first");
    (guest, b, server, instance, scene)
}

#[test]
fn guests_are_told_names_whatever_becomes_of_resolver_and_base() {
    let _alone = lab::paths::alone().unwrap();
    let (mut guest, b, server, instance, _scene) = set();
    let [v4, v6] = vm(1);

    // Names of VMs, both ways, over both families.
    assert_eq!(guest.ask(BASE4, "b", A), (0, false, vec![octets(v4)]));
    assert_eq!(guest.ask(BASE6, "B.lan", AAAA), (0, false, vec![octets(v6)]));
    let last = octets(v4)[3];
    let reverse = guest.ask(BASE4, &format!("{last}.113.0.203.in-addr.arpa"), PTR);
    assert_eq!(reverse, (0, false, vec![name("b.lan")]));
    assert_eq!(guest.ask(BASE4, "nobody", A).0, 3);
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);

    // Others, by a server outside; what is long by TCP.
    assert_eq!(guest.ask(BASE4, "www.example.com", A), (0, false, vec![OUTSIDE_DATA.to_vec()]));
    assert_eq!(guest.ask(BASE6, "long.example.com", TXT), (0, true, vec![]));
    let IpAddr::V4(own4) = v4 else { panic!() };
    let IpAddr::V6(own6) = v6 else { panic!() };
    let IpAddr::V4(router) = GATEWAY[0] else { panic!() };
    let address = Address { v4: own4, prefix: 24, router, v6: own6 };
    let stack = Stack::start(b, MACS[1], address).unwrap();
    for to in [BASE4, BASE6] {
        let message = question(1, "long.example.com", TXT);
        let heard = stack.ask_by_tcp(SocketAddr::new(to, 53), &message).unwrap();
        let (code, cut, data) = told(&heard);
        assert_eq!((code, cut, data.len(), data[9].len()), (0, false, 10, 251), "{to}");
    }

    // It has no privileges.
    let process = resolver(&instance).expect("it is the base's child");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t \n",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line}:\n{status}");
    }

    // A dead server outside is told as a failure in time.
    server.dead.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert_eq!(guest.ask(BASE4, "slow.example.com", A).0, 2);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    server.dead.store(false, Ordering::Relaxed);

    // The resolver dies.
    kill(process);
    guest.wait_for_resolver("after it was killed");
    assert_ne!(resolver(&instance), Some(process));
    assert_eq!(guest.ask(BASE4, "www.example.com", A).0, 0);
    instance.wait_event("resolver", "base", "it has ended").unwrap();
    assert!(instance.counters().unwrap().get("vm/a", "drop.resolver_away") > 0);

    // The base dies.
    let orphan = resolver(&instance).unwrap();
    let before = instance.kill_base().unwrap();
    instance.wait_successor(before, LIMIT).unwrap();
    guest.wait_for_resolver("of the successor");
    assert_eq!(guest.ask(BASE4, "www.example.com", A).0, 0);
    assert_ne!(resolver(&instance), Some(orphan));
    let gone = || !std::path::Path::new(&format!("/proc/{orphan}")).exists();
    wait_until(LIMIT, || "the end of the orphan".to_owned(), || Ok(gone().then_some(()))).unwrap();
    instance.balanced(LIMIT).unwrap();
    drop(stack);
    instance.down().unwrap();
}

#[test]
fn one_that_floods_and_one_that_hangs_do_not_keep_others_from_names() {
    let _alone = lab::paths::alone().unwrap();
    let (mut guest, b, _server, instance, _scene) = set();
    let mut other = Guest { port: b, mac: MACS[1], base: guest.base, own: vm(1), id: 0 };
    for n in 0..5000 {
        guest.send(BASE4, &format!("n{}.example.com", n % 7), A);
    }
    assert_eq!(other.ask(BASE4, "a", A).0, 0);
    let counters = instance.counters().unwrap();
    assert!(counters.get("vm/a", "drop.resolver_budget") > 1000, "{counters:?}");
    assert_eq!(counters.get("vm/b", "drop.resolver_budget"), 0);

    // One that hangs is ended, and another takes its place.
    let process = resolver(&instance).unwrap();
    let pid = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    instance.wait_event("resolver", "base", "silent").unwrap();
    other.wait_for_resolver("after it hung");
    assert_ne!(resolver(&instance), Some(process));
    instance.balanced(LIMIT).unwrap();
    instance.down().unwrap();
}

#[test]
fn names_follow_a_reload_and_a_network_may_do_without() {
    let _alone = lab::paths::alone().unwrap();
    let (mut guest, _b, _server, instance, _scene) = set();
    let config = std::fs::read_to_string(instance.config_path()).unwrap();
    let more = vm(5)[0];
    let text = config.replacen(&format!("\"{}\"", vm(1)[0]), &format!("\"{more}\""), 1);
    std::fs::write(instance.config_path(), text).unwrap();
    let said = instance.finish(&["reload"]).unwrap();
    assert!(said.status.success(), "{said:?}");
    guest.wait_for_resolver("after the reload");
    wait_until(
        LIMIT,
        || "the other address".to_owned(),
        || Ok((guest.ask(BASE4, "b", A).2 == [octets(more)]).then_some(())),
    )
    .unwrap();
    std::fs::write(instance.config_path(), config.replace("dns =", "resolver = false\ndns ="))
        .unwrap();
    let said = instance.finish(&["reload"]).unwrap();
    assert!(said.status.success(), "{said:?}");
    let before = instance.counters().unwrap();
    let id = guest.send(BASE4, "b", A);
    assert!(guest.hear(id, Duration::from_millis(1500)).is_none());
    let since = instance.counters().unwrap().since(&before);
    assert_eq!(since.get("vm/a", "drop.not_served"), 1);
    assert_eq!(resolver(&instance), None);
    instance.down().unwrap();
}
