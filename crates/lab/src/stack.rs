//! A small VM: a TCP/IP stack of somebody else (smoltcp) on a driver of ours.
//!
//! # Theory of operation
//! ```text
//!  test ── Job ──> thread: smoltcp ── DriverPort ══ the port
//! ```
//! The stack has the VM's addresses as a guest would have learned them: IPv4 with its prefix and
//! the LAN's router, IPv6 as a single address behind fe80::1. It answers ARP, neighbour
//! solicitations and echo requests by itself, and gives back over TCP port [`ECHO`] whatever it is
//! sent. [`Stack::transfer`] connects to such a service elsewhere, [`Stack::ping`] asks for an echo,
//! [`Stack::ask_by_tcp`] a name server by TCP.
//!
//! The other side of a transfer, where a kernel's stack runs, is [`serve`] and [`transfer`].

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpCidr, IpListenEndpoint,
};

use crate::driver::DriverPort;
use crate::error::{Attempt, LabError, Result};
use crate::frames::{ARP, Mac, pattern};
use crate::netns::Netns;

/// TCP port that gives back what it gets.
pub const ECHO: u16 = 7;
/// How long a job may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long the thread rests when nothing happens.
const REST: Duration = Duration::from_micros(200);
/// Octets of each direction's buffer of a connection.
const BUFFER: usize = 64 * 1024;
/// Marks our echo requests.
const IDENT: u16 = 0x1b9;

/// What a VM's stack is to have.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The IPv4 router.
    pub router: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
}

/// What the thread is asked to do; it answers when that is done.
enum Job {
    Transfer(SocketAddr, usize, Sender<Result<()>>),
    Ping(IpAddr, Sender<Result<()>>),
    Ask(SocketAddr, Vec<u8>, Sender<Result<()>>, Arc<Mutex<Vec<u8>>>),
}

/// The VM. It goes when this is dropped.
pub struct Stack {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Stack {
    /// Starts a stack on a driver that is attached. The driver must leave no work to the device and
    /// take none.
    pub fn start(port: DriverPort, mac: Mac, address: Address) -> Result<Self> {
        let (jobs, asked) = channel();
        let thread = std::thread::Builder::new()
            .name("stack".to_owned())
            .spawn(move || Machine::new(port, mac, address).run(&asked))
            .attempt(|| "start a thread".to_owned())?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    fn ask(&self, make: impl FnOnce(Sender<Result<()>>) -> Job) -> Result<()> {
        let gone = || LabError::Unexpected("the stack's thread has ended".to_owned());
        let (answer, answered) = channel();
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(make(answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Connects to an echo service, sends so many octets and takes the same back.
    pub fn transfer(&self, to: SocketAddr, octets: usize) -> Result<()> {
        self.ask(|answer| Job::Transfer(to, octets, answer))
    }

    /// Sends a message behind its length, and gives the one that comes back.
    pub fn ask_by_tcp(&self, to: SocketAddr, message: &[u8]) -> Result<Vec<u8>> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let length = (message.len() as u16).to_be_bytes();
        let octets = [&length, message].concat();
        self.ask(|answer| Job::Ask(to, octets, answer, heard.clone()))?;
        let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(heard[2..].to_vec())
    }

    /// Sends an echo request and waits for its reply.
    pub fn ping(&self, to: IpAddr) -> Result<()> {
        self.ask(|answer| Job::Ping(to, answer))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An address beside a router outside the VM's prefix. smoltcp believes an ARP reply only from an
/// address on a link of its own, so it gets this one too; but it must ask in its own name, as Linux
/// does, and [`Going`] sees to that.
const BESIDE: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 254);

/// The driver as smoltcp sees a device, with the VM's IPv4 address.
struct Card(DriverPort, Ipv4Addr);

struct Came(Vec<u8>);

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Going<'a>(&'a mut Card);

impl TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        let Card(port, own) = self.0;
        if frame.get(12..14) == Some(&ARP.to_be_bytes()) && frame[28..32] == BESIDE.octets() {
            frame[28..32].copy_from_slice(&own.octets());
        }
        // A full ring loses a frame, as on any card.
        let _ = port.send_plain(&frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Came;
    type TxToken<'a> = Going<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Came, Going<'_>)> {
        let (_, frame) = self.0.receive(Duration::ZERO).ok()??;
        Some((Came(frame), Going(self)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Going<'_>> {
        Some(Going(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities.checksum.tcp = Checksum::Both;
        capabilities
    }
}

/// A job under way.
enum Work {
    Transfer { socket: SocketHandle, sent: usize, received: usize, octets: usize },
    Ping { socket: SocketHandle, to: IpAddr, sent: bool },
    Ask { socket: SocketHandle, message: Vec<u8>, heard: Arc<Mutex<Vec<u8>>> },
}

struct Machine {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    service: SocketHandle,
    started: Instant,
    next_port: u16,
}

fn connection() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

impl Machine {
    fn new(port: DriverPort, mac: Mac, address: Address) -> Self {
        let mut card = Card(port, address.v4);
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        let mut interface = Interface::new(config, &mut card, StackInstant::ZERO);
        interface.update_ip_addrs(|own| {
            for (ip, prefix) in [
                (IpAddr::V4(address.v4), address.prefix),
                (IpAddr::V6(address.v6), 128),
                (IpAddr::V6(link_local(mac)), 64),
            ] {
                let _ = own.push(IpCidr::new(IpAddress::from(ip), prefix));
            }
            if address.prefix == 32 {
                let _ = own.push(IpCidr::new(IpAddress::from(BESIDE), 16));
            }
        });
        let routes = interface.routes_mut();
        let _ = routes.add_default_ipv4_route(address.router);
        let _ = routes.add_default_ipv6_route(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
        let mut sockets = SocketSet::new(Vec::new());
        let service = sockets.add(connection());
        Self { card, interface, sockets, service, started: Instant::now(), next_port: 49_152 }
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let (mut work, answer) = match jobs.try_recv() {
                Ok(Job::Transfer(to, octets, answer)) => (self.connect(to, octets), answer),
                Ok(Job::Ping(to, answer)) => (self.begin_ping(to), answer),
                Ok(Job::Ask(to, message, answer, heard)) => {
                    (Work::Ask { socket: self.open(to), message, heard }, answer)
                }
                Err(TryRecvError::Empty) => {
                    self.turn();
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
            };
            let end = Instant::now() + LIMIT;
            let result = loop {
                self.turn();
                match self.carry_on(&mut work) {
                    Some(result) => break result,
                    None if Instant::now() >= end => {
                        let what = "the end of the VM's job".to_owned();
                        break Err(LabError::Timeout { what, limit: LIMIT });
                    }
                    None => {}
                }
            };
            let (Work::Transfer { socket, .. }
            | Work::Ping { socket, .. }
            | Work::Ask { socket, .. }) = work;
            self.sockets.remove(socket);
            let _ = answer.send(result);
        }
    }

    fn turn(&mut self) {
        let now = StackInstant::from_micros(self.started.elapsed().as_micros() as i64);
        let polled = self.interface.poll(now, &mut self.card, &mut self.sockets);
        self.serve();
        if polled == smoltcp::iface::PollResult::None {
            std::thread::sleep(REST);
        }
    }

    /// Gives back what the service was sent.
    fn serve(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.service);
        if !socket.is_open() {
            let _ = socket.listen(IpListenEndpoint::from(ECHO));
            return;
        }
        while socket.can_recv() && socket.can_send() {
            let room = socket.send_capacity() - socket.send_queue();
            let mut octets = vec![0; room.min(16 * 1024)];
            let Ok(count) = socket.recv_slice(&mut octets) else { break };
            if !matches!(socket.send_slice(&octets[..count]), Ok(sent) if sent == count) {
                break;
            }
        }
        if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
            socket.close();
        }
    }

    fn connect(&mut self, to: SocketAddr, octets: usize) -> Work {
        Work::Transfer { socket: self.open(to), sent: 0, received: 0, octets }
    }

    fn open(&mut self, to: SocketAddr) -> SocketHandle {
        let mut socket = connection();
        self.next_port = self.next_port.checked_add(1).unwrap_or(49_152);
        let remote = (IpAddress::from(to.ip()), to.port());
        let _ = socket.connect(self.interface.context(), remote, self.next_port);
        self.sockets.add(socket)
    }

    fn begin_ping(&mut self, to: IpAddr) -> Work {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        let _ = socket.bind(icmp::Endpoint::Ident(IDENT));
        Work::Ping { socket: self.sockets.add(socket), to, sent: false }
    }

    fn carry_on(&mut self, work: &mut Work) -> Option<Result<()>> {
        match work {
            Work::Transfer { socket, sent, received, octets } => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*socket);
                if *received == *octets {
                    use tcp::State::{Closed, FinWait2, TimeWait};
                    socket.close();
                    return matches!(socket.state(), Closed | FinWait2 | TimeWait)
                        .then_some(Ok(()));
                }
                if socket.state() == tcp::State::Closed {
                    let text = format!("connection refused or reset after {received} octets");
                    return Some(Err(LabError::Unexpected(text)));
                }
                while *sent < *octets && socket.can_send() {
                    let content = slice_of_pattern(*sent, (*octets - *sent).min(16 * 1024));
                    *sent += socket.send_slice(&content).unwrap_or(0);
                }
                while socket.can_recv() {
                    let mut content = vec![0; 16 * 1024];
                    let count = socket.recv_slice(&mut content).unwrap_or(0);
                    if content[..count] != slice_of_pattern(*received, count) {
                        let text = format!("other octets than sent, after {received}");
                        return Some(Err(LabError::Unexpected(text)));
                    }
                    *received += count;
                }
                None
            }
            Work::Ask { socket, message, heard } => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*socket);
                if socket.state() == tcp::State::Closed {
                    let text = "connection refused or reset".to_owned();
                    return Some(Err(LabError::Unexpected(text)));
                }
                if socket.can_send() {
                    let sent = socket.send_slice(message).unwrap_or(0);
                    message.drain(..sent);
                }
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                while socket.can_recv() {
                    let mut content = vec![0; 16 * 1024];
                    let count = socket.recv_slice(&mut content).unwrap_or(0);
                    heard.extend(&content[..count]);
                }
                let length = heard.first_chunk().map(|l| usize::from(u16::from_be_bytes(*l)));
                let whole = length.is_some_and(|length| heard.len() == 2 + length);
                whole.then(|| {
                    socket.abort();
                    Ok(())
                })
            }
            Work::Ping { socket, to, sent } => {
                let socket = self.sockets.get_mut::<icmp::Socket<'_>>(*socket);
                if !*sent && socket.can_send() {
                    *sent = send_echo(socket, *to, &self.interface);
                }
                while let Ok((_, from)) = socket.recv() {
                    if IpAddr::from(from) == *to {
                        return Some(Ok(()));
                    }
                }
                None
            }
        }
    }
}

fn send_echo(socket: &mut icmp::Socket<'_>, to: IpAddr, interface: &Interface) -> bool {
    let (data, checks) = (pattern(32), smoltcp::phy::ChecksumCapabilities::default());
    let remote = IpAddress::from(to);
    match to {
        IpAddr::V4(_) => {
            let echo = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: 1, data: &data };
            let Ok(room) = socket.send(echo.buffer_len(), remote) else { return false };
            echo.emit(&mut Icmpv4Packet::new_unchecked(room), &checks);
        }
        IpAddr::V6(to) => {
            let echo = Icmpv6Repr::EchoRequest { ident: IDENT, seq_no: 1, data: &data };
            let Ok(room) = socket.send(echo.buffer_len(), remote) else { return false };
            let from = interface.get_source_address_ipv6(&to);
            echo.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(room), &checks);
        }
    }
    true
}

fn slice_of_pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|i| (i % 251) as u8).collect()
}

/// Serves echo over TCP at `address` inside a namespace, for one connection.
pub fn serve(space: &Netns, address: SocketAddr) -> Result<JoinHandle<std::io::Result<u64>>> {
    let listener = space.enter(|| TcpListener::bind(address))?;
    let listener = listener.attempt(|| format!("listen at {address} in {}", space.name()))?;
    let work = move || -> std::io::Result<u64> {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        let (mut from, mut to) = (stream.try_clone()?, stream);
        std::io::copy(&mut from, &mut to)
    };
    let thread = std::thread::Builder::new().name("echo".to_owned()).spawn(work);
    thread.attempt(|| "start a thread".to_owned())
}

/// Connects from inside a namespace to an echo service, sends so many octets and takes the same
/// back.
pub fn transfer(space: &Netns, to: SocketAddr, octets: usize) -> Result<()> {
    let what = || format!("a transfer from {} to {to}", space.name());
    let connected = space.enter(|| TcpStream::connect_timeout(&to, LIMIT))?.attempt(what)?;
    let work = || -> std::io::Result<bool> {
        connected.set_read_timeout(Some(LIMIT))?;
        connected.set_write_timeout(Some(LIMIT))?;
        let (mut out, mut back) = (connected.try_clone()?, connected);
        let content = slice_of_pattern(0, octets);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| out.write_all(&content));
            let mut came = vec![0; octets];
            back.read_exact(&mut came)?;
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(came == content)
        })
    };
    match work().attempt(what)? {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("{}: other octets came back", what()))),
    }
}
