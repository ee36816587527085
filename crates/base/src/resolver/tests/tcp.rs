//! DNS by TCP, with another stack as the guest's.

use datapath::answer::{BASE4, BASE6};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::super::stacks::{Stacks, Turned};
use super::super::wire::Wire;
use super::*;

/// A guest on port 0, the stacks, and a resolver that answers each question with so many octets.
struct Scene {
    link: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    stacks: Stacks,
    begun: Instant,
    now: Instant,
    answer: usize,
    questions: Vec<Vec<u8>>,
    next_port: u16,
}

impl Scene {
    fn set(answer: usize) -> Self {
        let mut link = Wire::new(1500);
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut link, StackInstant::ZERO);
        interface.update_ip_addrs(|own| {
            own.push(IpCidr::new(IpAddress::v4(203, 0, 113, 10), 32)).unwrap();
            own.push(IpCidr::new(IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 9), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(BASE4).unwrap();
        let now = Instant::now();
        let (sockets, stacks) = (SocketSet::new(Vec::new()), Stacks::new(now));
        let questions = Vec::new();
        let begun = now;
        Self { link, interface, sockets, stacks, begun, now, answer, questions, next_port: 2000 }
    }

    fn connect(&mut self, to: impl Into<IpAddress>) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 100_000]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        let to: IpAddress = to.into();
        socket.connect(self.interface.context(), (to, 53), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    fn guest(&mut self, socket: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    /// Carries everything to and fro for so long, a millisecond at a time.
    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now += Duration::from_millis(1);
            let at = (self.now - self.begun).as_millis() as i64;
            self.interface.poll(StackInstant::from_millis(at), &mut self.link, &mut self.sockets);
            let mut turned = Turned::default();
            for datagram in std::mem::take(&mut self.link.goes) {
                self.stacks.take(tag(0), &datagram, 1500, self.now, &mut turned);
            }
            self.stacks.poll(self.now, &mut turned);
            for (from, connection, question) in std::mem::take(&mut turned.questions) {
                assert_eq!(from, tag(0));
                let answer = vec![question[0]; self.answer];
                self.questions.push(question);
                self.stacks.answer(from, connection, &answer, self.now, &mut turned);
            }
            assert!(turned.questions.is_empty());
            assert!(turned.datagrams.iter().all(|(to, d)| *to == tag(0) && d.len() <= 1500));
            self.link.came.extend(turned.datagrams.into_iter().map(|(_, datagram)| datagram));
        }
    }

    fn hear(&mut self, socket: SocketHandle) -> Vec<u8> {
        let mut heard = vec![0; 200_000];
        let len = self.guest(socket).recv_slice(&mut heard).unwrap_or(0);
        heard.truncate(len);
        heard
    }
}

fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

#[test]
fn questions_are_answered_over_both_families_however_they_are_cut() {
    for (to, answer) in
        [(IpAddress::Ipv4(BASE4), 100), (IpAddress::Ipv6(BASE6), 65_535), (BASE4.into(), 20_000)]
    {
        let mut scene = Scene::set(answer);
        let socket = scene.connect(to);
        scene.run(5);
        assert_eq!(scene.guest(socket).state(), tcp::State::Established);
        let octets = [with_length(b"first"), with_length(b"second")].concat();
        let mut heard = Vec::new();
        for octet in octets {
            scene.guest(socket).send_slice(&[octet]).unwrap();
            scene.run(2);
            heard.extend(scene.hear(socket));
        }
        for _ in 0..100 {
            scene.run(5);
            heard.extend(scene.hear(socket));
        }
        assert_eq!(scene.questions, [b"first".to_vec(), b"second".to_vec()]);
        let expected =
            [with_length(&vec![b'f'; answer]), with_length(&vec![b's'; answer])].concat();
        assert!(heard == expected, "{to}: {} octets of {}", heard.len(), expected.len());

        scene.guest(socket).close();
        scene.run(50);
        assert_eq!(scene.stacks.len(), 0, "nothing is left behind");
        assert_eq!(scene.stacks.deadline(), None);
    }
}

#[test]
fn a_guest_has_some_connections_and_no_more_and_idle_ones_go() {
    let mut scene = Scene::set(10);
    let all: Vec<_> = (0..20).map(|_| scene.connect(BASE4)).collect();
    scene.run(200);
    let open = |scene: &mut Scene| {
        all.iter().filter(|s| scene.guest(**s).state() == tcp::State::Established).count()
    };
    assert_eq!(open(&mut scene), 8);
    let talks = all.iter().copied().find(|s| scene.guest(*s).may_send()).unwrap();
    for _ in 0..3 {
        scene.run(4000);
        scene.guest(talks).send_slice(&with_length(b"still here")).unwrap();
    }
    scene.run(100);
    assert_eq!(open(&mut scene), 1, "who asks is not idle");
    scene.run(11_000);
    assert_eq!((open(&mut scene), scene.stacks.len()), (0, 0));
}

#[test]
fn a_question_too_long_to_be_one_ends_its_connection() {
    let mut scene = Scene::set(10);
    let socket = scene.connect(BASE4);
    scene.run(5);
    scene.guest(socket).send_slice(&[0xff; 3000]).unwrap();
    scene.run(50);
    assert!(!scene.guest(socket).is_open());
    assert_eq!((scene.questions.len(), scene.stacks.len()), (0, 0));
}

#[test]
fn segments_of_no_connection_leave_nothing_behind() {
    let mut scene = Scene::set(10);
    let socket = scene.connect(BASE4);
    scene.run(5);
    let mut octets = 1u32;
    for n in 0..2000 {
        octets = octets.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut datagram = vec![0u8; 60];
        datagram[0] = [0x45, 0x60, 0x00, 0x4f][n % 4];
        datagram[9] = 6;
        datagram[(octets >> 16) as usize % 60] ^= octets as u8;
        scene.stacks.take(tag(n as u16 % 3), &datagram, 1500, scene.now, &mut Turned::default());
    }
    assert_eq!(scene.stacks.len(), 1, "that of the connection");
    scene.guest(socket).send_slice(&with_length(b"well?")).unwrap();
    scene.run(20);
    assert_eq!(scene.hear(socket), with_length(&[b'w'; 10]));
}
