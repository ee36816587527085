//! Questions and answers in octets that were made by hand, without the library that is under test.
#![allow(clippy::arithmetic_side_effects)]

mod hostile;
mod local;
mod octets;
mod outside;
mod tcp;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use datapath::names::PortId;

use super::answering::Answering;
use super::{Act, Asker, Back, Carrier, Network, Settings, Tag, Ticket};
use octets::Message;

const SERVERS: [&str; 2] = ["192.0.2.1:53", "192.0.2.2:53"];

fn servers() -> Vec<SocketAddr> {
    SERVERS.map(|server| server.parse().unwrap()).into()
}

/// Port 0 is on network "lan", port 1 on a private one, port 2 on none that is answered.
fn settings() -> Settings {
    let names = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        [("web".to_owned(), addresses), ("bare".to_owned(), Vec::new())].into()
    };
    let lan = Network {
        name: "lan".into(),
        mtu: 1500,
        forwards: true,
        servers: servers(),
        ports: vec![0],
        names: names(&["203.0.113.10", "203.0.113.11", "2001:db8:1::10"]),
    };
    let private = Network {
        name: "inside".into(),
        forwards: false,
        servers: vec![],
        ports: vec![1],
        names: names(&["198.51.100.1"]),
        ..lan.clone()
    };
    Settings { networks: vec![lan, private] }
}

fn tag(port: u16) -> Tag {
    Tag { port: PortId(port), generation: 7 }
}

fn by_udp(port: u16) -> Asker {
    let (to, from) = ("203.0.113.10:1000".parse().unwrap(), "169.254.0.1".parse().unwrap());
    Asker { tag: tag(port), back: Back::Udp { to, from, most: 1472 } }
}

/// What decides, and a clock that is moved by hand.
struct Bench {
    answering: Answering,
    now: Instant,
}

/// A server that was asked.
#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    server: SocketAddr,
    carrier: Carrier,
    message: Vec<u8>,
}

/// What came of something.
#[derive(Debug, Default)]
struct Came {
    told: Vec<Message>,
    asked: Vec<Asked>,
    closed: Vec<Ticket>,
}

impl Bench {
    fn new() -> Self {
        let mut answering = Answering::default();
        answering.set(settings(), &mut Vec::new());
        Self { answering, now: Instant::now() }
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
    }

    fn ask_as(&mut self, asker: Asker, message: &[u8]) -> Came {
        let mut acts = Vec::new();
        self.answering.ask(asker, message, self.now, &mut acts);
        Came::of(acts)
    }

    fn ask(&mut self, port: u16, message: &[u8]) -> Came {
        self.ask_as(by_udp(port), message)
    }

    /// The one answer to a question, told at once.
    fn told(&mut self, port: u16, message: &[u8]) -> Message {
        self.ask(port, message).only_told()
    }

    fn heard(&mut self, ticket: Ticket, message: &[u8]) -> Came {
        let mut acts = Vec::new();
        self.answering.heard(ticket, message, self.now, &mut acts);
        Came::of(acts)
    }

    fn failed(&mut self, ticket: Ticket) -> Came {
        let mut acts = Vec::new();
        self.answering.failed(ticket, self.now, &mut acts);
        Came::of(acts)
    }

    fn poll(&mut self) -> Came {
        let mut acts = Vec::new();
        self.answering.poll(self.now, &mut acts);
        Came::of(acts)
    }
}

impl Came {
    fn of(acts: Vec<Act>) -> Self {
        let mut came = Self::default();
        for act in acts {
            match act {
                Act::Answer { message, .. } => came.told.push(Message::read(&message)),
                Act::Ask { ticket, server, carrier, message } => {
                    came.asked.push(Asked { ticket, server, carrier, message });
                }
                Act::Close(ticket) => came.closed.push(ticket),
            }
        }
        came
    }

    fn only_told(mut self) -> Message {
        assert_eq!((self.told.len(), self.asked.len()), (1, 0), "{self:?}");
        self.told.remove(0)
    }

    fn only_asked(mut self) -> Asked {
        assert_eq!((self.told.len(), self.asked.len()), (0, 1), "{self:?}");
        self.asked.remove(0)
    }
}
