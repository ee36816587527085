//! The two filters of a shared card.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use super::world::{
    World, arp_request, frame_in, icmp6, ip4, readable, readable_within, solicitation, sysctl,
};
use crate::names::NetworkId;
use crate::netlink::Direction;
use crate::state::StateMemory;
use crate::uplink::{Guard, GuardMaps, HostPath, PacketUplink, Received};

const NETWORK: NetworkId = NetworkId(0);
const VM4: &str = "203.0.113.10";
const VM6: &str = "2001:db8:1::10";
const SHORT: Duration = Duration::from_millis(150);

fn guarded(world: &World) -> (Guard, PacketUplink) {
    let guard = Guard::open("ipvisor:test:lan").unwrap();
    for host in ["203.0.113.1", "2001:db8:1::1"] {
        guard.add_host(host.parse().unwrap()).unwrap();
    }
    let state = StateMemory::create().unwrap().0;
    let filter = guard.socket_filter().unwrap();
    let uplink = PacketUplink::open(world.card.index, 60, &filter, &state, NETWORK).unwrap();
    (guard, uplink)
}

/// What the base got, as ethertypes and destinations.
fn got(uplink: &mut PacketUplink) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    readable_within(&*uplink, SHORT);
    while let Some(received) = uplink.next() {
        if let Received::Frame { bytes, .. } = received {
            frames.push(bytes.to_vec());
        }
    }
    uplink.release();
    frames
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    let [f, g] = from.to_be_bytes();
    let [t, u] = to.to_be_bytes();
    vec![f, g, t, u, 0, 12, 0, 0, b'p', b'i', b'n', b'g']
}

#[test]
fn the_hosts_own_traffic_does_not_reach_the_base_and_the_vms_does() {
    World::run(|world| {
        world.address();
        let (_guard, mut uplink) = guarded(world);
        let host = UdpSocket::bind("203.0.113.1:7000").unwrap();
        let host6 = UdpSocket::bind("[2001:db8:1::1]:7000").unwrap();
        world.outside(|_| {
            UdpSocket::bind("203.0.113.2:0").unwrap().send_to(b"x", "203.0.113.1:7000").unwrap();
            let six = UdpSocket::bind("[2001:db8:1::2]:0").unwrap();
            six.send_to(b"x", "[2001:db8:1::1]:7000").unwrap();
        });
        for socket in [&host, &host6] {
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 1, "the host's own still arrives");
        }
        let others: Vec<_> = got(&mut uplink)
            .into_iter()
            .filter(|f| !(f[12..14] == [8, 6] || (f[20] == 58 && (133..=137).contains(&f[54]))))
            .collect();
        assert_eq!(others, Vec::<Vec<u8>>::new(), "neighbour discovery only");

        let peer = world.peer();
        let datagram = frame_in(0x0800, &ip4("203.0.113.2", VM4, 17, &udp(1, 2)));
        peer.send(&datagram);
        assert_eq!(got(&mut uplink), [datagram]);
    });
}

#[test]
fn of_icmp6_to_the_host_the_base_gets_neighbour_discovery_only() {
    World::run(|world| {
        world.address();
        let (guard, mut uplink) = guarded(world);
        let peer = world.peer();
        let message = |kind: u8| {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            message.extend([0; 16]);
            frame_in(0x86dd, &icmp6("2001:db8:1::2", "2001:db8:1::1", &message))
        };
        for kind in [1, 128, 129, 132, 133, 134, 135, 136, 137, 138] {
            peer.send(&message(kind));
        }
        // What the two kernels say to each other meanwhile names a target; ours does not.
        let frames = got(&mut uplink);
        let kinds: Vec<_> = frames.iter().filter(|f| f[62..78] == [0; 16]).map(|f| f[54]).collect();
        assert_eq!(kinds, [133, 134, 135, 136, 137]);
        guard.remove_host("2001:db8:1::1".parse().unwrap()).unwrap();
        peer.send(&message(128));
        assert_eq!(got(&mut uplink).len(), 1, "the map is looked into while it changes");
    });
}

#[test]
fn a_datagram_for_a_vm_does_not_reach_a_host_that_forwards() {
    World::run(|world| {
        world.address();
        sysctl("ipv4/ip_forward", "1");
        sysctl("ipv6/conf/all/forwarding", "1");
        let (guard, mut uplink) = guarded(world);
        let state = StateMemory::create().unwrap().0;
        let mut path =
            HostPath::open(&mut world.netlink, "ipv-test", 1500, &state, NETWORK).unwrap();
        for vm in ["203.0.113.10/32", "2001:db8:1::10/128"] {
            world.netlink.replace_route(vm.parse().unwrap(), path.index(), None).unwrap();
        }
        let peer = world.peer();
        let frames = [
            frame_in(0x0800, &ip4("203.0.113.2", VM4, 253, &[0; 20])),
            frame_in(0x86dd, &icmp6("2001:db8:1::2", VM6, &[128, 0, 0, 0, 0, 0, 0, 0])),
        ];
        let mut buffer = [0; 2000];
        let mut forwarded = |path: &mut HostPath| {
            let mut count = 0;
            while readable_within(&*path, SHORT) {
                if path.next(&mut buffer).unwrap().is_some_and(|_| buffer[0] >> 4 == 4)
                    || buffer[40] == 128
                {
                    count += 1;
                }
                path.done();
            }
            count
        };
        // Without the guard the host's stack forwards both.
        frames.iter().for_each(|f| peer.send(f));
        assert_eq!(forwarded(&mut path), 2);
        got(&mut uplink);

        guard.add_vm("203.0.113.10/32".parse().unwrap()).unwrap();
        guard.add_vm("2001:db8:1::/120".parse().unwrap()).unwrap();
        guard.attach(&mut world.netlink, world.card.index).unwrap();
        frames.iter().for_each(|f| peer.send(f));
        assert_eq!(forwarded(&mut path), 0);
        let seen = got(&mut uplink);
        assert!(frames.iter().all(|f| seen.contains(f)), "the base gets them");

        guard.remove_vm("203.0.113.10/32".parse().unwrap()).unwrap();
        frames.iter().for_each(|f| peer.send(f));
        assert_eq!(forwarded(&mut path), 1, "an address that left is the host's affair again");
    });
}

#[test]
fn the_host_does_not_answer_for_a_vms_address() {
    World::run(|world| {
        world.address();
        // A host that holds the addresses itself would answer for them.
        world.netlink.add_address(world.card.index, "203.0.113.10/24");
        world.netlink.add_address(world.card.index, "2001:db8:1::10/64");
        let (guard, mut uplink) = guarded(world);
        let peer = world.peer();
        let questions = [
            arp_request("203.0.113.2", VM4),
            arp_request("0.0.0.0", VM4),
            solicitation("2001:db8:1::2", VM6),
        ];
        let answers = |questions: &[Vec<u8>]| {
            let mut count = 0;
            for question in questions {
                peer.send(question);
                while let Some((_, frame)) = peer.receive_within(SHORT) {
                    let answer = (frame[12..14] == [8, 6] && frame[21] == 2)
                        || (frame[12..14] == [0x86, 0xdd] && frame[54] == 136);
                    count += u32::from(answer);
                }
            }
            count
        };
        assert_eq!(answers(&questions), 3, "without the guard");
        got(&mut uplink);
        guard.add_vm("203.0.113.10/32".parse().unwrap()).unwrap();
        guard.add_vm("2001:db8:1::10/128".parse().unwrap()).unwrap();
        guard.attach(&mut world.netlink, world.card.index).unwrap();
        assert_eq!(answers(&questions), 0, "with the guard");
        let seen = got(&mut uplink);
        assert!(questions.iter().all(|q| seen.contains(q)), "the base gets the questions");
        let own = [
            arp_request("203.0.113.2", "203.0.113.1"),
            solicitation("2001:db8:1::2", "2001:db8:1::1"),
        ];
        assert_eq!(answers(&own), 2, "the host answers for its own");
    });
}

fn names(world: &mut World) -> Vec<(u16, Option<String>)> {
    let mut found: Vec<_> = world
        .netlink
        .filters(world.card.index, Direction::Ingress)
        .unwrap()
        .into_iter()
        .filter(|f| f.handle != 0)
        .map(|f| (f.priority, f.name))
        .collect();
    found.sort();
    found
}

#[test]
fn the_guard_leaves_nothing_behind() {
    World::run(|world| {
        let (guard, _) = guarded(world);
        let index = world.card.index;
        guard.attach(&mut world.netlink, index).unwrap();
        assert!(world.netlink.has_clsact(index).unwrap());
        // A successor's program takes the place of the predecessor's.
        guard.attach(&mut world.netlink, index).unwrap();
        assert_eq!(names(world), [(2, Some("ipvisor:test:lan+clsact".into()))]);
        Guard::detach(&mut world.netlink, index, "ipvisor:test:lan").unwrap();
        assert!(!world.netlink.has_clsact(index).unwrap());
        Guard::detach(&mut world.netlink, index, "ipvisor:test:lan").unwrap();
    });
}

#[test]
fn foreign_filters_and_a_foreign_clsact_stay() {
    World::run(|world| {
        let (guard, uplink) = guarded(world);
        let index = world.card.index;
        let (foreign, _) = (Guard::open("foreign").unwrap(), uplink);
        assert!(world.netlink.add_clsact(index).unwrap());
        guard.attach(&mut world.netlink, index).unwrap();
        assert_eq!(names(world), [(1, Some("ipvisor:test:lan".into()))]);
        Guard::detach(&mut world.netlink, index, "ipvisor:test:lan").unwrap();
        assert!(world.netlink.has_clsact(index).unwrap(), "not ours");
        world.netlink.remove_clsact(index).unwrap();

        // Ours, but somebody else has moved in since.
        guard.attach(&mut world.netlink, index).unwrap();
        foreign.attach(&mut world.netlink, index).unwrap();
        Guard::detach(&mut world.netlink, index, "ipvisor:test:lan").unwrap();
        assert_eq!(names(world), [(2, Some("foreign".into()))]);
        guard.attach(&mut world.netlink, index).unwrap();
        assert_eq!(
            names(world),
            [(1, Some("ipvisor:test:lan".into())), (2, Some("foreign".into()))]
        );
        Guard::detach(&mut world.netlink, index, "ipvisor:test:lan").unwrap();
        assert_eq!(names(world), [(2, Some("foreign".into()))]);
    });
}

#[test]
fn maps_that_were_kept_are_taken_over_with_what_is_in_them() {
    World::run(|world| {
        let (guard, _) = guarded(world);
        let vms = ["2001:db8:1::10/128", "203.0.113.10/32", "203.0.113.64/26"];
        for vm in vms {
            guard.add_vm(vm.parse().unwrap()).unwrap();
            guard.add_vm(vm.parse().unwrap()).unwrap();
        }
        guard.remove_vm("198.51.100.1/32".parse().unwrap()).unwrap();
        let mut kept = guard
            .descriptors()
            .named()
            .map(|(name, fd)| (name, Some(fd.try_clone_to_owned().unwrap())));
        drop(guard);
        let maps = GuardMaps::find(|name| {
            kept.iter_mut().find(|(n, _)| *n == name).and_then(|(_, fd)| fd.take())
        });
        let guard = Guard::adopt(maps.unwrap(), "ipvisor:test:lan");
        let mut found: Vec<_> = guard.vms().unwrap().iter().map(|net| net.to_string()).collect();
        found.sort();
        assert_eq!(found, vms);
        let hosts = guard.hosts().unwrap();
        assert_eq!(
            hosts,
            ["203.0.113.1", "2001:db8:1::1"].map(|h| h.parse::<std::net::IpAddr>().unwrap())
        );
        guard.attach(&mut world.netlink, world.card.index).unwrap();
        assert!(guard.socket_filter().unwrap().as_fd().try_clone_to_owned().is_ok());
    });
}

#[test]
fn the_filter_of_a_kept_socket_can_be_replaced() {
    World::run(|world| {
        let (_, mut uplink) = guarded(world);
        let other = Guard::open("other").unwrap();
        uplink.set_filter(&other.socket_filter().unwrap()).unwrap();
        let datagram = frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.1", 253, &[0; 20]));
        world.peer().send(&datagram);
        assert!(readable(&uplink), "this filter knows of no host");
        assert_eq!(got(&mut uplink), [datagram]);
    });
}

#[test]
fn the_older_place_for_filters_serves_as_well() {
    World::run(|world| {
        let (guard, _) = guarded(world);
        let index = world.card.index;
        world.netlink.add_ingress(index);
        guard.attach(&mut world.netlink, index).unwrap();
        assert_eq!(names(world), [(1, Some("ipvisor:test:lan".into()))]);
        Guard::detach(&mut world.netlink, index, "ipvisor:test:lan").unwrap();
        assert_eq!(names(world), []);
    });
}
