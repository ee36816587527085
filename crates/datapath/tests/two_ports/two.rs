//! What two VMs say to each other, and what the worker does about it.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datapath::answer::{BASE4, LastInch, Lease4};
use datapath::counters::{Counter, Counters};
use datapath::event::Event;
use datapath::names::{Mac, Owner, Pair, PortId, RingId};
use datapath::state::StateMemory;
use datapath::state::marks::Stretch;
use datapath::state::suspicion::{PortSuspicion, Quarantine};
use datapath::vhost::{Ring, RingOwner, features};
use virtqueue::driver::{DriverQueue, PackedQueue, Shape};
use virtqueue::{NetHeader, QueueLayout};

use crate::stage::{FEATURES, Layout, PATIENCE, Vm, world, world_of, world_over};

#[test]
fn a_datagram_arrives_as_it_was_sent_behind_the_bases_own_ethernet_header() {
    for workers in [1, 2] {
        arrives_as_it_was_sent::<DriverQueue>(workers);
        arrives_as_it_was_sent::<PackedQueue>(workers);
    }
}

fn arrives_as_it_was_sent<Q: Layout>(workers: usize) {
    let (state, worker) = world_of(workers);
    let (mut a, mut b) = (Vm::<Q>::attach(&worker, 1), Vm::<Q>::attach(&worker, 2));
    let frame = a.udp(b.address, b"hello");
    a.send(&frame);
    let arrived = b.receive();
    assert_eq!(arrived[..6], b.mac.0);
    assert_eq!(arrived[6..12], Mac::BASE.0);
    assert_eq!(arrived[14..], frame[14..]);
    let count = |port, counter| Counters::of(&state, Owner::Port(PortId(port))).get(counter);
    let until = Instant::now() + PATIENCE;
    while count(2, Counter::Delivered) != 1 {
        assert!(Instant::now() < until);
    }
    assert_eq!((count(1, Counter::Taken), count(1, Counter::ToVm)), (1, 1));
    worker.shut_down();
}

#[test]
fn a_port_that_has_fallen_asleep_is_woken_by_its_kick_and_gets_its_buffers_back() {
    for workers in [1, 2] {
        is_woken::<DriverQueue>(workers);
        is_woken::<PackedQueue>(workers);
    }
}

fn is_woken<Q: Layout>(workers: usize) {
    let (_state, worker) = world_of(workers);
    let (mut a, mut b) = (Vm::<Q>::attach(&worker, 1), Vm::<Q>::attach(&worker, 2));
    for n in 0..1000u32 {
        let frame = a.udp(b.address, &n.to_be_bytes());
        a.send(&frame);
        assert_eq!(b.receive()[42..46], n.to_be_bytes());
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let until = Instant::now() + PATIENCE;
        while a.tx.reclaim() == 0 {
            assert!(Instant::now() < until, "the tx buffer of datagram {n} did not come back");
        }
    }
    worker.shut_down();
}

#[test]
fn datagrams_of_every_shape_arrive_in_the_order_in_which_they_were_sent() {
    for workers in [1, 2] {
        arrive_in_order::<DriverQueue>(workers);
        arrive_in_order::<PackedQueue>(workers);
    }
}

fn arrive_in_order<Q: Layout>(workers: usize) {
    let (state, worker) = world_of(workers);
    let (mut a, mut b) = (Vm::<Q>::attach(&worker, 1), Vm::<Q>::attach(&worker, 2));
    let shapes: [(&[usize], Option<usize>); 5] =
        [(&[], None), (&[12], None), (&[12, 30], None), (&[12], Some(0)), (&[5, 60], Some(1))];
    let frames: Vec<_> = (0..90usize)
        .map(|n| {
            let mut payload = vec![n as u8; 4 + n * 13];
            payload[..4].copy_from_slice(&(n as u32).to_be_bytes());
            let mut frame = a.udp(b.address, &payload);
            if n % 7 == 3 {
                // Padding behind the datagram.
                frame.extend([0xee; 9]);
            }
            frame
        })
        .collect();
    for (frame, (cuts, table)) in frames.iter().zip(shapes.into_iter().cycle()) {
        a.tx.send(&NetHeader::default(), frame, Shape { cuts, table }).unwrap();
    }
    a.tx.queue.expose();
    rustix::io::write(&*a.kick, &1u64.to_ne_bytes()).unwrap();
    for frame in &frames {
        let len = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let arrived = b.receive();
        assert_eq!(arrived[..14], [&b.mac.0[..], &Mac::BASE.0, &[8, 0]].concat());
        assert_eq!(arrived[14..], frame[14..len]);
    }
    let count = |port, counter| Counters::of(&state, Owner::Port(PortId(port))).get(counter);
    let all = frames.len() as u64;
    let octets: usize = frames.iter().map(|frame| frame.len() - 14).sum();
    let until = Instant::now() + PATIENCE;
    while count(2, Counter::Delivered) != all {
        assert!(Instant::now() < until);
    }
    assert_eq!((count(1, Counter::Taken), count(1, Counter::ToVm)), (all, all));
    assert_eq!(count(1, Counter::TakenBytes), octets as u64);
    worker.shut_down();
}

#[test]
fn a_datagram_from_somebody_elses_address_is_dropped_by_name() {
    let (state, worker) = world();
    let (mut a, b) = (Vm::<DriverQueue>::attach(&worker, 1), Vm::<DriverQueue>::attach(&worker, 2));
    a.address = b.address;
    let forged = a.udp(Ipv4Addr::new(203, 0, 113, 99), b"forged");
    a.send(&forged);
    let counters = Counters::of(&state, Owner::Port(PortId(1)));
    let until = Instant::now() + PATIENCE;
    while counters.get(Counter::DropSourceNotOwn) == 0 {
        assert!(Instant::now() < until);
    }
    worker.shut_down();
}

#[test]
fn a_vm_is_told_of_no_address_that_is_not_in_the_list() {
    let (_state, worker) = world();
    let mut a = Vm::<DriverQueue>::attach(&worker, 1);
    // As if told in the same moment in which a LAN host was found to have the second.
    let withdrawn = Ipv4Addr::new(203, 0, 113, 99);
    let lease = |address| Lease4 { address, prefix_len: 24, router: BASE4 };
    let addresses4 = vec![lease(a.address), lease(withdrawn)];
    let inch = LastInch { guest_mac: Some(a.mac), addresses4, ..LastInch::silent(1500) };
    worker.set_inch(PortId(1), inch).unwrap();
    // The base answers ARP for every address but the guest's own.
    for (target, answered) in [(withdrawn, true), (a.address, false)] {
        let mut request = [&[0xff; 6], &a.mac.0[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        request.extend(a.mac.0);
        request.extend(a.address.octets());
        request.extend([0; 6]);
        request.extend(target.octets());
        a.send(&request);
        // What follows in the ring comes after the answer.
        let ping = a.echo(BASE4);
        a.send(&ping);
        let mut frame = a.receive_any();
        if answered {
            assert_eq!((&frame[12..14], &frame[28..32]), (&[8, 6][..], &target.octets()[..]));
            frame = a.receive_any();
        }
        assert_eq!(frame[12..14], [8, 0], "{target}");
    }
    worker.shut_down();
}

#[test]
fn a_front_end_that_breaks_its_rings_without_end_is_told_of_seldom() {
    let (state, _fd) = StateMemory::create().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let tell = move |event| {
        if matches!(event, Event::RingBroken { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let worker = world_over(&state, 1, Box::new(tell));
    let vm = Vm::<DriverQueue>::attach(&worker, 1);
    let memory = vm.tx.queue.memory().share();
    let layout = QueueLayout { size: 3, ..vm.tx.queue.layout() };
    let start = Instant::now();
    for _ in 0..2000 {
        let (memory, kick) = (memory.clone(), Some(vm.kick.clone()));
        let ring = Ring { memory, layout, features: FEATURES, kick, call: None, err: None };
        worker.start(PortId(1), RingId::TX, ring);
    }
    worker.comes_round().unwrap();
    let counters = Counters::of(&state, Owner::Port(PortId(1)));
    assert_eq!(counters.get(Counter::BreakLayout), 2000);
    let most = 64 + start.elapsed().as_millis() as usize / 100 + 1;
    let told = told.load(Ordering::Relaxed);
    assert!((1..=most).contains(&told), "{told} events");
    worker.shut_down();
}

#[test]
fn frames_that_go_nowhere_make_no_longer_batches_than_others() {
    let (state, worker) = world();
    // Without event indices, so that each batch that gives buffers back notifies.
    let mut a = Vm::<DriverQueue>::attach_with(&worker, 1, FEATURES & !features::RING_EVENT_IDX);
    let batches = |call: &OwnedFd| {
        let mut count = [0; 8];
        rustix::io::read(call, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    };
    batches(&a.tx_call);
    let mut nonsense = a.udp(Ipv4Addr::new(203, 0, 113, 99), b"");
    nonsense[12..14].copy_from_slice(&[0x88, 0xb5]);
    for _ in 0..256 {
        a.tx.send(&NetHeader::default(), &nonsense, Shape::default()).unwrap();
    }
    a.tx.queue.expose();
    rustix::io::write(&*a.kick, &1u64.to_ne_bytes()).unwrap();
    let counters = Counters::of(&state, Owner::Port(PortId(1)));
    let until = Instant::now() + PATIENCE;
    while counters.get(Counter::DropEthertype) < 256 {
        assert!(Instant::now() < until);
    }
    worker.comes_round().unwrap();
    assert_eq!(batches(&a.tx_call), 4, "batches of 64");
    worker.shut_down();
}

#[test]
fn a_receiver_whose_buffers_are_all_pieces_loses_its_own_datagrams_and_nobodys_time() {
    let (state, worker) = world();
    let mut a = Vm::<DriverQueue>::attach(&worker, 1);
    let mut b = Vm::<DriverQueue>::attach_without_buffers(&worker, 2, FEATURES);
    // Buffers that are many empty descriptors before one that holds something.
    let mut cuts = [0; 200];
    cuts[199] = 2000;
    while b.rx.post(2048, Shape { cuts: &cuts, table: Some(0) }).is_some() {}
    b.rx.queue.expose();
    let datagrams: Vec<_> = (0..60u8).map(|n| a.udp(b.address, &[n])).collect();
    for frame in &datagrams {
        a.tx.send(&NetHeader::default(), frame, Shape::default()).unwrap();
    }
    a.tx.queue.expose();
    rustix::io::write(&*a.kick, &1u64.to_ne_bytes()).unwrap();
    let counters = Counters::of(&state, Owner::Port(PortId(2)));
    let until = Instant::now() + PATIENCE;
    while counters.get(Counter::Delivered) + counters.get(Counter::RxEffort) < 60 {
        assert!(
            Instant::now() < until,
            "{:?}",
            counters.all().filter(|(_, n)| *n > 0).collect::<Vec<_>>()
        );
    }
    // 4096 descriptors are some twenty such buffers.
    assert!((15..30).contains(&counters.get(Counter::Delivered)));
    worker.shut_down();
}

#[test]
fn what_killed_a_base_is_left_out_and_all_around_it_arrives() {
    for workers in [1, 2] {
        what_killed_is_left_out::<DriverQueue>(workers);
        what_killed_is_left_out::<PackedQueue>(workers);
    }
}

fn what_killed_is_left_out<Q: Layout>(workers: usize) {
    let (state, worker) = world_of(workers);
    let (mut a, mut b) = (Vm::<Q>::attach(&worker, 1), Vm::<Q>::attach(&worker, 2));
    for side in RingId::FIRST {
        worker.stop(PortId(1), side);
        worker.stop(PortId(2), side);
    }
    let datagrams: Vec<_> = (0..10u8).map(|n| a.udp(b.address, &[n])).collect();
    for frame in &datagrams {
        a.send(frame);
    }
    let (sender, receiver) = (PortId(1), PortId(2));
    // As after a reset: the first datagram and a buffer are what killed; the first four datagrams
    // are served one by one.
    let (from, to) = (PortSuspicion::of(&state, sender), PortSuspicion::of(&state, receiver));
    from.set_skip(RingId::TX, Some(0));
    from.set_sent(Pair::FIRST, Some(Stretch { at: 0, len: 4 }));
    to.set_skip(RingId::RX, Some(3));
    to.set_receiving(Pair::FIRST, Some(3));
    b.start(&worker, receiver);
    a.start(&worker, sender);
    let count = |port, counter| Counters::of(&state, Owner::Port(port)).get(counter);
    let until = Instant::now() + PATIENCE;
    while from.sent(Pair::FIRST).is_some()
        || a.tx.reclaim() != 0
        || count(receiver, Counter::Delivered) < 9
    {
        assert!(Instant::now() < until);
    }
    assert_eq!((count(sender, Counter::DropPoison), count(sender, Counter::ToVm)), (1, 9));
    assert_eq!(
        (from.skip(RingId::TX), to.skip(RingId::RX), to.receiving(Pair::FIRST)),
        (None, None, None)
    );
    let written: Vec<_> = std::iter::from_fn(|| b.rx.queue.take_used()).map(|u| u.len).collect();
    let of = |len: usize| written.iter().filter(|l| **l as usize == len).count();
    // A virtio-net header is before each frame; the buffer that was left out comes back empty.
    assert_eq!((of(12 + datagrams[0].len()), of(0)), (9, 1), "{written:?}");
    worker.shut_down();
}

#[test]
fn what_comes_for_a_quarantined_port_is_dropped_by_name_until_it_is_released() {
    let (state, worker) = world();
    let suspicion = PortSuspicion::of(&state, PortId(2));
    suspicion.set_quarantine(Quarantine::Sending(Pair::FIRST, 0));
    let (mut a, mut b) =
        (Vm::<DriverQueue>::attach(&worker, 1), Vm::<DriverQueue>::attach(&worker, 2));
    // Its front end's rings are withheld by the doors.
    for side in RingId::FIRST {
        worker.stop(PortId(2), side);
    }
    let dropped = || Counters::of(&state, Owner::Port(PortId(2))).get(Counter::RxPortQuarantined);
    let frame = a.udp(b.address, b"first");
    a.send(&frame);
    let until = Instant::now() + PATIENCE;
    while dropped() == 0 {
        assert!(Instant::now() < until);
    }
    assert!(suspicion.release().is_some());
    worker.release_port(PortId(2)).unwrap();
    b.start(&worker, PortId(2));
    let frame = a.udp(b.address, b"again");
    a.send(&frame);
    assert_eq!(b.receive()[42..47], *b"again");
    assert_eq!(dropped(), 1);
    worker.shut_down();
}

#[test]
fn a_successor_goes_on_in_packed_rings_where_the_worker_before_it_stood() {
    let (state, mut worker) = world();
    let mut a = Vm::<PackedQueue>::attach(&worker, 1);
    let mut b = Vm::<PackedQueue>::attach(&worker, 2);
    for n in 0..600u32 {
        let frame = a.udp(b.address, &n.to_be_bytes());
        a.send(&frame);
        assert_eq!(b.receive()[42..46], n.to_be_bytes());
        a.tx.reclaim();
        // Not at the same place of the ring: 256 descriptors, and advertisements between.
        if n % 37 == 0 {
            worker.shut_down();
            worker = world_over(&state, 1, Box::new(|_| {}));
            for (id, vm) in [(1, &a), (2, &b)] {
                vm.set_up(&worker, id);
                vm.start(&worker, PortId(id));
            }
        }
    }
    worker.shut_down();
}
