//! DNS on the last inch: into the resolver's socket and back, for a resolver that is played here.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use datapath::answer::{BASE4, LastInch, Lease4};
use datapath::counters::{Counter, Counters};
use datapath::names::{Mac, Owner, PortId};
use datapath::resolver::{Tag, sockets};
use datapath::state::StateMemory;
use datapath::worker::WorkerHandle;
use etherparse::PacketBuilder;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use virtqueue::NetHeader;
use virtqueue::driver::{DriverQueue, Shape};

use crate::stage::{PATIENCE, Vm, world_of};

/// A VM with DNS on its link.
fn attach(worker: &WorkerHandle, id: u16) -> Vm {
    let vm = Vm::<DriverQueue>::attach(worker, id);
    let lease = Lease4 { address: vm.address, prefix_len: 24, router: BASE4 };
    let (guest_mac, addresses4) = (Some(vm.mac), vec![lease]);
    let inch = LastInch { guest_mac, addresses4, resolves: true, ..LastInch::silent(1500) };
    worker.set_inch(PortId(id), inch).unwrap();
    vm
}

fn question(vm: &Vm, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(vm.mac.0, Mac::BASE.0)
        .ipv4(vm.address.octets(), BASE4.octets(), 7)
        .udp(1000, 53)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// What the resolver says to a port.
fn answer(tag: Tag, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    PacketBuilder::ipv4(BASE4.octets(), to.octets(), 64)
        .udp(53, 1000)
        .write(&mut datagram, payload)
        .unwrap();
    [&tag.to_bytes()[..], &datagram].concat()
}

/// The next message by any of the sockets, and by which.
fn heard(sockets: &[OwnedFd]) -> (usize, Vec<u8>) {
    let until = Instant::now() + PATIENCE;
    let mut room = [0; 4096];
    loop {
        for (number, socket) in sockets.iter().enumerate() {
            if let Ok((len @ 1.., _)) = recv(socket, &mut room, RecvFlags::DONTWAIT) {
                return (number, room[..len].to_vec());
            }
        }
        assert!(Instant::now() < until, "nothing was asked");
    }
}

fn say(socket: &OwnedFd, message: &[u8]) {
    send(socket, message, SendFlags::empty()).unwrap();
}

fn counted(state: &StateMemory, id: u16, counter: Counter) -> u64 {
    Counters::of(state, Owner::Port(PortId(id))).get(counter)
}

fn wait_for(state: &StateMemory, counter: Counter, count: u64) {
    let until = Instant::now() + PATIENCE;
    while counted(state, 1, counter) < count {
        assert!(Instant::now() < until, "{}", counter.name());
    }
    assert_eq!(counted(state, 1, counter), count);
}

#[test]
fn questions_reach_the_resolver_and_its_answers_the_one_who_asked() {
    for workers in [1, 2] {
        let (state, worker) = world_of(workers);
        let (mut a, mut b) = (attach(&worker, 1), attach(&worker, 2));
        a.send(&question(&a, b"to nobody"));
        wait_for(&state, Counter::DropResolverAway, 1);

        let (ours, theirs) = sockets(workers).unwrap();
        worker.set_resolver(ours).unwrap().unwrap();
        let frame = question(&a, b"one");
        a.send(&frame);
        let (by, message) = heard(&theirs);
        let (tag, datagram) = Tag::split(&message).unwrap();
        assert_eq!((tag.port, datagram), (PortId(1), &frame[14..]));
        assert_eq!(counted(&state, 1, Counter::ToResolver), 1);
        let told = answer(tag, a.address, b"answer");
        say(&theirs[by], &told);
        let came = a.receive();
        assert_eq!((&came[..6], &came[6..12]), (&a.mac.0[..], &Mac::BASE.0[..]));
        assert_eq!(came[14..], told[Tag::LEN..]);

        // What is not for this port, or for one that had its number, does not come in.
        let before = Tag { generation: tag.generation.wrapping_sub(100), ..tag };
        for wrong in [
            answer(before, a.address, b"old"),
            answer(tag, b.address, b"not its own"),
            [&tag.to_bytes()[..], b"nonsense"].concat(),
            answer(Tag { port: PortId(9), ..tag }, a.address, b"nobody"),
            b"cut".to_vec(),
        ] {
            say(&theirs[by], &wrong);
        }
        wait_for(&state, Counter::RxResolver, 3);

        // By whichever worker it comes; one that has not the port does not wait for who has.
        b.send(&question(&b, b"two"));
        let (_, message) = heard(&theirs);
        let (tag, _) = Tag::split(&message).unwrap();
        for socket in &theirs {
            let until = Instant::now() + PATIENCE;
            let mut frame = Vec::new();
            let fates = || counted(&state, 2, Counter::RxResolver);
            while !frame.ends_with(b"second") {
                let refused = fates();
                say(socket, &answer(tag, b.address, b"second"));
                while b.rx.receive(&mut frame).is_none() && fates() == refused {
                    assert!(Instant::now() < until, "no fate");
                }
            }
        }

        // It ends, and nobody looks at its sockets for ever.
        drop(theirs);
        a.send(&question(&a, b"gone"));
        wait_for(&state, Counter::DropResolverAway, 2);
        worker.set_resolver(Vec::new()).unwrap().unwrap();
        let ping = a.echo(BASE4);
        a.send(&ping);
        a.receive();
        worker.shut_down();
    }
}

#[test]
fn who_asks_without_end_is_stopped_and_a_resolver_that_sleeps_holds_up_nobody() {
    let (state, worker) = world_of(1);
    let mut a = attach(&worker, 1);
    let (ours, theirs) = sockets(1).unwrap();
    worker.set_resolver(ours).unwrap().unwrap();
    let frame = question(&a, &[7; 1400]);
    for _ in 0..3000 {
        let until = Instant::now() + PATIENCE;
        loop {
            a.tx.reclaim();
            if a.tx.send(&NetHeader::default(), &frame, Shape::default()).is_some() {
                break;
            }
            assert!(Instant::now() < until, "the worker takes no more");
        }
        if a.tx.queue.expose() {
            rustix::io::write(&*a.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }
    let of = |counter| counted(&state, 1, counter);
    let until = Instant::now() + PATIENCE;
    while of(Counter::Taken) < 3000 {
        assert!(Instant::now() < until);
    }
    worker.comes_round().unwrap();
    let fates =
        [Counter::ToResolver, Counter::DropResolverFull, Counter::DropResolverBudget].map(of);
    assert!(fates.iter().all(|count| *count > 0), "{fates:?}");
    assert_eq!(fates.iter().sum::<u64>(), 3000);
    drop(theirs);
    worker.shut_down();
}
