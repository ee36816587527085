//! DNS: the first octet says how long a guest's question is; what follows it is what every server outside
//! says, but for the identification, which is right. Whatever comes of it is bounded.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use base::resolver::answering::Answering;
use base::resolver::{Act, Asker, Back, Network, Settings};
use datapath::names::PortId;
use datapath::resolver::Tag;
use libfuzzer_sys::fuzz_target;

/// More than an inquiry may ever need.
const MOST_ASKED: u32 = 32;

fn settings() -> Settings {
    let own: IpAddr = Ipv4Addr::new(203, 0, 113, 10).into();
    let server = |last| (Ipv4Addr::new(192, 0, 2, last), 53).into();
    Settings {
        networks: vec![Network {
            name: "lan".into(),
            mtu: 1500,
            forwards: true,
            servers: vec![server(1), server(2)],
            ports: vec![0],
            names: [("web".to_owned(), vec![own])].into(),
        }],
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&at, rest)) = input.split_first() else { return };
    let (question, says) = rest.split_at(rest.len().min(at.into()));
    let (mut answering, mut acts) = (Answering::default(), Vec::new());
    answering.set(settings(), &mut acts);
    let to = (Ipv4Addr::new(203, 0, 113, 10), 1000).into();
    let from = Ipv4Addr::new(169, 254, 0, 1).into();
    let tag = Tag { port: PortId(0), generation: 1 };
    let (mut now, mut asked, mut told) = (Instant::now(), 0, 0);
    for _ in 0..2 {
        let asker = Asker { tag, back: Back::Udp { to, from, most: 1472 } };
        answering.ask(asker, question, now, &mut acts);
        while let Some(act) = acts.pop() {
            match act {
                Act::Answer { message, .. } => {
                    told += 1;
                    assert!((12..=1232).contains(&message.len()));
                    assert_eq!(message[..2], question[..2]);
                }
                Act::Ask { ticket, message, .. } => {
                    asked += 1;
                    assert!(asked < MOST_ASKED);
                    let mut reply = says.to_vec();
                    if let (Some(place), Some(id)) = (reply.get_mut(..2), message.get(..2)) {
                        place.copy_from_slice(id);
                    }
                    answering.heard(ticket, &reply, now, &mut acts);
                }
                Act::Close(_) => {}
            }
        }
        while let Some(due) = answering.deadline() {
            assert!(due <= now + Duration::from_secs(2));
            now = due;
            answering.poll(now, &mut acts);
            acts.retain(|act| {
                told += u32::from(matches!(act, Act::Answer { .. }));
                false
            });
        }
    }
    assert!(told <= 2);
});
