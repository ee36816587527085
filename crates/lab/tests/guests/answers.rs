//! How soon the base answers what a booting guest asks: each question, many times, by the clock of
//! the driver that asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use lab::driver::{DriverPort, Settings};
use lab::frames::{self, Mac, protocol};
use lab::instance::Instance;
use lab::scene::{Scene, vm};

use crate::stage::{LIMIT, Turn};

/// What a booting guest can wait for an answer without noticing.
const SOON: Duration = Duration::from_millis(50);
const ROUNDS: u32 = 200;
const MAC: Mac = [2, 0, 0, 0, 0, 0x0a];
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const EVERYBODY: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
/// This driver's link-local address.
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x0a));
/// All DHCPv6 servers and relays, and all routers, of the link.
const SERVERS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2));
const ROUTERS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2));

/// A frame to a group or to all.
fn frame(source: IpAddr, destination: IpAddr, number: u8, message: Vec<u8>) -> Vec<u8> {
    let to = match destination {
        IpAddr::V4(_) => [0xff; 6],
        IpAddr::V6(a) => {
            let [.., b, c, d, e] = a.octets();
            [0x33, 0x33, b, c, d, e]
        }
    };
    let mut datagram = frames::datagram(source, destination, number, message);
    if source.is_ipv6() {
        // Neighbour discovery is believed with the highest hop limit only.
        datagram[7] = 255;
    }
    frames::carry(to, MAC, &datagram)
}

/// A message of a DHCP client: its kind and more options.
fn dhcp4(exchange: u32, kind: u8, more: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0];
    message.extend(exchange.to_be_bytes());
    message.resize(28, 0);
    message.extend(MAC);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind]);
    message.extend(more);
    message.push(255);
    message.resize(300, 0);
    frame(NOBODY, EVERYBODY, protocol::UDP, frames::udp(NOBODY, EVERYBODY, (68, 67), &message))
}

fn option6(code: u16, data: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

/// A message of a DHCPv6 client that wants an address.
fn dhcp6(exchange: u32, kind: u8, more: &[u8]) -> Vec<u8> {
    let identity = [&[0, 3, 0, 1][..], &MAC].concat();
    let wanted = [[0, 0, 0, 1], [0; 4], [0; 4]].concat();
    let header = [kind, (exchange >> 16) as u8, (exchange >> 8) as u8, exchange as u8];
    let parts = [&header[..], &option6(1, &identity), &option6(3, &wanted), &option6(8, &[0, 0])];
    let message = [parts.concat().as_slice(), more].concat();
    let ports = (546, 547);
    frame(LINK_LOCAL, SERVERS, protocol::UDP, frames::udp(LINK_LOCAL, SERVERS, ports, &message))
}

fn router_solicitation() -> Vec<u8> {
    let rest = [&[0, 0, 0, 0, 1, 1][..], &MAC].concat();
    let message = frames::icmp(LINK_LOCAL, ROUTERS, 133, 0, &rest);
    frame(LINK_LOCAL, ROUTERS, protocol::ICMP6, message)
}

/// The data of a UDP message in a frame without options, if it goes to this port.
fn udp_data(frame: &[u8], port: u16) -> Option<&[u8]> {
    let at = if frame.get(12..14)? == frames::IP6.to_be_bytes() { 14 + 40 } else { 14 + 20 };
    let message = frame.get(at..)?;
    (message.get(2..4)? == port.to_be_bytes()).then(|| &message[8..])
}

/// The kind of a DHCP server's message, if it belongs to this exchange.
fn kind4(frame: &[u8], exchange: u32) -> Option<u8> {
    let message = udp_data(frame, 68)?;
    let options = message.get(240..)?;
    let kind = options.windows(3).find(|w| w.starts_with(&[53, 1]))?[2];
    (message.get(4..8)? == exchange.to_be_bytes()).then_some(kind)
}

/// The kind of a DHCPv6 server's message, if it belongs to this exchange.
fn kind6(frame: &[u8], exchange: u32) -> Option<u8> {
    let message = udp_data(frame, 546)?;
    (message.get(1..4)? == &exchange.to_be_bytes()[1..]).then_some(message[0])
}

/// The server's identifier in its DHCPv6 message, as an option.
fn server_of(frame: &[u8]) -> Vec<u8> {
    let mut options = &udp_data(frame, 546).unwrap()[4..];
    loop {
        let (head, rest) = options.split_at(4);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[..2] == [0, 2] {
            return options[..4 + length].to_vec();
        }
        options = &rest[length..];
    }
}

/// Asks, and gives the answer and how long it took.
fn ask(
    port: &mut DriverPort,
    question: &[u8],
    wanted: impl Fn(&[u8]) -> bool,
) -> (Vec<u8>, Duration) {
    let asked = Instant::now();
    port.send_plain(question).unwrap();
    let answer = port.receive_matching(LIMIT, |_, frame| wanted(frame)).unwrap();
    let waited = asked.elapsed();
    (answer.expect("an answer").1, waited)
}

#[test]
fn every_question_of_a_booting_guest_is_answered_within_50_milliseconds() {
    let _turn = Turn::alone();
    let scene = Scene::set().unwrap();
    let [v4, v6] = vm(0);
    let config = scene.network()
        + &format!(
            "[vm.web]\nengine = \"external\"\nsocket = \"web.sock\"\nmac = \"{}\"\n\
             addresses = [\"{v4}\", \"{v6}\"]\n",
            MAC.map(|o| format!("{o:02x}")).join(":"),
        );
    let instance = Instance::up(&scene.host, &config).unwrap();
    let port = &mut DriverPort::connect(&instance.socket("web"), &Settings::default()).unwrap();
    let IpAddr::V4(own) = v4 else { panic!("{v4} is not IPv4") };

    let names = ["DISCOVER", "REQUEST", "SOLICIT", "REQUEST (6)", "router solicitation"];
    let mut longest = [Duration::ZERO; 5];
    for round in 0..ROUNDS {
        let id = 0x00c0_ff00 + round;
        let (offer, discover) = ask(port, &dhcp4(id, 1, &[]), |f| kind4(f, id) == Some(2));
        let given = &udp_data(&offer, 68).unwrap()[16..20];
        assert_eq!(given, own.octets());
        let wish = [&[50, 4][..], given, &[54, 4, 169, 254, 0, 1]].concat();
        let (_, request) = ask(port, &dhcp4(id, 3, &wish), |f| kind4(f, id) == Some(5));
        let (advertise, solicit) = ask(port, &dhcp6(id, 1, &[]), |f| kind6(f, id) == Some(2));
        let server = server_of(&advertise);
        let (reply, request6) = ask(port, &dhcp6(id, 3, &server), |f| kind6(f, id) == Some(7));
        let IpAddr::V6(own6) = v6 else { panic!("{v6} is not IPv6") };
        assert!(reply.windows(16).any(|w| w == own6.octets()), "{reply:02x?}");
        let (_, router) = ask(port, &router_solicitation(), |f| {
            f.get(12..14) == Some(&frames::IP6.to_be_bytes()) && f.get(54) == Some(&134)
        });
        for (most, now) in longest.iter_mut().zip([discover, request, solicit, request6, router]) {
            *most = now.max(*most);
        }
    }
    for (name, waited) in names.into_iter().zip(longest) {
        println!("{name}: {ROUNDS} answers within {waited:?}");
        assert!(waited < SOON, "{name}: {waited:?}");
    }
}
