//! The host as a neighbour.

use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use virtqueue::NetHeader;

use super::packet::large_send;
use super::world::{World, frame_in, ip4, readable, readable_within, sysctl};
use crate::answer::LastInch;
use crate::event::Event;
use crate::names::NetworkId;
use crate::state::StateMemory;
use crate::state::network::HostSlot;
use crate::uplink::{HostPath, Refusal};
use crate::worker::{self, NetworkSetup};

const NETWORK: NetworkId = NetworkId(0);
const NAME: &str = "ipv-test";

fn open(world: &mut World, state: &StateMemory) -> HostPath {
    world.address();
    let path = HostPath::open(&mut world.netlink, NAME, 1500, state, NETWORK).unwrap();
    for (vm, source) in
        [("203.0.113.10/32", "203.0.113.1"), ("2001:db8:1::10/128", "2001:db8:1::1")]
    {
        let source = Some(source.parse().unwrap());
        world.netlink.replace_route(vm.parse().unwrap(), path.index(), source).unwrap();
    }
    path
}

fn read(path: &mut HostPath) -> (NetHeader, Vec<u8>) {
    let mut buffer = vec![0; 70_000];
    assert!(readable(&*path), "a datagram in time");
    let found = path.next(&mut buffer).unwrap().unwrap();
    buffer.truncate(found.len);
    (found.header, buffer)
}

#[test]
fn host_and_vm_exchange_datagrams_under_the_hosts_address_on_the_card() {
    World::run(|world| {
        let mut path = open(world, &StateMemory::create().unwrap().0);
        let host = UdpSocket::bind("0.0.0.0:7000").unwrap();
        host.send_to(b"ping", "203.0.113.10:9").unwrap();
        let (_, datagram) = read(&mut path);
        assert_eq!(datagram[12..20], [203, 0, 113, 1, 203, 0, 113, 10]);
        assert_eq!(&datagram[28..], b"ping");
        path.done();

        let udp = [&[0, 9, 0x1b, 0x58, 0, 12, 0, 0][..], b"pong"].concat();
        let answer = ip4("203.0.113.10", "203.0.113.1", 17, &udp);
        path.send(NetHeader::default(), &answer).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 10];
        let (len, from) = host.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.to_string()), (&b"pong"[..], "203.0.113.10:9".into()));

        let host6 = UdpSocket::bind("[::]:7001").unwrap();
        host6.send_to(b"ping", "[2001:db8:1::10]:9").unwrap();
        let (_, datagram) = read(&mut path);
        assert_eq!(
            datagram[8..24],
            "2001:db8:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets()
        );
    });
}

#[test]
fn the_checksum_is_left_to_whoever_takes_the_datagram() {
    World::run(|world| {
        let mut path = open(world, &StateMemory::create().unwrap().0);
        let connecting = std::thread::scope(|_| {
            TcpStream::connect_timeout(
                &"203.0.113.10:80".parse().unwrap(),
                Duration::from_millis(50),
            )
        });
        assert!(connecting.is_err());
        let (header, datagram) = read(&mut path);
        assert_eq!(datagram[9], 6, "TCP");
        assert_eq!(header.flags, NetHeader::F_NEEDS_CSUM);
        assert_eq!((header.csum_start, header.csum_offset), (20, 16));
    });
}

#[test]
fn large_sends_stay_whole_both_ways() {
    World::run(|world| {
        let mut path = open(world, &StateMemory::create().unwrap().0);
        // The host forwards here, so that what it sends and gets is made by the test.
        sysctl("ipv4/ip_forward", "1");
        let peer = world.peer();
        let (header, datagram) = large_send("203.0.113.2", "203.0.113.10", 50_000);
        peer.send_with(header, &frame_in(0x0800, &datagram));
        let (seen, read) = read(&mut path);
        assert_eq!((read.len(), &read[20..]), (datagram.len(), &datagram[20..]));
        let kept = (NetHeader::GSO_TCPV4, 1448, 20, 16);
        assert_eq!((seen.gso_type, seen.gso_size, seen.csum_start, seen.csum_offset), kept);

        let (header, datagram) = large_send("203.0.113.10", "203.0.113.2", 50_000);
        path.send(NetHeader { csum_start: 20, hdr_len: 40, ..header }, &datagram).unwrap();
        loop {
            let (seen, frame) = peer.receive();
            if frame[12..14] == [8, 0] && frame[23] == 6 {
                assert_eq!((seen.gso_type, seen.gso_size), (NetHeader::GSO_TCPV4, 1448));
                assert!(frame[34..] == datagram[20..]);
                break;
            }
        }
    });
}

#[test]
fn the_device_has_no_address_of_its_own_and_says_nothing() {
    World::run(|world| {
        let mut path = open(world, &StateMemory::create().unwrap().0);
        let index = path.index();
        assert!(world.netlink.addresses().unwrap().iter().all(|a| a.index != index));
        let link = world.netlink.link(NAME).unwrap().unwrap();
        assert_eq!((link.index, link.mtu, link.up, link.mac), (index, 1500, true, None));
        assert_eq!(path.name(), NAME);
        assert!(!readable_within(&path, Duration::from_millis(300)));
        assert_eq!(path.next(&mut [0; 100]), Ok(None));
    });
}

#[test]
fn a_datagram_comes_again_until_it_is_done() {
    World::run(|world| {
        let (state, fd) = StateMemory::create().unwrap();
        let mut path = open(world, &state);
        let host = UdpSocket::bind("0.0.0.0:0").unwrap();
        host.send_to(b"one", "203.0.113.10:9").unwrap();
        host.send_to(b"two", "203.0.113.10:9").unwrap();
        let (header, first) = read(&mut path);
        assert_eq!(&first[28..], b"one");
        let kept = path.as_fd().try_clone_to_owned().unwrap();
        drop((path, state));

        let state = StateMemory::adopt(fd.as_fd()).unwrap();
        let mut path = HostPath::adopt(&mut world.netlink, kept, &state, NETWORK).unwrap();
        assert_eq!(read(&mut path), (header, first.clone()));
        // As if it had died before it could note the length.
        HostSlot::of(&state, NETWORK).publish(0, &[]);
        let kept = path.as_fd().try_clone_to_owned().unwrap();
        drop(path);
        let mut path = HostPath::adopt(&mut world.netlink, kept, &state, NETWORK).unwrap();
        assert_eq!(read(&mut path), (header, first));
        assert_eq!(path.name(), NAME);
        path.done();
        assert_eq!(&read(&mut path).1[28..], b"two");
        path.done();
        let mut buffer = [0; 100];
        assert_eq!(path.next(&mut buffer), Ok(None));
    });
}

#[test]
fn a_buffer_too_small_gets_the_length_and_nothing_else() {
    World::run(|world| {
        let mut path = open(world, &StateMemory::create().unwrap().0);
        let host = UdpSocket::bind("0.0.0.0:0").unwrap();
        host.send_to(&[7; 100], "203.0.113.10:9").unwrap();
        assert!(readable(&path));
        let mut buffer = [0; 100];
        assert_eq!(path.next(&mut buffer).unwrap().unwrap().len, 128);
        assert_eq!(buffer, [0; 100]);
    });
}

#[test]
fn a_device_that_is_down_refuses_by_name_and_a_name_that_is_taken_is_said() {
    World::run(|world| {
        let state = StateMemory::create().unwrap().0;
        let mut path = open(world, &state);
        world.netlink.set_link_up(path.index(), false).unwrap();
        let datagram = ip4("203.0.113.10", "203.0.113.1", 17, &[0; 20]);
        assert_eq!(path.send(NetHeader::default(), &datagram), Err(Refusal::Down));
        let error = HostPath::open(&mut world.netlink, NAME, 1500, &state, NETWORK).unwrap_err();
        assert_eq!(
            error.to_string(),
            "link ipv-test exists already: another network or program uses this name"
        );
        let index = path.index();
        drop(path);
        assert_eq!(
            world.netlink.link_by_index(index).unwrap(),
            None,
            "it goes with the descriptor"
        );
    });
}

#[test]
fn a_device_that_somebody_removes_is_told_once_and_costs_no_time() {
    World::run(|world| {
        let state = StateMemory::create().unwrap().0;
        let path = open(world, &state);
        let index = path.index();
        let (told, heard) = std::sync::mpsc::channel();
        let (worker, _) = worker::spawn(
            state,
            Box::new(move |event| {
                let _ = told.send(event);
            }),
        )
        .unwrap();
        let outward = LastInch::silent(1500);
        let setup = NetworkSetup { id: NETWORK, mtu: 1500, on_link: Vec::new(), outward };
        worker.add_network(setup).unwrap();
        worker.set_host(NETWORK, Some(path)).unwrap().unwrap();
        worker.serve().unwrap();
        world.netlink.remove_link(index);
        let second = Duration::from_secs(1);
        assert_eq!(heard.recv_timeout(second), Ok(Event::HostPathLost { network: NETWORK }));
        assert!(heard.recv_timeout(Duration::from_millis(50)).is_err());
        worker.shut_down();
    });
}
