//! Front ends that do not play by the rules: each costs its own connection, and nobody else's.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use vhost::vhost_user::message::FrontendReq;

use super::stage::{FrontEnd, Guest, ID, Message, PATIENCE, Stage, most_events};
use crate::names::{PortId, RingId};
use crate::vhost::{Farewell, PortDoor, PortEvent, Socket};

fn farewell(stage: &Stage) -> Farewell {
    loop {
        if let PortEvent::Detached { why } = stage.event() {
            return why;
        }
    }
}

#[test]
fn a_conversation_that_comes_octet_by_octet_is_understood() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    for message in guest.conversation() {
        let bytes = message.bytes();
        // Descriptors come with the first octets, as the kernel delivers them.
        let (head, rest) = bytes.split_at(if message.descriptors.is_empty() { 1 } else { 12 });
        front.send_bytes(head, &message.descriptors).unwrap();
        for octet in rest {
            front.socket.write_all(std::slice::from_ref(octet)).unwrap();
            assert!(stage.handle.answers_within(PATIENCE));
        }
    }
    assert!(front.settle());
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn several_messages_in_one_piece_are_told_apart() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    let plain = Message::new(FrontendReq::SET_OWNER, &[]).bytes();
    let question = Message::new(FrontendReq::GET_QUEUE_NUM, &[]).bytes();
    let mut bytes = plain.repeat(100);
    bytes.extend(question);
    // A descriptor that belongs to the first.
    let kick = guest.set_kick(crate::names::RingId::RX);
    front.send_bytes(&[kick.bytes(), bytes].concat(), &kick.descriptors).unwrap();
    assert_eq!(front.reply().unwrap().0, u32::from(FrontendReq::GET_QUEUE_NUM));
}

#[test]
fn half_a_message_holds_nobody_up() {
    let stage = Stage::listening();
    let other = stage.dir.path().join("other.sock");
    let (id, name) = (PortId(6), "other".to_owned());
    let door =
        PortDoor { id, name, socket: Socket::Listen(other.clone()), features_mask: 0, pairs: 1 };
    stage.handle.add_port(door, Default::default()).unwrap();
    let mut slow = stage.connect();
    slow.socket.write_all(&[1, 0, 0, 0, 1]).unwrap();
    let mut quick = FrontEnd::over(std::os::unix::net::UnixStream::connect(other).unwrap());
    assert_eq!(quick.get(FrontendReq::GET_FEATURES), Some(0));
    assert!(stage.handle.answers_within(PATIENCE));
    drop(slow);
    assert!(matches!(farewell(&stage), Farewell::HungUp));
    slow = stage.connect();
    assert!(slow.settle());
}

#[test]
fn a_front_end_that_does_not_read_its_answers_is_shut_out() {
    let stage = Stage::listening();
    let front = stage.connect();
    let question = Message::new(FrontendReq::GET_FEATURES, &[]).bytes().repeat(1000);
    let mut octets = &front.socket;
    while octets.write_all(&question).is_ok() {}
    assert!(matches!(farewell(&stage), Farewell::Deaf | Farewell::HungUp));
    stage.assert_well();
}

#[test]
fn an_endless_stream_of_requests_leaves_the_others_their_turn() {
    let stage = Stage::listening();
    let front = stage.connect();
    let other = stage.dir.path().join("other.sock");
    let (id, name) = (PortId(6), "other".to_owned());
    let door =
        PortDoor { id, name, socket: Socket::Listen(other.clone()), features_mask: 0, pairs: 1 };
    stage.handle.add_port(door, Default::default()).unwrap();
    let mut quick = FrontEnd::over(std::os::unix::net::UnixStream::connect(other).unwrap());
    let chatter = Message::new(FrontendReq::SET_OWNER, &[]).bytes().repeat(1000);
    let talker = front.socket.try_clone().unwrap();
    let talking = std::thread::spawn(move || while (&talker).write_all(&chatter).is_ok() {});
    for _ in 0..100 {
        assert!(quick.settle());
    }
    assert!(stage.handle.reset_port(ID));
    talking.join().unwrap();
}

#[test]
fn messages_that_are_none_end_the_connection() {
    let guest = Guest::new();
    let owner = Message::new(FrontendReq::SET_OWNER, &[]);
    let oversize = |size: u32| [owner.bytes()[..8].to_vec(), size.to_ne_bytes().to_vec()].concat();
    let many = vec![Arc::clone(&guest.kicks[0]); 33];
    type Check = fn(&Farewell) -> bool;
    let cases: [(Vec<u8>, &[_], Check); 6] = [
        (Message { flags: 0, ..owner.clone() }.bytes(), &[], |w| {
            matches!(w, Farewell::Flags { flags: 0 })
        }),
        (Message { flags: 5, ..owner.clone() }.bytes(), &[], |w| {
            matches!(w, Farewell::Flags { flags: 5 })
        }),
        (oversize(4097), &[], |w| matches!(w, Farewell::Oversize { size: 4097, .. })),
        (oversize(u32::MAX), &[], |w| matches!(w, Farewell::Oversize { size: u32::MAX, .. })),
        (owner.bytes(), &many, |w| matches!(w, Farewell::DescriptorsCut)),
        (Message::new(FrontendReq::GET_VRING_BASE, &[9]).bytes(), &[], |w| {
            matches!(w, Farewell::Refused { .. })
        }),
    ];
    let stage = Stage::listening();
    for (bytes, fds, expected) in cases {
        let mut front = stage.connect();
        front.send_bytes(&bytes, fds).unwrap();
        assert!(front.is_hung_up());
        let why = farewell(&stage);
        assert!(expected(&why), "{why}");
    }
    stage.assert_well();
}

#[test]
fn a_header_in_pieces_with_descriptors_between_them_ends_the_connection() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    let bytes = guest.set_kick(crate::names::RingId::RX).bytes();
    front.send_bytes(&bytes[..4], std::slice::from_ref(&guest.kicks[0])).unwrap();
    front.send_bytes(&bytes[4..], &[]).unwrap();
    assert!(front.is_hung_up());
    assert!(matches!(farewell(&stage), Farewell::HeaderTorn));
}

#[test]
fn a_front_end_that_starts_and_stops_its_rings_without_end_is_slowed_down_and_nobody_else() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let other = stage.dir.path().join("other.sock");
    let socket = Socket::Listen(other.clone());
    let door =
        PortDoor { id: PortId(9), name: "other".into(), socket, features_mask: u64::MAX, pairs: 1 };
    stage.add(door).unwrap();
    let mut quick = FrontEnd::over(std::os::unix::net::UnixStream::connect(other).unwrap());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.owner.steps();
    let start = Instant::now();
    let asked = 800u32;
    for n in 0..asked {
        front.send(&Guest::enable(RingId::TX, n % 2 == 1)).unwrap();
    }
    let (mut carried_out, mut questions) = (0, 0);
    while carried_out < asked {
        assert!(quick.settle());
        questions += 1;
        carried_out += stage.owner.steps().len() as u32;
        // 512 at once, and then 250 a second.
        let most = 512 + start.elapsed().as_millis() as u32 / 4 + 1;
        assert!(carried_out <= most, "{carried_out} of {most}");
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(questions > 1, "the other one was answered meanwhile");
    assert!(front.settle());
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn refusals_without_end_are_reported_only_so_often() {
    let stage = Stage::listening();
    let mut front = stage.connect();
    let unknown = Message { request: 4000, ..Message::new(FrontendReq::SET_OWNER, &[]) };
    let start = Instant::now();
    front.say(&vec![unknown; 1000]);
    let events = stage.events().len();
    assert!((1..=most_events(start.elapsed())).contains(&events), "{events}");
}

#[test]
fn the_memory_of_a_front_end_that_shrinks_it_still_comes_and_goes() {
    virtqueue::sigbus::install().unwrap();
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    guest.memory.resize(0, 0).unwrap();
    front.say(&[guest.set_kick(crate::names::RingId::RX)]);
    stage.assert_well();
}

/// One change to a conversation.
#[derive(Clone, Debug)]
enum Mutation {
    Octet { message: usize, at: usize, value: u8 },
    Word { message: usize, at: usize, value: u64 },
    Cut { message: usize, len: usize },
    Grow { message: usize, by: usize },
    Drop { message: usize },
    Swap { a: usize, b: usize },
    Repeat { message: usize },
    Request { message: usize, request: u32 },
    DropDescriptors { message: usize },
    AddDescriptor { message: usize, from: usize },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let message = 0..64usize;
    let m = move || message.clone();
    let interesting = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1 << 63),
        (0..64u32).prop_map(|n| 1 << n),
        (0..64u32).prop_map(|n| (1u64 << n).wrapping_sub(1)),
        any::<u64>(),
    ];
    prop_oneof![
        (m(), 0..4200usize, any::<u8>()).prop_map(|(message, at, value)| Mutation::Octet {
            message,
            at,
            value
        }),
        (m(), 0..12usize, interesting).prop_map(|(message, at, value)| Mutation::Word {
            message,
            at,
            value
        }),
        (m(), 0..64usize).prop_map(|(message, len)| Mutation::Cut { message, len }),
        (m(), 0..4096usize).prop_map(|(message, by)| Mutation::Grow { message, by }),
        m().prop_map(|message| Mutation::Drop { message }),
        (m(), m()).prop_map(|(a, b)| Mutation::Swap { a, b }),
        m().prop_map(|message| Mutation::Repeat { message }),
        (m(), prop_oneof![0..48u32, any::<u32>()])
            .prop_map(|(message, request)| Mutation::Request { message, request }),
        m().prop_map(|message| Mutation::DropDescriptors { message }),
        (m(), m()).prop_map(|(message, from)| Mutation::AddDescriptor { message, from }),
    ]
}

fn mutate(said: &mut Vec<Message>, mutation: &Mutation) {
    if said.is_empty() {
        return;
    }
    let count = said.len();
    let body = |said: &mut Vec<Message>, message: usize, change: &dyn Fn(&mut Vec<u8>)| {
        change(&mut said[message % count].body);
    };
    match *mutation {
        Mutation::Octet { message, at, value } => body(said, message, &|b| {
            if !b.is_empty() {
                let at = at % b.len();
                b[at] = value;
            }
        }),
        Mutation::Word { message, at, value } => body(said, message, &|b| {
            if let Some(word) = b.get_mut(at * 8..at * 8 + 8) {
                word.copy_from_slice(&value.to_ne_bytes());
            }
        }),
        Mutation::Cut { message, len } => body(said, message, &|b| b.truncate(len)),
        Mutation::Grow { message, by } => body(said, message, &|b| b.resize(b.len() + by, 0x5a)),
        Mutation::Drop { message } => drop(said.remove(message % count)),
        Mutation::Swap { a, b } => said.swap(a % count, b % count),
        Mutation::Repeat { message } => said.push(said[message % count].clone()),
        Mutation::Request { message, request } => said[message % count].request = request,
        Mutation::DropDescriptors { message } => said[message % count].descriptors.clear(),
        Mutation::AddDescriptor { message, from } => {
            let extra = said[from % count].descriptors.first().cloned();
            said[message % count].descriptors.extend(extra);
        }
    }
}

#[test]
fn no_mutated_conversation_harms_the_dispatcher() {
    for pairs in [1, 3] {
        no_mutation_harms(pairs);
    }
}

fn no_mutation_harms(pairs: usize) {
    let (stage, guest) = (Stage::new(), Guest::with(pairs));
    stage.add(PortDoor { pairs, ..stage.door() }).unwrap();
    let conversation = guest.conversation();
    let mut runner = proptest::test_runner::TestRunner::default();
    let cases = (prop::collection::vec(mutation(), 1..6), any::<bool>());
    let outcome = runner.run(&cases, |(mutations, asks)| {
        let mut said = conversation.clone();
        mutations.iter().for_each(|m| mutate(&mut said, m));
        let mut front = stage.connect();
        for message in &mut said {
            // Half of them ask to be told, and never read what they are told.
            message.flags |= if asks { 8 } else { 0 };
            if front.send(message).is_err() {
                break;
            }
        }
        // Whether served or shut out, the dispatcher has come round.
        let question = Message::new(FrontendReq::GET_FEATURES, &[]);
        let _ = front.send(&question);
        while front.reply().is_some_and(|(request, _)| request != question.request) {}
        prop_assert!(stage.handle.answers_within(PATIENCE));
        stage.handle.reset_port(ID);
        prop_assert_eq!(stage.owner.running(), 0);
        prop_assert_eq!(stage.keeper.keys(), ["port/web/listener"]);
        Ok(())
    });
    outcome.unwrap();
    stage.assert_well();
}
